"""A detector of a few thousand weights, for tests of everything around a detector.

Each cell of 8 x 8 pixels says which label lies over its middle, and how far it is from there to the sides of
the object's box.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from amlocal.compat import names
from amlocal.trainers import registry
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.models.detector import Detections, Detector, Sizes
from amlocal.trainers.models.network import Network

REFERENCE = "tiny_detector:build"
_CELL = 8
_SCALE = 16.0
_MASK = 14


class Cells(Detector):
    """Fails on more than `most` images; `seen` has the number of images of each call."""

    stride = 16
    fill = (127.5, 127.5, 127.5)
    averaged = False

    def __init__(self, classes: int, score: float, overlap: float, *, masks: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU()),
        )
        self.labels = nn.Conv2d(32, classes, 1)
        self.sides = nn.Conv2d(32, 4, 1)
        nn.init.constant_(self.labels.bias, -2.0)
        self.score, self.overlap, self.masks, self.most = score, overlap, masks, 10_000
        self.seen: list[int] = []

    def losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Objects]) -> dict[str, Tensor]:
        logits, sides = self._answers(images)
        wanted, inside, distances = zip(*(self._goal(logits[0], t) for t in targets), strict=True)
        over = torch.stack(inside)
        label = F.binary_cross_entropy_with_logits(logits.float(), torch.stack(wanted))
        apart = F.l1_loss(sides.float(), torch.stack(distances), reduction="none").mean(1)
        return {"label": label, "box": (apart * over).sum() / over.sum().clamp(min=1)}

    def detect(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        logits, sides = self._answers(images)
        x, y = _middles(logits)
        left, top, right, bottom = (sides.float() * _SCALE).unbind(1)
        boxes = torch.stack((x - left, y - top, x + right, y + bottom), 3).flatten(1, 2)
        scores = logits.float().sigmoid().flatten(2).transpose(1, 2)
        return [self._one(*answer) for answer in zip(boxes, scores, sizes, strict=True)]

    def _answers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(len(images))
        if len(images) > self.most:
            raise MemoryError
        seen = self.body(images)
        return self.labels(seen), self.sides(seen)

    def _goal(self, logits: Tensor, objects: Objects) -> tuple[Tensor, Tensor, Tensor]:
        wanted = torch.zeros(logits.shape)
        inside = torch.zeros(logits.shape[1:])
        distances = torch.zeros(4, *logits.shape[1:])
        x, y = _middles(logits[None])
        for (left, top, right, bottom), label in zip(
            objects.boxes.tolist(), objects.labels.tolist(), strict=True
        ):
            here = ((x > left) & (x < right) & (y > top) & (y < bottom))[0]
            wanted[label][here] = 1.0
            inside[here] = 1.0
            apart = torch.stack((x - left, y - top, right - x, bottom - y), 1)[0] / _SCALE
            distances[:, here] = apart[:, here]
        return wanted, inside, distances

    def _one(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Detections:
        best, labels = scores.max(1)
        edge = torch.tensor([size[1], size[0]] * 2).float()
        boxes = boxes.clamp(min=0).minimum(edge)
        good = (best > self.score) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, best, labels = boxes[good], best[good], labels[good]
        kept = batched_nms(boxes, best, labels, self.overlap)
        masks = torch.ones(len(kept), _MASK, _MASK) if self.masks else None
        return Detections(boxes[kept], labels[kept], best[kept], masks)


def _middles(logits: Tensor) -> tuple[Tensor, Tensor]:
    height, width = logits.shape[-2:]
    x = ((torch.arange(width) + 0.5) * _CELL).expand(1, height, width)
    y = ((torch.arange(height) + 0.5) * _CELL)[:, None].expand(1, height, width)
    return x, y


def build(row: names.Model, classes: int, weights: Path | None, options: Mapping[str, Any]) -> Network:
    """In place of torchvision's builder. Stages for layers_to_freeze: four."""
    masks = row.architecture.startswith("maskrcnn")
    module = Cells(classes, options["box_score_threshold"], options["nms_iou_threshold"], masks=masks)
    stages = tuple((module.body[start], module.body[start + 1]) for start in range(0, 12, 3))
    return Network(module, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), stages)


def take_over(patch: Callable[[dict[str, str], str, str], None] = dict.__setitem__) -> None:
    """From now on, or for `monkeypatch.setitem`'s time, torchvision's models are of this kind."""
    patch(registry.BUILDERS, "torchvision", REFERENCE)
