"""Networks from timm: building, the order of their stages, and weights with another head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from amlocal.compat import names
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import loading
from amlocal.trainers.models.network import Network, Stages

# timm starts the last normalisation of each residual block at zero; torchvision, whose networks Azure
# trains, does not. On 800 digits from random weights, timm's start stayed at an accuracy of 0.72 after 15
# epochs at 64 pixels; torchvision's reached 0.945 after 12 epochs at 48 pixels.
_RESIDUAL: dict[str, Any] = {"zero_init_last": False}
_OPTIONS = {"resnet": _RESIDUAL, "resnest": _RESIDUAL, "seresnext": _RESIDUAL}
_POSITIONS = "pos_embed"


def build(row: names.Model, classes: int, weights: Path | None, image_size: int) -> Network:
    """Build a network with a head for `classes`, and load `weights` (safetensors, timm's names) when given.

    A ViT is built for images of `image_size` pixels; the others take any size. Raises TrainingError when the
    file is no safetensors file or belongs to another network.
    """
    fixed = row.family == "vit"
    options = {"img_size": image_size} if fixed else _OPTIONS.get(row.family, {})
    module: Any = timm.create_model(row.architecture, pretrained=False, num_classes=classes, **options)
    config = module.pretrained_cfg
    if weights is not None:
        _load(module, row, weights, config["classifier"])
    return Network(
        module,
        tuple(config["mean"]),
        tuple(config["std"]),
        _STAGES[row.family](module),
        image_size if fixed else None,
    )


# The lists that layers_to_freeze counts along are those of Azure's reference for each family.


def _resnet(m: Any) -> Stages:
    return ((m.conv1, m.bn1), (m.layer1,), (m.layer2,), (m.layer3,), (m.layer4,))


def _mobilenet(m: Any) -> Stages:
    blocks = [(block,) for stage in m.blocks for block in stage]
    return ((m.conv_stem, m.bn1), *blocks, (m.conv_head, m.bn2))


def _vit(m: Any) -> Stages:
    return ((m.patch_embed,), *((block,) for block in m.blocks))


_STAGES = {"resnet": _resnet, "resnest": _resnet, "seresnext": _resnet, "mobilenet": _mobilenet, "vit": _vit}


def _load(module: Any, row: names.Model, path: Path, classifier: str | tuple[str, ...]) -> None:
    tensors = loading.read(path)
    if row.family == "vit":
        _resample(module, tensors)
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


def _resample(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Bring the position embedding to the network's grid of patches; one of another width stays and is
    refused with the rest."""
    own: Any = module
    found = tensors.get(_POSITIONS)
    if found is None or found.ndim != 3 or found.shape == own.pos_embed.shape:
        return
    prefix = own.num_prefix_tokens
    side = round((found.shape[1] - prefix) ** 0.5)
    if side * side == found.shape[1] - prefix and side:
        tensors[_POSITIONS] = resample_abs_pos_embed(
            found, new_size=list(own.patch_embed.grid_size), num_prefix_tokens=prefix
        )
