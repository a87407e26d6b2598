"""yolov5's training images: mosaics of four, randomly scaled and mirrored, by Azure's numbers.

The four images meet in a random point of a grey canvas twice as wide and high as the result; the result is a
window round the canvas' middle, scaled by 0.5 (all of the canvas) to 1.5, mirrored with probability 1/2.
Colours stay as they are. Nothing here needs the package ultralytics.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch

from amlocal.trainers.data import affine
from amlocal.trainers.data.affine import Part, View
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.letterbox import STRIDE, placed
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.device import cpu_threads

_PARTNERS = 3


class Images(Protocol):
    """Half of the data set, as `detection_data.read` gives it."""

    def __len__(self) -> int: ...

    def get(self, which: Sequence[int]) -> list[tuple[int, Pixels, Objects]]:
        """Position, pixels and objects (in those pixels) of the images that can be read."""


@dataclass(frozen=True)
class _Drawn:
    """What was drawn for one result: the images in it, where they meet, its scale, and whether it is
    mirrored."""

    images: tuple[int, ...]
    meeting: tuple[float, float]
    scale: float
    mirror: bool


class YoloAugmentation:
    """Makes the items of a training batch.

        augmentation = YoloAugmentation(
            letterbox.network_side(parameters["image_size"]),
            mosaic=apply_mosaic_for_yolo,
            augment=apply_automl_train_augmentations,
            multi_scale=parameters["multi_scale"],
        )
        items = augmentation.batch(half, which, generator)  # -> list[tuple[Pixels, Objects]] for `collate`

    `size` is the side of every result in pixels, a multiple of 32. `mosaic`: four images in each result, else
    one, in the middle of a grey square. `augment`: random scale and mirror; without it the window has the
    canvas' own scale. `multi_scale`: each batch has a side of its own, from 0.5 to 1.5 times `size` in steps
    of 32. Images of any size are taken and brought to longest side = `size`; a cache with the geometry
    `detection_geometry.Longest(size)` has them so already.

    Validation and scoring need nothing of this: their images have the longest side `size`, and `collate` pads
    them with 114.
    """

    def __init__(self, size: int, *, mosaic: bool, augment: bool, multi_scale: bool) -> None:
        if size < STRIDE or size % STRIDE:
            raise ValueError(f"the side of yolov5's images must be a multiple of {STRIDE}, not {size}")
        self.size = size
        self._mosaic = mosaic
        self._augment = augment
        self._multi_scale = multi_scale
        threads = cpu_threads()
        self._pool = ThreadPoolExecutor(threads, "mosaic") if threads > 1 else None

    def batch(
        self, half: Images, which: Sequence[int], generator: torch.Generator
    ) -> list[tuple[Pixels, Objects]]:
        """One result per position in `which`, in that order, all (side, side, 3), with the objects in pixels
        of the result; boxes only.

        An image that cannot be read gives no result; where only others of its mosaic cannot be read, their
        places stay grey. All randomness comes from `generator`.
        """
        drawn = [self._draw(position, len(half), generator) for position in which]
        side = self._side(generator)
        wanted = sorted({image for one in drawn for image in one.images})
        found = {position: (pixels, objects) for position, pixels, objects in half.get(wanted)}
        drawn = [one for one in drawn if one.images[0] in found]

        def make(one: _Drawn) -> tuple[Pixels, Objects]:
            return self._make(one, found, side)

        return list(map(make, drawn) if self._pool is None else self._pool.map(make, drawn))

    def _draw(self, position: int, images: int, generator: torch.Generator) -> _Drawn:
        partners: tuple[int, ...] = ()
        meeting = (0.0, 0.0)
        if self._mosaic:
            partners = tuple(torch.randint(images, (_PARTNERS,), generator=generator).tolist())
            across, down = ((torch.rand(2, generator=generator) + 0.5) * self.size).tolist()
            meeting = (across, down)
        scale, mirror = 1.0, False
        if self._augment:
            scale = affine.random_scale(generator)
            mirror = bool(torch.rand((), generator=generator) < 0.5)
        return _Drawn((position, *partners), meeting, scale, mirror)

    def _side(self, generator: torch.Generator) -> int:
        if not self._multi_scale:
            return self.size
        steps = self.size // STRIDE
        low, high = max(1, -(-steps // 2)), steps * 3 // 2
        return int(torch.randint(low, high + 1, (), generator=generator)) * STRIDE

    def _make(
        self, one: _Drawn, found: dict[int, tuple[Pixels, Objects]], side: int
    ) -> tuple[Pixels, Objects]:
        if self._mosaic:
            parts = mosaic([found.get(image) for image in one.images], one.meeting, self.size)
            view = View(2 * self.size, one.scale, self.size)
        else:
            parts = [placed(*found[one.images[0]], self.size)]
            view = View(self.size, one.scale, self.size)
        pixels, objects = affine.painted(parts, view.resized(side)), affine.seen(parts, view)
        if side != self.size:
            objects = objects.moved((side / self.size, side / self.size))
        return affine.mirrored(pixels, objects) if one.mirror else (pixels, objects)


def mosaic(
    four: Sequence[tuple[Pixels, Objects] | None], meeting: tuple[float, float], size: int
) -> list[Part]:
    """Where four images lie that meet in one point of the canvas: left above it, right above it, left below,
    right below. The longest side of each becomes `size`; None leaves its place empty."""
    x, y = meeting
    parts = []
    for number, image in enumerate(four):
        if image is None:
            continue
        pixels, objects = image
        height, width = pixels.shape[:2]
        scale = size / max(height, width)
        left = x if number % 2 else x - width * scale
        top = y if number // 2 else y - height * scale
        parts.append(Part(pixels, objects, left, top, scale))
    return parts
