"""The names of MMDetection's model zoo, from mmdetection.toml: which can be trained, for what, and from which
config of the package mmdet."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from amlocal.compat.image_tasks import table

PREFIX = "mmd-3x-"
"""Before the names that Azure's registry has tested."""
_FILES = "https://download.openmmlab.com/mmdetection/"
_TASKS = ("image-object-detection", "image-instance-segmentation")


class Entry(NamedTuple):
    """One network of the zoo. `config` is a path below the zoo's folder in the package mmdet, without .py;
    `weights` the address of the published ones ("" where there are none); `parameters` millions, with a head
    for 3 labels. `refused` says why it cannot be trained here, "" where it can."""

    name: str
    task: str
    config: str
    weights: str
    parameters: float | None
    refused: str = ""


def entry(name: str) -> Entry | None:
    """The network that a model_name means, with or without Azure's prefix; None for a name of nothing in the
    zoo. A network may be named as the zoo's index does, in 3.3.0 or 3.1.0, or as its config."""
    if "/" in name:
        return None
    # The index has it at the end of a few names.
    plain = name.removeprefix(PREFIX).removesuffix(".py")
    return _entries().get(_aliases().get(plain, plain))


def zoo_names() -> tuple[str, ...]:
    """Every name of the zoo's index, also of the networks that are refused."""
    return tuple(_entries())


@cache
def _entries() -> dict[str, Entry]:
    found = {}
    for task in _TASKS:
        for name, (config, weights, parameters) in table("mmdetection.toml")[task].items():
            found[name] = Entry(name, task, config, f"{_FILES}{weights}" if weights else "", parameters)
    for name, reason in table("mmdetection.toml")["refused"].items():
        found[name] = Entry(name, "", "", "", None, reason)
    return found


@cache
def _aliases() -> dict[str, str]:
    """Names of configs, and what a few networks were called earlier."""
    configs = {one.config.rpartition("/")[2]: name for name, one in _entries().items() if one.config}
    own = _entries().keys()
    return {
        **{key: name for key, name in configs.items() if key not in own},
        **table("mmdetection.toml")["alias"],
    }
