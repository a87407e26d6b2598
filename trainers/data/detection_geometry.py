"""Which pixels of an image detectors see: its size, and the objects moved along with it.

Detectors of torchvision's kind see an image with its short side `min_size` long, unless its long side would
be longer than `max_size`; YOLO sees it with its long side of one length. Training, validation and scoring
share these functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from amlocal.trainers.data import images
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.objects import Objects

Size = Callable[[int, int], tuple[int, int]]
"""Height and width that an image of this width and height is resized to."""

LEAST_SIDE = 0.01
"""Of a box, in pixels: no network can learn from less, and its logarithm is what they learn."""
MOST_MASK_PIXELS = 500_000_000
"""Of all objects of one image together; with more the image is reduced (Azure's rule)."""


def scaled(width: int, height: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Height and width when the short side becomes `min_size` or, where the long side would then be longer
    than `max_size`, the long side becomes `max_size`. The other side is rounded down, and never 0."""
    short, long = min(width, height), max(width, height)
    if min_size * long <= max_size * short:
        short, long = min_size, max(1, min_size * long // short)
    else:
        short, long = max(1, max_size * short // long), max_size
    return (short, long) if height <= width else (long, short)


def longest(width: int, height: int, size: int) -> tuple[int, int]:
    """Height and width when the long side becomes `size`; the other is rounded to the nearest."""
    long = max(width, height)
    return max(1, round(height * size / long)), max(1, round(width * size / long))


@dataclass(frozen=True)
class Resized:
    """The whole image between `min_size` and `max_size`, see `scaled`."""

    min_size: int
    max_size: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        return scaled(width, height, self.min_size, self.max_size)

    def pixels(self, image: Image.Image) -> Pixels:
        return _whole(image, self.size)


@dataclass(frozen=True)
class Longest:
    """The whole image with its long side `size` pixels long."""

    side: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        return longest(width, height, self.side)

    def pixels(self, image: Image.Image) -> Pixels:
        return _whole(image, self.size)


def _whole(image: Image.Image, size: Size) -> Pixels:
    decoded = images.decode(image)
    height, width = size(*decoded.size)
    if decoded.size != (width, height):
        decoded = decoded.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(decoded)


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """`pixels` at (height, width): bilinear with antialiasing, as Pillow does it."""
    if pixels.shape[:2] == tuple(size):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def fitted(pixels: Pixels, objects: Objects, size: tuple[int, int]) -> tuple[Pixels, Objects]:
    """An image and its objects resized to (height, width)."""
    height, width = pixels.shape[:2]
    if (height, width) == tuple(size):
        return pixels, objects
    return resized(pixels, size), objects.moved((size[1] / width, size[0] / height))


def mirrored(objects: Objects, width: int) -> Objects:
    """The objects of an image of this width once left and right are exchanged."""
    moved = objects.moved((-1.0, 1.0), (float(width), 0.0))
    return replace(moved, boxes=moved.boxes[:, [2, 1, 0, 3]])


def affordable(size: tuple[int, int], objects: Objects) -> tuple[int, int]:
    """`size`, or less where the masks of so many objects would take more than MOST_MASK_PIXELS."""
    wanted = len(objects) * size[0] * size[1]
    if objects.polygons is None or wanted <= MOST_MASK_PIXELS:
        return size
    by = math.sqrt(MOST_MASK_PIXELS / wanted)
    return max(1, int(size[0] * by)), max(1, int(size[1] * by))


def sound(objects: Objects, height: int, width: int) -> Objects:
    """With boxes cut at the edges of an image of this size, less the objects of which too little is left."""
    if not len(objects):
        return objects
    edge = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = objects.boxes.clamp(min=0).minimum(edge)
    large = ((boxes[:, 2:] - boxes[:, :2]) >= LEAST_SIDE).all(1)
    cut = replace(objects, boxes=boxes)
    return cut if bool(large.all()) else cut.pick(large)
