"""Faster R-CNN, Mask R-CNN and RetinaNet on ResNets with a feature pyramid: torchvision's own networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN

from amlocal.compat import names
from amlocal.trainers.models import torchvision_weights
from amlocal.trainers.models.network import Network, Stages
from amlocal.trainers.models.torchvision_anchors import KeptAnchors
from amlocal.trainers.models.torchvision_backbone import FrozenNorm, backbone
from amlocal.trainers.models.torchvision_networks import MEAN, STD, Rcnn, Retina

TRAINED = "trained"
"""Key of `options` that is no hyperparameter: whether the caller puts trained weights into the network."""

_FROZEN_STAGES = 2
_RATIOS = (0.5, 1.0, 2.0)
_SIDES = (32, 64, 128, 256, 512)


def build(row: names.Model, classes: int, weights: Path | None, options: Mapping[str, Any]) -> Network:
    """Build a detector of `classes` labels and load `weights` (safetensors) when given.

    The file holds a whole detector (its head is left out: its classes are not the trial's) or a ResNet
    trained on ImageNet, which becomes the backbone; torchvision's tensor names. Of `options`
    box_score_threshold, nms_iou_threshold and box_detections_per_image say what `detect` answers. A caller
    that loads trained weights itself afterwards, as a trial that goes on from an earlier run does, sets
    `options["trained"]`: normalisation and stages are then frozen as with `weights`. Raises TrainingError
    when the file is no safetensors file or belongs to another network.

    Without trained weights nothing is frozen and normalisation learns, as in torchvision: a frozen
    normalisation of random weights normalises nothing, and frozen random stages learn nothing. With them
    normalisation keeps its statistics, since those of a batch of 2 are poor, and the stem and the first stage
    are frozen (Azure's default) until layers_to_freeze says otherwise.
    """
    trained = weights is not None or bool(options.get(TRAINED))
    module = _build(row, classes, FrozenNorm if trained else nn.BatchNorm2d, options)
    if weights is not None:
        torchvision_weights.load(module, row, weights)
    stages = _stages(module.backbone)
    for part in (part for stage in stages[:_FROZEN_STAGES] for part in stage):
        part.requires_grad_(not trained)
    return Network(module, MEAN, STD, stages)


def _build(row: names.Model, classes: int, norm: type[nn.Module], options: Mapping[str, Any]) -> Any:
    kind, name, _ = row.architecture.split("_")
    score = options.get("box_score_threshold", 0.3)
    overlap = options.get("nms_iou_threshold", 0.5)
    most = options.get("box_detections_per_image", 100)
    if kind == "retinanet":
        sides = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in _SIDES)
        return Retina(
            # Stage 1 would give most of the anchors, and they are of little use (RetinaNet's authors).
            backbone(name, norm, finest=2, coarse=True),
            classes,
            anchor_generator=KeptAnchors(sides, (_RATIOS,) * len(sides)),
            score_thresh=score,
            nms_thresh=overlap,
            detections_per_img=most,
        )
    rcnn = {"fasterrcnn": FasterRCNN, "maskrcnn": MaskRCNN}[kind]
    return Rcnn(
        rcnn(
            backbone(name, norm, finest=1, coarse=False),
            num_classes=classes + 1,
            rpn_anchor_generator=KeptAnchors(tuple((side,) for side in _SIDES), (_RATIOS,) * len(_SIDES)),
            box_score_thresh=score,
            box_nms_thresh=overlap,
            box_detections_per_img=most,
        )
    )


def _stages(backbone: Any) -> Stages:
    body = backbone.body
    return ((body.conv1, body.bn1), (body.layer1,), (body.layer2,), (body.layer3,), (body.layer4,))
