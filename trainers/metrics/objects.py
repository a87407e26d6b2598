"""What metrics compare: the objects of an image, and what a detector sees in it. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amlocal.trainers.data.objects import Objects
from amlocal.trainers.metrics import masks as shapes
from amlocal.trainers.metrics.masks import RLE
from amlocal.trainers.models.detector import Detections

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """The objects of one image of `height` and `width` pixels.

    `boxes` (n, 4): left, top, right, bottom in pixels. `labels` (n,) from 0. `crowd` (n,): neither missed nor
    wrongly found. `masks`: run lengths, in instance segmentation.
    """

    boxes: Floats
    labels: Integers
    crowd: Bools
    masks: list[RLE] | None
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Found:
    """What a detector sees in one image, in the pixels of its `Truth`: `boxes` (n, 4), `labels` (n,),
    `scores` (n,), and in instance segmentation `masks`."""

    boxes: Floats
    labels: Integers
    scores: Floats
    masks: list[RLE] | None

    def __len__(self) -> int:
        return len(self.boxes)


def truth(objects: Objects, height: int, width: int, *, masks: bool) -> Truth:
    """`objects` of an image of this size for the metrics; `masks` draws their polygons."""
    drawn = None
    if masks:
        if objects.polygons is None:
            raise ValueError("objects without polygons have no masks to compare")
        drawn = [shapes.from_polygon(polygon, height, width) for polygon in objects.polygons]
    return Truth(
        objects.boxes.cpu().double().numpy().reshape(-1, 4),
        objects.labels.cpu().numpy().astype(np.int64),
        objects.crowd.cpu().numpy().astype(bool),
        drawn,
        height,
        width,
    )


def found(detections: Detections, height: int, width: int, *, masks: bool) -> Found:
    """`detections` in an image of this size (before padding) for the metrics; `masks` stretches theirs."""
    detections = detections.cpu()
    shaped = None
    if masks:
        if detections.masks is None:
            raise ValueError("detections without masks cannot be compared by their masks")
        if detections.whole:
            shaped = shapes.whole(detections.masks, height, width)
        else:
            shaped = shapes.pasted(detections.masks, detections.boxes, height, width)
    return Found(
        detections.boxes.double().numpy().reshape(-1, 4),
        detections.labels.numpy().astype(np.int64),
        detections.scores.double().numpy(),
        shaped,
    )
