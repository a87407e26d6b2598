"""config.json and preprocessor_config.json of a Hugging Face model: read, checked, and nothing else run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from amlocal.compat.image_tasks import BadParameter, table

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
_LARGEST_BYTES = 8 * 2**20
"""A config with 21,841 class names in it has 1.6 MB."""
_LARGEST_SIDE = 4096

Three = tuple[float, float, float]


@dataclass(frozen=True)
class Facts:
    """What a network needs to be built: its numbers, input mean and deviation, input side in pixels."""

    architecture: str
    config: Mapping[str, Any]
    mean: Three
    std: Three
    image_size: int | None

    def takes(self, side: int) -> bool:
        """Whether the network can be fed images of `side` pixels."""
        if self.image_size in (None, side):
            return True
        return self.config.get("model_type") in table("models.toml")["huggingface"]["any_size"]

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes them."""
        return {
            "architecture": self.architecture,
            "config": dict(self.config),
            "mean": list(self.mean),
            "std": list(self.std),
            "image_size": self.image_size,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Facts:
        """Raises KeyError, TypeError or ValueError for what `to_json` did not write."""
        (m1, m2, m3), (s1, s2, s3) = value["mean"], value["std"]
        return cls(
            str(value["architecture"]),
            MappingProxyType(dict(value["config"])),
            (float(m1), float(m2), float(m3)),
            (float(s1), float(s2), float(s3)),
            value["image_size"],
        )


def read(folder: Path, name: str) -> Facts:
    """The model in `folder`. Raises BadParameter (of model_name `name`) saying what is missing or wrong."""
    config = _object(folder / CONFIG, name)
    if config is None:
        raise BadParameter(
            "model_name",
            name,
            f"a model whose {CONFIG} lies at {folder / CONFIG}; put the model's files there "
            f"({CONFIG}, {PREPROCESSOR}, model.safetensors), or use a model of the table",
        )
    architecture = _architecture(config, folder, name)
    preprocessor = _object(folder / PREPROCESSOR, name) or {}
    mean, std = _normalisation(preprocessor, folder, name)
    return Facts(architecture, MappingProxyType(_numbers(config)), mean, std, _side(config, folder, name))


def _numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are about the network: the classes are the trial's own, and the rest steers saving, other
    people's code or a hub."""
    dropped = table("models.toml")["huggingface"]["not_the_network"]
    return {
        key: _numbers(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in dropped
    }


def _object(path: Path, name: str) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadParameter("model_name", name, f"readable: {path}: {error.strerror}") from error
    if len(raw) > _LARGEST_BYTES:
        raise BadParameter("model_name", name, f"described by a smaller file than {path}")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadParameter("model_name", name, f"described by JSON; {path} is none: {error}") from error
    if not isinstance(value, dict):
        raise BadParameter("model_name", name, f"described by a JSON object; {path} is another thing")
    return value


def _architecture(config: Mapping[str, Any], folder: Path, name: str) -> str:
    kind, classes = config.get("model_type"), config.get("architectures")
    if not isinstance(kind, str) or not kind:
        raise BadParameter("model_name", name, f"one whose {folder / CONFIG} names a model_type")
    found = classes[0] if isinstance(classes, list) and classes else None
    if not isinstance(found, str) or "ForImageClassification" not in found:
        raise BadParameter(
            "model_name",
            name,
            f"an image classifier: architectures in {folder / CONFIG} must name a ...ForImageClassification "
            f"class of transformers, not {found!r}",
        )
    if config.get("num_channels", 3) != 3:
        raise BadParameter("model_name", name, f"a model of RGB images; {folder / CONFIG} has num_channels")
    return found


def _side(config: Mapping[str, Any], folder: Path, name: str) -> int | None:
    value = config.get("image_size")
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST_SIDE:
        allowed = f"one of square images of up to {_LARGEST_SIDE} pixels; {folder / CONFIG} says {value!r}"
        raise BadParameter("model_name", name, allowed)
    return value


def _normalisation(preprocessor: Mapping[str, Any], folder: Path, name: str) -> tuple[Three, Three]:
    if preprocessor.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    defaults = table("models.toml")["huggingface"]
    found = []
    for key, default in (("image_mean", defaults["mean"]), ("image_std", defaults["std"])):
        value = preprocessor.get(key, default)
        if not isinstance(value, list) or len(value) != 3 or not all(_positive(number) for number in value):
            allowed = f"one with three numbers from 0 to 1 as {key} in {folder / PREPROCESSOR}, not {value!r}"
            raise BadParameter("model_name", name, allowed)
        found.append((float(value[0]), float(value[1]), float(value[2])))
    return found[0], found[1]


def _positive(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 < number <= 1
