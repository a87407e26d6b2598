"""The package mmdet, imported with operators that need no compiler and without its talk, and its networks'
descriptions, made to fit a trial."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import mmdet_operators

_LATE = 1_000_000
_CONFIGS = ".mim/configs"
_SYNCHRONISED = ("SyncBN", "MMSyncBN")
"""Normalisation over all GPUs, which cannot run on one device alone."""


class Package(NamedTuple):
    """What is used of mmdet and mmengine."""

    folder: Path
    config: Any
    models: Any
    sample: Any
    instances: Any
    bitmaps: Any


@cache
def load() -> Package:
    """Import it. Raises TrainingError, naming the extra, where it is not installed or cannot be imported."""
    try:
        mmdet_operators.install()
        import mmdet
        import mmdet.models
        from mmdet.registry import MODELS
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        from mmengine.config import Config
        from mmengine.logging import MessageHub, MMLogger
        from mmengine.registry import init_default_scope
        from mmengine.structures import InstanceData
    except ImportError as error:
        raise TrainingError(
            "MMDetection's models need the packages mmdet and mmcv-lite: pip install 'amlocal[mmdet]' "
            f"({error})"
        ) from error
    # At INFO it writes a line for each weight that it draws.
    MMLogger.get_instance("mmengine", log_level="WARNING").setLevel(logging.WARNING)
    init_default_scope("mmdet")
    # A few heads learn otherwise in their first epochs, which their own runner counts. Ours does not tell
    # them: their beginning, meant for random weights, is over.
    hub = MessageHub.get_current_instance()
    hub.update_info("epoch", _LATE)
    hub.update_info("iter", _LATE)
    folder = Path(mmdet.__file__).parent / _CONFIGS
    return Package(folder, Config, MODELS, DetDataSample, InstanceData, BitmapMasks)


def description(config: str, classes: int, *, trained: bool) -> Any:
    """What a config of the zoo (a path below its folder, without .py) says of its network, for `classes`.

    Nothing in it downloads weights. Without `trained` weights nothing is frozen, and normalisation learns: a
    frozen stage of random weights learns nothing. Raises TrainingError.
    """
    package = load()
    path = package.folder / f"{config}.py"
    if not path.is_file():
        raise TrainingError(f"the installed mmdet has no {config}.py; 3.3.0 has it")
    model = package.config.fromfile(str(path)).model
    backbone = model.get("backbone")
    for part in _parts(model):
        if part.get("init_cfg") is not None and _downloads(part["init_cfg"]):
            part["init_cfg"] = None
        if isinstance(part.get("pretrained"), str):
            part["pretrained"] = None
        if part.get("type") in _SYNCHRONISED:
            part["type"] = "BN"
        if part is not backbone:
            _count(part, classes)
        if not trained:
            _thaw(part)
    return model


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield value
        for inner in list(value.values()):
            yield from _parts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _parts(inner)


def _downloads(given: Any) -> bool:
    several = given if isinstance(given, list | tuple) else [given]
    return any(isinstance(one, Mapping) and "checkpoint" in one for one in several)


def _count(part: Any, classes: int) -> None:
    """Put the number of classes wherever one stands."""
    for key in ("num_classes", "num_things_classes"):
        if isinstance(part.get(key), int):
            before, part[key] = part[key], classes
            for inner in _parts(part):
                weights = inner.get("class_weight")
                if isinstance(weights, list | tuple) and len(weights) == before + 1:
                    inner["class_weight"] = [*([weights[0]] * classes), weights[-1]]


def _thaw(part: Any) -> None:
    if "frozen_stages" in part:
        # This one counts from 0, the others from -1.
        part["frozen_stages"] = 0 if part.get("type") == "EfficientNet" else -1
    if "norm_eval" in part:
        part["norm_eval"] = False
    norm = part.get("norm_cfg")
    if isinstance(norm, Mapping) and norm.get("requires_grad") is False:
        norm["requires_grad"] = True  # type: ignore[index]
