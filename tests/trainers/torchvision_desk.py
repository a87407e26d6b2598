"""torchvision's detectors as the tests build them, and torchvision's own beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, retinanet_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from amlocal.compat import names
from amlocal.trainers.models.network import Network
from amlocal.trainers.models.torchvision_detection import build

ROWS = [
    row
    for task in ("image-object-detection", "image-instance-segmentation")
    for row in names.models(task).values()
    if row.builder == "torchvision"
]
QUICK = ("fasterrcnn_resnet18_fpn", "retinanet_resnet50_fpn", "maskrcnn_resnet18_fpn")
NO_THRESHOLD = {"box_score_threshold": 0.0, "nms_iou_threshold": 0.5, "box_detections_per_image": 20}


def row_of(name: str) -> names.Model:
    return next(row for row in ROWS if row.name == name)


def built(name: str, classes: int = 2, weights: Path | None = None, **options: Any) -> Network:
    """Our network, always with the same random weights."""
    torch.manual_seed(0)
    return build(row_of(name), classes, weights, options)


def reference(name: str, classes: int = 2) -> Any:
    """torchvision's own network; its transform leaves images of 64 to 96 pixels as they are."""
    sizes = {"min_size": 64, "max_size": 96, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    thresholds = {"score_thresh": 0.0, "nms_thresh": 0.5, "detections_per_img": 20}
    if name.startswith("retinanet"):
        return retinanet_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=classes, **sizes, **thresholds
        )
    kind = FasterRCNN if name.startswith("faster") else MaskRCNN
    backbone = resnet_fpn_backbone(
        backbone_name=name.split("_")[1], weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    boxes = {f"box_{key}": value for key, value in thresholds.items()}
    return kind(backbone, num_classes=classes + 1, **sizes, **boxes)


def shaken(module: Any) -> Any:
    """The same network with other statistics in every normalisation, and with scores that are far apart."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_mean"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
            elif name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif name.endswith("cls_logits.weight"):
                tensor.mul_(20)
    return module


def quick(module: Any) -> Any:
    """The same network, learning from few objects at a time: its head is most of the work in small images."""
    if hasattr(module, "roi_heads"):
        module.roi_heads.fg_bg_sampler.batch_size_per_image = 16
    return module
