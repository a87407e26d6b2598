"""Masks of objects: stretched from what a network puts out, and as COCO's run lengths for the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional

from amlocal.trainers.data.objects import Polygon, drawn

RLE = dict[str, Any]
"""COCO's compressed run lengths: {"size": [height, width], "counts": bytes}."""
Bools = npt.NDArray[np.bool_]
THRESHOLD = 0.5
"""A pixel of at least this probability belongs to the object (its value while training)."""


def encoded(mask: npt.NDArray[Any]) -> RLE:
    """(height, width), bool or 0 and 1, as run lengths."""
    found: RLE = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return found


def from_polygon(polygon: Polygon, height: int, width: int) -> RLE:
    """The run lengths of a polygon in pixels, as `Objects.rasterised` draws it."""
    if len(polygon) == 1:
        found: RLE = coco.frPyObjects([polygon[0].double().flatten().tolist()], height, width)[0]
        return found
    return encoded(drawn(polygon, height, width))


def stretched(
    mask: Tensor, box: Sequence[float], height: int, width: int, threshold: float = THRESHOLD
) -> tuple[Bools, int, int]:
    """A square mask (m, m) of probabilities, stretched over its box (left, top, right, bottom in pixels):
    the part inside the image as bool, its top and its left.

    Follows torchvision's Mask R-CNN to the pixel: a border of one cell around the mask, so that its edge
    fades out, the box that much larger, in whole pixels, its right and bottom ones included.
    """
    side = mask.shape[-1]
    left, top, right, bottom = np.asarray(box, dtype=np.float32) * np.float32(0.5)
    grown = np.float32((side + 2) / side)
    x0, x1 = _grown(left, right, grown)
    y0, y1 = _grown(top, bottom, grown)
    size = max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)
    padded = functional.pad(mask.float(), (1, 1, 1, 1))[None, None]
    whole = functional.interpolate(padded, size=size, mode="bilinear", align_corners=False)[0, 0]
    row, column = max(y0, 0), max(x0, 0)
    part = whole[row - y0 : max(height - y0, row - y0), column - x0 : max(width - x0, column - x0)]
    return (part >= threshold).numpy(), row, column


def _grown(low: np.float32, high: np.float32, by: np.float32) -> tuple[int, int]:
    """The first and last pixel of a stretch, of which the halves of both ends are given, made longer."""
    middle, reach = low + high, (high - low) * by
    return int(middle - reach), int(middle + reach)


def pasted(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = THRESHOLD) -> list[RLE]:
    """Square masks (n, m, m) stretched over their boxes (n, 4), as run lengths of the image."""
    found = []
    for mask, box in zip(masks.cpu(), boxes.tolist(), strict=True):
        part, top, left = stretched(mask, box, height, width, threshold)
        canvas = np.zeros((height, width), dtype=np.uint8, order="F")
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
        found.append(encoded(canvas))
    return found


def whole(masks: Tensor, height: int, width: int, threshold: float = THRESHOLD) -> list[RLE]:
    """Masks (n, height, width) of the (padded) image, as run lengths of the image itself."""
    flags = (masks[:, :height, :width] >= threshold).to(torch.uint8).cpu().numpy()
    return [encoded(flag) for flag in flags]
