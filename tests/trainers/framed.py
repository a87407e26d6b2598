"""Batches of painted rectangles with their boxes, labels and masks, for tests of detectors."""

from __future__ import annotations

import torch
from torch import Tensor

from amlocal.trainers.data.objects import Objects
from amlocal.trainers.models.torchvision_networks import MEAN, STD

Frames = tuple[Tensor, list[tuple[int, int]], list[Objects]]
_COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.2, 0.9]])
_RECTANGLES = (
    ([(10, 12, 50, 44)], [0]),
    ([(40, 30, 86, 80), (4, 4, 34, 36)], [1, 0]),
    ([(20, 40, 60, 90)], [1]),
    ([(50, 8, 90, 40), (8, 50, 40, 92)], [0, 1]),
)


def frames(number: int = 4, side: int = 96, sizes: tuple[tuple[int, int], ...] | None = None) -> Frames:
    """`number` images (at most 4) of red (label 0) and blue (1) rectangles on grey noise: normalised and
    padded to `side`, their sizes (default: all of `side`), and the objects with masks."""
    generator = torch.Generator().manual_seed(5)
    shown = list(sizes or [(side, side)] * number)
    images = torch.zeros(number, 3, side, side)
    targets = []
    for image, (height, width), (every, labels) in zip(images, shown, _RECTANGLES, strict=False):
        boxes = [[corner * min(height, width) // 96 for corner in box] for box in every]
        pixels = 0.5 + 0.1 * torch.rand(3, height, width, generator=generator)
        masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
        for mask, label, (left, top, right, bottom) in zip(masks, labels, boxes, strict=True):
            pixels[:, top:bottom, left:right] = _COLOURS[label].view(3, 1, 1)
            mask[top:bottom, left:right] = True
        image[:, :height, :width] = (pixels - _column(MEAN)) / _column(STD)
        crowd = torch.zeros(len(boxes), dtype=torch.bool)
        targets.append(Objects(torch.tensor(boxes).float(), torch.tensor(labels), crowd, None, masks))
    return images, shown, targets


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)


def nothing(side: int = 96) -> Objects:
    """The objects of a background image."""
    return Objects(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.bool),
        None,
        torch.zeros(0, side, side, dtype=torch.bool),
    )
