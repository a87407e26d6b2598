"""Which pixels of an image training and validation keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from amlocal.trainers.data import images
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.samples import Region


class Geometry(Protocol):
    """Which pixels of an image are kept. Implementations are frozen dataclasses: their repr goes into the
    key of the cache."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of the result for an upright image."""

    def pixels(self, image: Image.Image) -> Pixels:
        """The result for an opened, not yet decoded image. Raises ImageError."""


@dataclass(frozen=True)
class Validation:
    """Exactly what validation and scoring feed to the network; see `images.for_validation`."""

    resize: int
    crop: int
    whole: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        return self.crop, self.crop

    def pixels(self, image: Image.Image) -> Pixels:
        return images.for_validation(images.decode(image), self.resize, self.crop, whole=self.whole)


@dataclass(frozen=True)
class Training:
    """The whole image, its short side reduced to `short` (at least twice the crop); small images stay as they
    are."""

    short: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        if min(width, height) > self.short:
            width, height = images.short_side_size(width, height, self.short)
        return height, width

    def pixels(self, image: Image.Image) -> Pixels:
        height, width = self.size(*images.upright_size(image))
        decoded = images.decode(image, at_least=self.short)
        if decoded.size != (width, height):
            decoded = decoded.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        return np.asarray(decoded)


@dataclass(frozen=True)
class OfRegion:
    """A region of an image, resized as `whole` would resize an image as large as the region. Its edges may
    run through pixels, and are as smooth as if the image had been cut after resizing."""

    whole: Geometry
    region: Region

    def size(self, width: int, height: int) -> tuple[int, int]:
        left, top, right, bottom = self.region
        return self.whole.size(max(1, round((right - left) * width)), max(1, round((bottom - top) * height)))

    def pixels(self, image: Image.Image) -> Pixels:
        decoded = images.decode(image)
        width, height = decoded.size
        left, top, right, bottom = self.region
        tall, wide = self.size(width, height)
        box = (left * width, top * height, min(right * width, width), min(bottom * height, height))
        return np.asarray(decoded.resize((wide, tall), Image.Resampling.BILINEAR, box=box))
