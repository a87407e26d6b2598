"""Tiles: overlapping parts of an image, so that small objects are seen larger.

Source: "Train a small object detection model with AutoML". Of `n` tiles side by side that overlap by the
share r, each takes 1 / (r + (1 - r) n) of the side. The whole image is looked at as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from amlocal.compat import tile_grid
from amlocal.compat.annotations import Annotation, Box
from amlocal.trainers.data.annotated import Annotated
from amlocal.trainers.data.geometry import Geometry, OfRegion
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.samples import WHOLE, Region
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models.detector import Detections

LEAST_VISIBLE = 0.1
"""Share of a box that a tile must show for the object to count there. A sliver of an object looks like
nothing, and a neighbour or the whole image shows it."""


@dataclass(frozen=True)
class Grid:
    """Tiles of an image, `columns` side by side and `rows` one above the other."""

    columns: int
    rows: int
    overlap: float = 0.25

    @classmethod
    def parse(cls, text: str, overlap: float) -> Grid:
        """From tile_grid_size ("3x2", "(3, 2)") and tile_overlap_ratio. Raises TrainingError."""
        try:
            columns, rows = tile_grid.parse(text)
        except ValueError as error:
            raise TrainingError(f"tile_grid_size is {text!r}; {error}") from error
        if not 0 <= overlap < 1:
            raise TrainingError(f"tile_overlap_ratio is {overlap}; it must be at least 0 and below 1")
        return cls(columns, rows, overlap)

    def regions(self) -> list[Region]:
        """The tiles, row by row, each in shares of the image."""
        across, down = _spans(self.columns, self.overlap), _spans(self.rows, self.overlap)
        return [(left, top, right, bottom) for top, bottom in down for left, right in across]


def _spans(n: int, overlap: float) -> list[tuple[float, float]]:
    length = 1 / (overlap + (1 - overlap) * n)
    starts = [(1 - overlap) * length * number for number in range(n)]
    return [(start, min(1.0, start + length)) for start in starts]


def annotations_in(annotations: Sequence[Annotation], region: Region) -> tuple[Annotation, ...]:
    """The objects of which the region shows enough, cut at its edges, in shares of the region. Boxes only."""
    found = (_inside(annotation, region) for annotation in annotations)
    return tuple(annotation for annotation in found if annotation is not None)


def _inside(annotation: Annotation, region: Region) -> Annotation | None:
    left, top, right, bottom = region
    x0, y0, x1, y1 = annotation.box
    cut = max(x0, left), max(y0, top), min(x1, right), min(y1, bottom)
    width, height = cut[2] - cut[0], cut[3] - cut[1]
    if width <= 0 or height <= 0 or width * height < LEAST_VISIBLE * (x1 - x0) * (y1 - y0):
        return None
    across, down = right - left, bottom - top
    box: Box = (
        (cut[0] - left) / across,
        (cut[1] - top) / down,
        min(1.0, (cut[2] - left) / across),
        min(1.0, (cut[3] - top) / down),
    )
    return Annotation(annotation.label, box, annotation.crowd)


def tiled(rows: Sequence[Annotated], grid: Grid, *, empty: bool) -> list[Annotated]:
    """Each image, followed by its tiles; those without objects only if `empty`."""
    regions = grid.regions()
    found = []
    for row in rows:
        found.append(row)
        for region in regions:
            inside = annotations_in(row.annotations, region)
            if inside or empty:
                found.append(replace(row.of(inside), region=region))
    return found


def views(image: Image.Image, geometry: Geometry, grid: Grid | None) -> list[tuple[Region | None, Pixels]]:
    """The whole of a decoded image as `geometry` sees it, and then its tiles."""
    regions = grid.regions() if grid is not None else []
    tiles = [(region, OfRegion(geometry, region).pixels(image)) for region in regions]
    return [(None, geometry.pixels(image)), *tiles]


class Part(NamedTuple):
    """What a detector saw in one region of an image, in pixels of that region at (height, width) `size`."""

    detections: Detections
    size: tuple[int, int]
    region: Region | None = None


def merged(parts: Sequence[Part], threshold: float) -> Detections:
    """One answer for an image out of those for the whole and for its tiles, on the CPU, best first, in pixels
    of the whole as it was seen.

    Of two boxes of one label that overlap by more than `threshold` (IoU) the better one stays, but only if
    they come from different parts: what one part shows twice, the detector has already judged. Raises
    ValueError when no part is the whole image, or when there are masks.
    """
    whole = next((part for part in parts if part.region is None), None)
    if whole is None or any(part.detections.masks is not None for part in parts):
        raise ValueError("tiles can be merged when one part is the whole image and none has masks")
    moved = [_moved(part, whole.size) for part in parts]
    found = Detections(
        torch.cat([part.boxes for part in moved]),
        torch.cat([part.labels for part in moved]),
        torch.cat([part.scores for part in moved]),
    )
    source = np.repeat(np.arange(len(moved)), [len(part) for part in moved])
    order = found.scores.argsort(descending=True, stable=True)
    found, source = found.pick(order), source[order.numpy()]
    return found.pick(torch.from_numpy(_kept(found, source, threshold)))


def _moved(part: Part, whole: tuple[int, int]) -> Detections:
    found = part.detections.cpu()
    left, top, right, bottom = part.region or WHOLE
    (height, width), (tall, wide) = whole, part.size
    scale = torch.tensor([(right - left) * width / wide, (bottom - top) * height / tall]).repeat(2)
    offset = torch.tensor([left * width, top * height]).repeat(2)
    edge = torch.tensor([width, height], dtype=torch.float32).repeat(2)
    boxes = (found.boxes.float() * scale + offset).clamp(min=0).minimum(edge)
    return Detections(boxes, found.labels, found.scores)


def _kept(found: Detections, source: np.ndarray, threshold: float) -> np.ndarray:
    """(n,) bool, for boxes that come best first."""
    boxes, labels = found.boxes.double().numpy(), found.labels.numpy()
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.ones(len(boxes), dtype=bool)
    for number in range(len(boxes)):
        if not alive[number]:
            continue
        rest = slice(number + 1, None)
        low = np.maximum(boxes[number, :2], boxes[rest, :2])
        high = np.minimum(boxes[number, 2:], boxes[rest, 2:])
        shared = (high - low).clip(0).prod(1)
        union = np.maximum(areas[number] + areas[rest] - shared, np.finfo(float).tiny)
        other = (labels[rest] == labels[number]) & (source[rest] != source[number])
        alive[rest] &= ~(other & (shared > threshold * union))
    return alive
