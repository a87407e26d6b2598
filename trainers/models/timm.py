"""Networks from timm: building, the order of their stages, and weights with another head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from amlocal.compat import names
from amlocal.trainers.errors import TrainingError


@dataclass(frozen=True)
class Network:
    """A built classifier, the mean and deviation its inputs want, and its stages from input to output."""

    module: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stages: tuple[tuple[nn.Module, ...], ...]


# timm starts the last normalisation of each residual block at zero; torchvision, whose networks Azure
# trains, does not. On 800 digits from random weights, timm's start stayed at an accuracy of 0.72 after 15
# epochs at 64 pixels; torchvision's reached 0.945 after 12 epochs at 48 pixels.
_OPTIONS: dict[str, dict[str, Any]] = {"resnet": {"zero_init_last": False}}


def build(row: names.Model, classes: int, weights: Path | None) -> Network:
    """Build a network with a head for `classes`, and load `weights` (safetensors) when given.

    Raises TrainingError when the file is no safetensors file or belongs to another network.
    """
    module: Any = timm.create_model(
        row.architecture, pretrained=False, num_classes=classes, **_OPTIONS.get(row.family, {})
    )
    config = module.pretrained_cfg
    if weights is not None:
        _load(module, row, weights, config["classifier"])
    return Network(module, tuple(config["mean"]), tuple(config["std"]), _STAGES[row.family](module))


def _resnet(m: Any) -> tuple[tuple[nn.Module, ...], ...]:
    return ((m.conv1, m.bn1), (m.layer1,), (m.layer2,), (m.layer3,), (m.layer4,))


def _mobilenet(m: Any) -> tuple[tuple[nn.Module, ...], ...]:
    blocks = [(block,) for stage in m.blocks for block in stage]
    return ((m.conv_stem, m.bn1), *blocks, (m.conv_head, m.bn2))


_STAGES = {"resnet": _resnet, "mobilenet": _mobilenet}


def freeze(network: Network, layers: int | None) -> int:
    """Freeze the first `layers` stages and unfreeze the rest; None leaves all as they are. Returns how
    many."""
    if layers is None:
        return 0
    network.module.requires_grad_(True)
    frozen = network.stages[:layers]
    for stage in frozen:
        for part in stage:
            part.requires_grad_(False)
    return len(frozen)


def _load(module: nn.Module, row: names.Model, path: Path, classifier: str | tuple[str, ...]) -> None:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} is not a readable safetensors file: {error}") from error
    own = module.state_dict()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    is_head = tuple(f"{head}." for head in heads)
    # The head is always new: the file's classes are not the trial's, even when their number happens to agree.
    usable = {name: tensor for name, tensor in tensors.items() if not name.startswith(is_head)}
    missing = [
        n for n in own if n not in usable and not n.startswith(is_head) and "num_batches_tracked" not in n
    ]
    alien = [n for n in usable if n not in own or own[n].shape != usable[n].shape]
    if missing or alien:
        raise TrainingError(
            f"{path} does not fit {row.name} ({row.architecture}): {len(missing)} tensors are missing and "
            f"{len(alien)} do not belong or have another shape, e.g. {(missing + alien)[0]}"
        )
    module.load_state_dict(usable, strict=False)
