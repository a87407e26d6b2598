"""The objects of one image as tensors: what augmentation moves, networks learn and metrics compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor

from amlocal.compat.annotations import Annotation

Polygon = tuple[Tensor, ...]
"""The parts of one object, each (points, 2) float32: x and y in pixels. Overlapping parts cut holes."""

_BESIDE = 2
"""Pixels around a polygon that are drawn with it, so that rounding has room."""


@dataclass(frozen=True)
class Objects:
    """The objects of one image, in pixels of that image.

    `boxes` (n, 4) float32: left, top, right, bottom. `labels` (n,) int64 from 0. `crowd` (n,) bool: metrics
    skip the object. `polygons`: n of them in instance segmentation, None in detection. `masks` (n, height,
    width) bool, only where somebody asked for them.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    polygons: tuple[Polygon, ...] | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def pick(self, which: Tensor) -> Objects:
        """Those at `which`, a bool mask (n,) or positions."""
        positions = which.nonzero().flatten() if which.dtype == torch.bool else which
        polygons = self.polygons
        if polygons is not None:
            polygons = tuple(polygons[int(i)] for i in positions)
        masks = None if self.masks is None else self.masks[positions]
        return Objects(self.boxes[positions], self.labels[positions], self.crowd[positions], polygons, masks)

    def moved(self, scale: tuple[float, float], offset: tuple[float, float] = (0.0, 0.0)) -> Objects:
        """Every x times scale[0] plus offset[0], every y times scale[1] plus offset[1]."""
        by, plus = torch.tensor(scale), torch.tensor(offset)
        polygons = self.polygons
        if polygons is not None:
            polygons = tuple(tuple(part * by + plus for part in polygon) for polygon in polygons)
        boxes = self.boxes * by.repeat(2) + plus.repeat(2)
        return replace(self, boxes=boxes, polygons=polygons, masks=None)

    def rasterised(self, height: int, width: int) -> Objects:
        """The same with `masks` drawn from the polygons."""
        if self.polygons is None:
            return self
        found = np.zeros((len(self), height, width), dtype=bool)
        for polygon, mask in zip(self.polygons, found, strict=True):
            _draw(polygon, mask)
        return replace(self, masks=torch.from_numpy(found))

    def to(self, device: torch.device) -> Objects:
        """On another device; polygons stay where they are."""
        masks = None if self.masks is None else self.masks.to(device)
        return Objects(
            self.boxes.to(device), self.labels.to(device), self.crowd.to(device), self.polygons, masks
        )


def drawn(polygon: Polygon, height: int, width: int) -> np.ndarray:
    """(height, width) bool: parts drawn one by one, overlaps cut out (the rule of Azure's trainer)."""
    found = np.zeros((height, width), dtype=bool)
    _draw(polygon, found)
    return found


def _draw(polygon: Polygon, found: np.ndarray) -> None:
    """Draw into a mask without anything. Only the surroundings of the polygon are looked at: moved by whole
    pixels it covers the same ones, and most objects are far smaller than their image."""
    if not polygon:
        return
    points = torch.cat(polygon)
    low, high = (points.amin(0) - _BESIDE).clamp(min=0), points.amax(0) + _BESIDE
    (left, top), (right, bottom) = low.int().tolist(), high.ceil().int().tolist()
    window = found[top:bottom, left:right]
    if not window.size:
        return
    corner = torch.tensor([left, top], dtype=torch.float64)
    for part in polygon:
        codes = coco.frPyObjects([(part.double() - corner).flatten().tolist()], *window.shape)
        window ^= coco.decode(codes)[:, :, 0].astype(bool)


def objects(
    annotations: Sequence[Annotation], labels: Sequence[str], height: int, width: int, *, polygons: bool
) -> Objects:
    """The objects that a row of data names, for an image of this size. Raises KeyError for a label that is
    not in `labels`."""
    number = {label: position for position, label in enumerate(labels)}
    size = torch.tensor([width, height], dtype=torch.float32)
    boxes = torch.tensor([a.box for a in annotations], dtype=torch.float32).reshape(-1, 4) * size.repeat(2)
    parts = None
    if polygons:
        parts = tuple(
            tuple(torch.tensor(part, dtype=torch.float32).reshape(-1, 2) * size for part in a.polygon)
            for a in annotations
        )
    return Objects(
        boxes,
        torch.tensor([number[a.label] for a in annotations], dtype=torch.int64),
        torch.tensor([a.crowd for a in annotations], dtype=torch.bool),
        parts,
    )
