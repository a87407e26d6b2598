"""What the registry `azureml` of Azure Machine Learning publishes, as far as public sources say.

Read from curated_environments.toml and curated_models.toml. Nothing is guessed: contents that are not public
(lists of packages, layers of images) are left out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

REGISTRY = "azureml"
_PREFIX = "azureml-"


@dataclass(frozen=True, slots=True)
class CuratedEnvironment:
    """A curated environment. `image` is where Azure publishes it (empty: not known); it is never pulled here.

    `versions`: oldest first, only those that public sources name; `tags`: Azure's own tags of it.
    """

    name: str
    versions: tuple[str, ...]
    image: str
    description: str
    tags: Mapping[str, str]

    @property
    def latest(self) -> str:
        """The newest known version."""
        return self.versions[-1]


@dataclass(frozen=True, slots=True)
class CuratedModel:
    """A curated vision model. `model_name` is what an AutoML job calls it.

    `task` is the tag that Azure gives it, `sha` the commit on the Hugging Face hub or of MMDetection that it
    was made of. `versions`: oldest first.
    """

    name: str
    model_name: str
    task: str
    versions: tuple[str, ...]
    sha: str
    training_dataset: str
    license: str
    flavors: tuple[str, ...]

    @property
    def latest(self) -> str:
        """The newest known version."""
        return self.versions[-1]


@cache
def environments() -> Mapping[str, CuratedEnvironment]:
    """Every known curated environment by its name in the registry."""
    found = {}
    for name, row in _table("curated_environments.toml")["environment"].items():
        found[name] = CuratedEnvironment(
            name=name,
            versions=tuple(row["versions"]),
            image=row.get("image", ""),
            description=row["description"],
            tags=MappingProxyType(dict(row.get("tags", {}))),
        )
    return MappingProxyType(found)


@cache
def models() -> Mapping[str, CuratedModel]:
    """Every curated vision model by its name in the registry, in the order of Azure's own table."""
    found = {}
    for name, row in _table("curated_models.toml")["model"].items():
        lists = {key: tuple(row[key]) for key in ("versions", "flavors")}
        found[name] = CuratedModel(**{"name": name, **row, **lists})
    return MappingProxyType(found)


def environment(name: str) -> CuratedEnvironment | None:
    """The curated environment of a name in any case, with or without the `AzureML-` of older names."""
    return _environments_by_key().get(_key(name))


@cache
def _environments_by_key() -> Mapping[str, CuratedEnvironment]:
    return MappingProxyType({_key(name): row for name, row in environments().items()})


def _key(name: str) -> str:
    return name.lower().removeprefix(_PREFIX)


def _table(name: str) -> Mapping[str, Any]:
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
