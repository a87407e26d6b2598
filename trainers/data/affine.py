"""A window on a canvas of images, scaled about its middle: the geometry of yolov5's training images.

Azure's yolov5 draws a scale of 0.5 to 1.5 and neither turns, moves nor shears, so what is left of the affine
map is one number, and every image can be resized once, straight into the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.objects import Objects

FILL = 114
"""The grey between and around images."""
SCALE = 0.5
_SIDE, _AREA, _ASPECT = 2.0, 0.2, 20.0


@dataclass(frozen=True)
class Part:
    """One image on a canvas: its left and top edge there, and how many units of the canvas a pixel takes."""

    pixels: Pixels
    objects: Objects
    left: float
    top: float
    scale: float


@dataclass(frozen=True)
class View:
    """The square of `size` pixels round the middle of a canvas, a square with sides of `canvas` units; each
    unit takes `scale` pixels."""

    canvas: float
    scale: float
    size: int

    def place(self, x: float) -> float:
        """Where the canvas' coordinate `x` lies in the result, in pixels."""
        return (x - self.canvas / 2) * self.scale + self.size / 2

    def resized(self, size: int) -> View:
        """The same in another resolution."""
        return View(self.canvas, self.scale * size / self.size, size)


def random_scale(generator: torch.Generator) -> float:
    """Uniform from 1 - SCALE to 1 + SCALE."""
    return 1 - SCALE + 2 * SCALE * float(torch.rand((), generator=generator))


def painted(parts: Sequence[Part], view: View) -> Pixels:
    """The view's pixels (size, size, 3), grey where no part lies."""
    result = np.full((view.size, view.size, 3), FILL, np.uint8)
    for part in parts:
        _paint(result, part, view)
    return result


def _paint(result: Pixels, part: Part, view: View) -> None:
    height, width = part.pixels.shape[:2]
    across = _overlap(view.place(part.left), part.scale * view.scale, width, view.size)
    down = _overlap(view.place(part.top), part.scale * view.scale, height, view.size)
    if across is None or down is None:
        return
    (x0, x1, left, right), (y0, y1, top, bottom) = across, down
    image = Image.fromarray(part.pixels)
    found = image.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    result[y0:y1, x0:x1] = np.asarray(found)


def _overlap(start: float, scale: float, length: int, size: int) -> tuple[int, int, float, float] | None:
    """Which pixels of the result a part fills along one axis, and from which stretch of its own they come."""
    first, last = round(max(0.0, start)), round(min(float(size), start + length * scale))
    begin, end = max(0.0, (first - start) / scale), min(float(length), (last - start) / scale)
    return (first, last, begin, end) if last > first and end > begin else None


def seen(parts: Sequence[Part], view: View) -> Objects:
    """The objects that the view shows, cut at its edges; those of which too little is left are left out (see
    `worth_keeping`). Polygons and masks are dropped: yolov5 knows boxes only."""
    whole = together(
        [
            part.objects.moved((part.scale, part.scale), (part.left, part.top))
            for part in parts
            if len(part.objects)
        ]
    )
    before = (whole.boxes.clamp(0, view.canvas) - view.canvas / 2) * view.scale + view.size / 2
    after = before.clamp(0, view.size)
    return replace(whole, boxes=after).pick(worth_keeping(before, after))


def worth_keeping(before: Tensor, after: Tensor) -> Tensor:
    """Which boxes (n, 4) stay, as bool (n,): wider and higher than 2 pixels after the cut, more than 0.2 of
    the area before it, the longer side less than 20 times the shorter one (Azure's numbers)."""
    old, new = before[:, 2:] - before[:, :2], after[:, 2:] - after[:, :2]
    area = new.prod(1) / old.prod(1).clamp(min=1e-9)
    aspect = new.amax(1) / new.amin(1).clamp(min=1e-9)
    return (new > _SIDE).all(1) & (area > _AREA) & (aspect < _ASPECT)


def together(several: Sequence[Objects]) -> Objects:
    """The objects of several images as those of one, boxes only."""
    if not several:
        return Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    return Objects(
        torch.cat([found.boxes for found in several]),
        torch.cat([found.labels for found in several]),
        torch.cat([found.crowd for found in several]),
    )


def mirrored(pixels: Pixels, objects: Objects) -> tuple[Pixels, Objects]:
    """Left and right exchanged."""
    width = pixels.shape[1]
    boxes = objects.boxes.clone()
    boxes[:, [0, 2]] = width - objects.boxes[:, [2, 0]]
    return np.ascontiguousarray(pixels[:, ::-1]), replace(objects, boxes=boxes, polygons=None, masks=None)
