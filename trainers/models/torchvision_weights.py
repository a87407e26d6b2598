"""Pretrained weights of torchvision's detectors: a whole detector, or a ResNet for its backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from amlocal.compat import names
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import loading
from amlocal.trainers.models.torchvision_networks import TorchvisionDetector
from amlocal.trainers.progress import say

_BODY = "backbone.body."
_CLASSIFIER = "fc."
_COUNTER = "num_batches_tracked"
_COCO = 91
_EPSILON = 1e-5


def load(module: TorchvisionDetector, row: names.Model, path: Path) -> None:
    """Put the tensors of a safetensors file into `module`, all but those of the last layers.

    Old names of torchvision's are understood, so its published files load once they are safetensors. Raises
    TrainingError when the file is no safetensors file or belongs to another network.
    """
    tensors = loading.read(path)
    whole = any(name.startswith(_BODY) for name in tensors)
    if whole:
        if is_coco_v1(row, tensors, module):
            _take_epsilon_into_weights(tensors)
        # The head is always new: the file's classes are not the trial's, even when their number agrees.
        usable = {name: tensor for name, tensor in tensors.items() if not name.startswith(module.heads)}
        needed = {name for name in module.state_dict() if not name.startswith(module.heads)}
    else:
        usable = {_BODY + name: t for name, t in tensors.items() if not name.startswith(_CLASSIFIER)}
        needed = {name for name in module.state_dict() if name.startswith(_BODY)}
    try:
        report = module.load_state_dict(usable, strict=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise TrainingError(f"{path} does not fit {row.name} ({row.architecture}): {reason}") from error
    missing = [name for name in report.missing_keys if name in needed and not name.endswith(_COUNTER)]
    alien = [name for name in report.unexpected_keys if not name.endswith(_COUNTER)]
    if missing or alien:
        raise TrainingError(
            f"{path} does not fit {row.name} ({row.architecture}): {len(missing)} tensors are missing and "
            f"{len(alien)} do not belong, e.g. {(missing + alien)[0]}"
        )
    if not whole:
        say(f"{path} holds a classifier: it becomes the backbone; the rest of {row.name} starts anew")


def is_coco_v1(row: names.Model, tensors: Mapping[str, Tensor], module: TorchvisionDetector) -> bool:
    """Whether it is one of the files that torchvision published before its normalisation had an epsilon."""
    layer, anchors = ("", 9) if row.family == "retinanet" else ("cls_score.", 1)
    head = tensors.get(f"{module.heads[0]}{layer}bias")
    return "_resnet50_" in row.architecture and head is not None and len(head) == anchors * _COCO


def _take_epsilon_into_weights(tensors: dict[str, Tensor]) -> None:
    """Change the normalisations' weights so that dividing by sqrt(variance + epsilon) gives what dividing by
    sqrt(variance) gave: the epsilon then is the same in every network, whatever it started from."""
    ending = "running_var"
    for name in [name for name in tensors if name.startswith(_BODY) and name.endswith(ending)]:
        variance = tensors[name].double()
        weight = name.removesuffix(ending) + "weight"
        if weight in tensors and tensors[weight].shape == variance.shape:
            factor = torch.where(variance > 0, (variance + _EPSILON) / variance, 1.0).sqrt()
            tensors[weight] = (tensors[weight].double() * factor).to(tensors[weight].dtype)
