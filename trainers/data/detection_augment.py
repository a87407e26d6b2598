"""Augmentation of training images with objects, for every detector but YOLO.

Azure's recipe: with probability 1/2 either a random crop that keeps all objects or, as likely, the image
somewhere on a larger canvas of ImageNet's mean colour; then a mirror image with probability 1/2. Then the
image is resized for the network, in one step with the crop or the canvas. All randomness comes from the
generator given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

from amlocal.trainers.data.detection_geometry import Size, affordable, fitted, mirrored, resized, sound
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.device import cpu_threads

TRIES = 50
LEAST_AREA = 0.6
ASPECT = (0.5, 2.0)
"""Height over width of a crop, between these."""
LARGEST_CANVAS = 2.0
COLOUR = (124, 116, 104)
"""ImageNet's mean."""

Item = tuple[Pixels, Objects]


class Augmentation:
    """The whole recipe. `size`: what images are resized to, e.g. `Resized(600, 1333).size`; without `enabled`
    they are only resized."""

    def __init__(self, size: Size, *, enabled: bool = True) -> None:
        self._size = size
        self._enabled = enabled

    def __call__(self, pixels: Pixels, objects: Objects, generator: torch.Generator) -> Item:
        """An image (height, width, 3) uint8 and its objects, changed; the objects lie in the result, and
        those of which nothing is left are removed. What is given stays as it is."""
        if not self._enabled:
            return self._finished(*self._resized(pixels, objects), mirror=False)
        zoom, way, ratio, left, top, mirror = torch.rand(6, generator=generator).tolist()
        if zoom >= 0.5:
            pixels, objects = self._resized(pixels, objects)
        elif way < 0.5:
            pixels, objects = self._resized(*cropped(pixels, objects, generator))
        else:
            ratio = 1 + (LARGEST_CANVAS - 1) * ratio
            pixels, objects = expanded(pixels, objects, ratio, (left, top), self._size)
        return self._finished(pixels, objects, mirror=mirror < 0.5)

    def batch(self, items: Sequence[Item], generator: torch.Generator) -> list[Item]:
        """Each of `items` changed, on all CPUs; each draws from a generator of its own, which `generator`
        seeds."""
        seeds = torch.randint(2**62, (len(items),), generator=generator).tolist()

        def one(item: Item, seed: int) -> Item:
            return self(*item, torch.Generator().manual_seed(seed))

        if len(items) < 2:
            return [one(item, seed) for item, seed in zip(items, seeds, strict=True)]
        return list(_threads().map(one, items, seeds))

    def _resized(self, pixels: Pixels, objects: Objects) -> Item:
        height, width = pixels.shape[:2]
        return fitted(pixels, objects, affordable(self._size(width, height), objects))

    def _finished(self, pixels: Pixels, objects: Objects, *, mirror: bool) -> Item:
        height, width = pixels.shape[:2]
        if mirror:
            pixels, objects = np.ascontiguousarray(pixels[:, ::-1]), mirrored(objects, width)
        return pixels, sound(objects, height, width)


def expanded(pixels: Pixels, objects: Objects, ratio: float, place: tuple[float, float], size: Size) -> Item:
    """On a canvas `ratio` times as wide and high, and that at the size of a whole image. `place` (0 to 1)
    says where on it: (0, 0) is left and top."""
    height, width = pixels.shape[:2]
    canvas_size = size(max(1, round(width * ratio)), max(1, round(height * ratio)))
    tall, wide = affordable(canvas_size, objects)
    h, w = max(1, round(tall / ratio)), max(1, round(wide / ratio))
    left, top = int(place[0] * (wide - w + 1)), int(place[1] * (tall - h + 1))
    canvas: Pixels = np.empty((tall, wide, 3), dtype=np.uint8)
    canvas[:] = COLOUR
    canvas[top : top + h, left : left + w] = resized(pixels, (h, w))
    return canvas, objects.moved((w / width, h / height), (float(left), float(top)))


def cropped(pixels: Pixels, objects: Objects, generator: torch.Generator) -> Item:
    """A random part that keeps every object whole and at least LEAST_AREA of the image; the image itself when
    TRIES tries find none, when it has no objects, or when an object reaches beyond it."""
    height, width = pixels.shape[:2]
    box = crop_box(objects.boxes, height, width, generator)
    if box is None:
        return pixels, objects
    left, top, right, bottom = box
    return pixels[top:bottom, left:right], objects.moved((1.0, 1.0), (-float(left), -float(top)))


def crop_box(
    boxes: Tensor, height: int, width: int, generator: torch.Generator
) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of such a part, whole pixels; None when there is none."""
    if not len(boxes):
        return None
    x0, y0 = (math.floor(value) for value in boxes[:, :2].amin(0).tolist())
    x1, y1 = (math.ceil(value) for value in boxes[:, 2:].amax(0).tolist())
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        return None
    room = torch.tensor([x0, y0, width - x1, height - y1]) + 1
    moves = (torch.rand(TRIES, 4, generator=generator) * room).long()
    left, top = moves[:, 0], moves[:, 1]
    right, bottom = x1 + moves[:, 2], y1 + moves[:, 3]
    w, h = right - left, bottom - top
    large = w * h >= LEAST_AREA * width * height
    fits = (large & (h > ASPECT[0] * w) & (h < ASPECT[1] * w)).nonzero().flatten()
    if not len(fits):
        return None
    first = int(fits[0])
    return int(left[first]), int(top[first]), int(right[first]), int(bottom[first])


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cpu_threads(), thread_name_prefix="augment")
