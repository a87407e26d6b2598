"""Random crops of training images, resized: one by one on the CPU, a whole batch at once on a GPU.

A crop has 8 to 100 % of the area and an aspect of 3/4 to 4/3; it is resized bilinearly with antialiasing.
Which crop is drawn on the CPU for every device, so a seed gives the same crops everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from amlocal.trainers.data.batches import to_device
from amlocal.trainers.data.images import Pixels

AREA = (0.08, 1.0)
ASPECT = (3.0 / 4.0, 4.0 / 3.0)
_TRIES = 10
_STEP = 32
"""Padded batches are a multiple of this wide and high, so that few different sizes of memory are needed."""


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def crop_box(height: int, width: int, generator: torch.Generator) -> Box:
    """A random crop; after ten misfits the largest middle one of allowed aspect."""
    return crop_boxes([(height, width)], generator)[0]


def crop_boxes(sizes: Sequence[tuple[int, int]], generator: torch.Generator) -> list[Box]:
    """A random crop for each image of (height, width)."""
    draws = torch.rand(len(sizes), _TRIES, 4, generator=generator).tolist()
    return [_box(height, width, tries) for (height, width), tries in zip(sizes, draws, strict=True)]


def _box(height: int, width: int, tries: Sequence[Sequence[float]]) -> Box:
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    for area_draw, aspect_draw, top_draw, left_draw in tries:
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * area_draw)
        aspect = math.exp(low + (high - low) * aspect_draw)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w)
    ratio = width / height
    w, h = width, height
    if ratio < ASPECT[0]:
        h = round(width / ASPECT[0])
    elif ratio > ASPECT[1]:
        w = round(height * ASPECT[1])
    return Box((height - h) // 2, (width - w) // 2, h, w)


def sizes_of(images: Sequence[Pixels]) -> list[tuple[int, int]]:
    """Height and width of each image."""
    return [(image.shape[0], image.shape[1]) for image in images]


def random_resized_crops(images: Sequence[Pixels], size: int, generator: torch.Generator) -> Tensor:
    """One random crop of each image, (n, 3, size, size) uint8, on the CPU."""
    return resized_crops(images, crop_boxes(sizes_of(images), generator), size)


def resized_crops(images: Sequence[Pixels], boxes: Sequence[Box], size: int) -> Tensor:
    """The given part of each image, (n, 3, size, size) uint8, on the CPU."""
    out = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    for position, (image, box) in enumerate(zip(images, boxes, strict=True)):
        # A copy: mapped pixels are read-only, which a tensor cannot be.
        planes = torch.from_numpy(np.array(_cut(image, box))).permute(2, 0, 1).unsqueeze(0)
        if (box.height, box.width) != (size, size):
            planes = F.interpolate(planes, size=(size, size), mode="bilinear", antialias=True)
        out[position] = planes[0]
    return out


def _cut(image: Pixels, box: Box) -> Pixels:
    return image[box.top : box.top + box.height, box.left : box.left + box.width]


class DeviceCrops:
    """The same crops as a few operations on a whole batch on one device.

    The crops of a batch travel to the device side by side, padded to one size. Resizing along an axis is a
    product with a matrix of weights, which holds the antialiasing and the mirroring; it is computed in fp16
    on a GPU, where fp16 holds every grey level, and the results differ from the CPU's by two levels at most.
    """

    def __init__(self, size: int, device: torch.device, dtype: torch.dtype | None = None) -> None:
        self._size = size
        self._device = device
        self._dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)

    def __call__(self, images: Sequence[Pixels], generator: torch.Generator) -> Tensor:
        """One random crop of each image, (n, 3, size, size) uint8, on the device."""
        return self.resized(images, crop_boxes(sizes_of(images), generator))

    def resized(self, images: Sequence[Pixels], boxes: Sequence[Box], flips: Tensor | None = None) -> Tensor:
        """The given part of each image, mirrored where `flips` (n,) is true: (n, 3, size, size) uint8."""
        n, size = len(images), self._size
        padded = to_device(_side_by_side(images, boxes, pinned=self._device.type == "cuda"), self._device)
        height, width = padded.shape[1:3]
        numbers = torch.tensor([(box.height, box.width) for box in boxes], dtype=torch.float32)
        mirrored = torch.zeros(n) if flips is None else flips.float()
        facts = to_device(torch.cat((numbers, mirrored.view(n, 1)), 1), self._device)
        down = self._weights(facts[:, 0], height, None)
        across = self._weights(facts[:, 1], width, facts[:, 2])
        rows = torch.bmm(down, padded.to(self._dtype).view(n, height, width * 3))
        planes = rows.view(n, size, width, 3).permute(0, 3, 1, 2).reshape(n, 3 * size, width)
        found = torch.bmm(planes, across.transpose(1, 2))
        return found.round_().clamp_(0, 255).to(torch.uint8).view(n, 3, size, size)

    def _weights(self, lengths: Tensor, longest: int, mirrored: Tensor | None) -> Tensor:
        """(n, size, longest): how much each source pixel of the first `lengths` counts for each result.

        A triangle round the place of the result in the source, as wide as a result pixel is there, and never
        narrower than two source pixels.
        """
        place = torch.arange(self._size, device=self._device, dtype=torch.float32) + 0.5
        source = torch.arange(longest, device=self._device, dtype=torch.float32) + 0.5
        places = place.expand(len(lengths), -1)
        if mirrored is not None:
            places = torch.lerp(places, self._size - places, mirrored.view(-1, 1))
        scale = (lengths / self._size).view(-1, 1, 1)
        distance = (source - places.unsqueeze(2) * scale).abs_().div_(scale.clamp(min=1))
        weights = (1 - distance).clamp_(min=0)
        weights *= source < lengths.view(-1, 1, 1)
        return weights.div_(weights.sum(2, keepdim=True)).to(self._dtype)


def _side_by_side(images: Sequence[Pixels], boxes: Sequence[Box], *, pinned: bool) -> Tensor:
    """The parts of all images in one tensor (n, height, width, 3); what is beside them is not defined."""
    height = -(-max(box.height for box in boxes) // _STEP) * _STEP
    width = -(-max(box.width for box in boxes) // _STEP) * _STEP
    padded = torch.empty(len(images), height, width, 3, dtype=torch.uint8, pin_memory=pinned)
    target = padded.numpy()
    for position, (image, box) in enumerate(zip(images, boxes, strict=True)):
        target[position, : box.height, : box.width] = _cut(image, box)
    return padded
