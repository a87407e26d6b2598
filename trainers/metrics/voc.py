"""Precision, recall and average precision at one IoU threshold, by the matching rule of Azure's trainer.

Within an image and a label, detections are taken by falling score. Each looks only at the object that it
overlaps most. Below the threshold it is wrong. Else, where that object is a crowd, it does not count; where
no earlier detection has it, it is right; else it is wrong. Overlap is intersection over union; with a crowd,
the share of the detection that lies inside. Crowds do not count as objects either.

Average precision is the area under the precision that never rises with recall. Precision needs detections,
recall and average precision need objects; what is undefined is -1, and means leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from pycocotools import mask as coco

from amlocal.trainers.metrics.coco import sized
from amlocal.trainers.metrics.objects import Bools, Floats, Found, Truth

UNDEFINED = -1.0
Kind = Literal["bbox", "segm"]


class Point(NamedTuple):
    """At some score threshold."""

    precision: float
    recall: float


class Summary(NamedTuple):
    """At the lowest score kept."""

    precision: float
    recall: float
    average_precision: float


@dataclass(frozen=True)
class Matches:
    """The detections that count, by falling score, and which are right; `objects`: how many there are to
    find."""

    scores: Floats
    right: Bools
    objects: int

    def at(self, threshold: float) -> Point:
        """Of the detections that have at least this score."""
        kept = int(np.searchsorted(-self.scores, -threshold, side="right"))
        hits = int(self.right[:kept].sum())
        return Point(
            hits / kept if kept else UNDEFINED,
            hits / self.objects if self.objects else UNDEFINED,
        )

    @property
    def average_precision(self) -> float:
        if not self.objects:
            return UNDEFINED
        hits = np.cumsum(self.right)
        precision = hits / np.arange(1, len(hits) + 1)
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        return float(highest[self.right].sum() / self.objects)

    @property
    def summary(self) -> Summary:
        return Summary(*self.at(-np.inf), self.average_precision)


@dataclass(frozen=True)
class Result:
    """`labels`: the matches of each label. `images`: of images, as if the question were only whether there is
    any object in them (its score is that of the best detection); images with nothing but crowds are left
    out."""

    labels: tuple[Matches, ...]
    images: Matches

    @property
    def mean(self) -> Summary:
        """Over the labels for which each number is defined."""
        columns = zip(*(matches.summary for matches in self.labels), strict=True)
        return Summary(*(mean(column) for column in columns)) if self.labels else Summary(*[UNDEFINED] * 3)

    def at(self, threshold: float) -> Point:
        """Mean over the labels for which each number is defined."""
        columns = zip(*(matches.at(threshold) for matches in self.labels), strict=True)
        return Point(*(mean(column) for column in columns)) if self.labels else Point(*[UNDEFINED] * 2)


def mean(values: Sequence[float]) -> float:
    """Without the undefined ones."""
    defined = [value for value in values if value != UNDEFINED]
    return float(np.mean(defined)) if defined else UNDEFINED


def evaluate(
    truths: Sequence[Truth], found: Sequence[Found], classes: int, *, kind: Kind, threshold: float
) -> Result:
    """The matches of every label, and of the images. Detections must overlap objects by at least
    `threshold`."""
    scores: list[list[Floats]] = [[] for _ in range(classes)]
    right: list[list[Bools]] = [[] for _ in range(classes)]
    objects = np.zeros(classes, dtype=np.int64)
    for truth, seen in zip(truths, found, strict=True):
        objects += np.bincount(truth.labels[~truth.crowd], minlength=classes)
        ious = overlaps(truth, seen, kind)
        order = np.argsort(-seen.scores, kind="stable")
        for label in np.unique(seen.labels):
            rows = order[seen.labels[order] == label]
            columns = np.flatnonzero(truth.labels == label)
            counted, hit = _matched(ious[np.ix_(rows, columns)], truth.crowd[columns], threshold)
            scores[label].append(seen.scores[rows][counted])
            right[label].append(hit[counted])
    labels = tuple(_joined(scores[c], right[c], int(objects[c])) for c in range(classes))
    return Result(labels, _of_images(truths, found))


def overlaps(truth: Truth, seen: Found, kind: Kind) -> Floats:
    """(detections, objects)."""
    if not len(seen) or not len(truth):
        return np.zeros((len(seen), len(truth)))
    crowd = truth.crowd.astype(np.uint8).tolist()
    if kind == "bbox":
        found: Floats = coco.iou(sized(seen.boxes), sized(truth.boxes), crowd)
        return found
    if seen.masks is None or truth.masks is None:
        raise ValueError("masks are to be compared, and there are none")
    shared: Floats = coco.iou(seen.masks, truth.masks, crowd)
    return shared


def _matched(ious: Floats, crowd: Bools, threshold: float) -> tuple[Bools, Bools]:
    """Which detections count, and which are right. `ious`: rows by falling score."""
    counted, hit = np.ones(len(ious), dtype=bool), np.zeros(len(ious), dtype=bool)
    if not ious.shape[1]:
        return counted, hit
    best = ious.argmax(1)
    taken = np.zeros(ious.shape[1], dtype=bool)
    for row in np.flatnonzero(ious.max(1) >= threshold):
        column = best[row]
        if crowd[column]:
            counted[row] = False
        elif not taken[column]:
            taken[column] = hit[row] = True
    return counted, hit


def _joined(scores: Sequence[Floats], right: Sequence[Bools], objects: int) -> Matches:
    every = np.concatenate(scores) if scores else np.zeros(0)
    hits = np.concatenate(right) if right else np.zeros(0, dtype=bool)
    order = np.argsort(-every, kind="stable")
    return Matches(every[order], hits[order], objects)


def _of_images(truths: Sequence[Truth], found: Sequence[Found]) -> Matches:
    clear = [(t, f) for t, f in zip(truths, found, strict=True) if not len(t) or not t.crowd.all()]
    scores = np.array([f.scores.max() for t, f in clear if len(f)])
    there = np.array([len(t) > 0 for t, f in clear if len(f)], dtype=bool)
    return _joined([scores], [there], sum(len(t) > 0 for t, _ in clear))
