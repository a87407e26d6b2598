"""One detector of each family learns four painted images by heart: by Azure's own metric, not by its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from framed import frames
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision_desk import built as torchvision_network
from torchvision_desk import quick

from amlocal.compat import names
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.metrics import detection, masks, objects
from amlocal.trainers.models import yolo
from amlocal.trainers.models.detector import Detections, Detector
from amlocal.trainers.models.torchvision_networks import MEAN, STD

LABELS = ("red", "blue")


@dataclass(frozen=True)
class Family:
    """How many steps one of its networks needs, and how it is built: with a low threshold."""

    build: Callable[[], Detector]
    steps: int
    rate: float
    kind: detection.Kind = "bbox"
    normalised: bool = True
    side: int = 64


def _torchvision(name: str) -> Callable[[], Any]:
    return lambda: quick(
        torchvision_network(name, box_score_threshold=0.02, box_detections_per_image=10).module
    )


def _yolo() -> Any:
    torch.manual_seed(0)
    row = names.model("image-object-detection", "yolov5")
    return yolo.build(row, len(LABELS), None, {"model_size": "small", "box_score_threshold": 0.02}).module


FAMILIES = {
    "fasterrcnn_resnet18_fpn": Family(_torchvision("fasterrcnn_resnet18_fpn"), 40, 5e-4),
    "retinanet_resnet50_fpn": Family(_torchvision("retinanet_resnet50_fpn"), 80, 3e-4),
    "maskrcnn_resnet18_fpn": Family(_torchvision("maskrcnn_resnet18_fpn"), 40, 5e-4, "segm"),
    "yolov5": Family(_yolo, 40, 1e-3, normalised=False, side=96),
}


def batch(family: Family) -> tuple[Tensor, list[tuple[int, int]], list[Objects]]:
    images, sizes, targets = frames(4, family.side)
    if not family.normalised:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        images = images * std + mean
    return images, sizes, targets


def score(family: Family, found: list[Detections], targets: list[Objects]) -> float:
    """The lower one of VOC's and COCO's mAP at an IoU of 0.5, of masks where there are any."""
    by_masks = family.kind == "segm"
    truths = [
        objects.Truth(
            target.boxes.double().numpy(),
            target.labels.numpy(),
            target.crowd.numpy(),
            [masks.encoded(mask.numpy()) for mask in target.masks] if by_masks else None,
            family.side,
            family.side,
        )
        for target in targets
    ]
    seen = [objects.found(one, family.side, family.side, masks=by_masks) for one in found]
    result = detection.evaluate(truths, seen, LABELS, kind=family.kind, metric_type="coco_voc")
    return min(result.scalars["mean_average_precision"], result.coco["AP50"])  # type: ignore[index]


def answers(module: Detector, images: Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
    with torch.inference_mode():
        return list(module.eval()(images, sizes))


@pytest.mark.parametrize("name", FAMILIES)
def test_four_images_are_learned_by_heart_and_what_is_saved_answers_alike(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    module = family.build()
    images, sizes, targets = batch(family)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.2  # so that few steps are enough
    before = score(family, answers(module, images, sizes), targets)
    optimizer = torch.optim.AdamW(module.parameters(), lr=family.rate, fused=True)
    module.train()
    for _ in range(family.steps):
        optimizer.zero_grad(set_to_none=True)
        sum(module(images, sizes, targets).values()).backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_value_(module.parameters(), 5.0)
        optimizer.step()
    found = answers(module, images, sizes)
    assert before < 0.5
    assert score(family, found, targets) >= 0.9
    save_file({key: t.contiguous() for key, t in module.state_dict().items()}, tmp_path / "m.safetensors")
    again = family.build()
    again.load_state_dict(load_file(tmp_path / "m.safetensors"))
    for one, other in zip(found, answers(again, images, sizes), strict=True):
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)
        assert one.masks is None or torch.equal(one.masks, other.masks)
