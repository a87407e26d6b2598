"""Which labels are taken for which: confusion matrices of detections at rising score thresholds.

Labels do not matter for the matching here. By falling score, each detection takes the object that it overlaps
most, by at least the threshold, unless an earlier one has it or it is a crowd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from amlocal.trainers.metrics import voc
from amlocal.trainers.metrics.objects import Floats, Found, Integers, Truth


class Pairs(NamedTuple):
    """Every object that a detection takes: their labels, and the detection's score. `objects`: how many of
    each label there are."""

    true: Integers
    predicted: Integers
    scores: Floats
    objects: Integers

    def matrix(self, threshold: float) -> Integers:
        """(labels, labels + 1) at a score threshold: rows are the objects' labels, columns the detections';
        the last column counts the objects that no detection takes."""
        classes = len(self.objects)
        kept = self.scores >= threshold
        found = np.zeros((classes, classes + 1), dtype=np.int64)
        np.add.at(found, (self.true[kept], self.predicted[kept]), 1)
        found[:, classes] = self.objects - found.sum(1)
        return found


def pairs(
    truths: Sequence[Truth], found: Sequence[Found], classes: int, *, kind: voc.Kind, threshold: float
) -> Pairs:
    """`threshold` is that of the overlap (see `voc.overlaps`)."""
    rows: list[tuple[int, int, float]] = []
    objects = np.zeros(classes, dtype=np.int64)
    for truth, seen in zip(truths, found, strict=True):
        objects += np.bincount(truth.labels[~truth.crowd], minlength=classes)
        if not len(truth) or not len(seen):
            continue
        ious = voc.overlaps(truth, seen, kind)
        best, most = ious.argmax(1), ious.max(1)
        taken = truth.crowd.copy()
        for row in np.argsort(-seen.scores, kind="stable"):
            if most[row] >= threshold and not taken[best[row]]:
                taken[best[row]] = True
                rows.append((truth.labels[best[row]], seen.labels[row], seen.scores[row]))
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return Pairs(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2], objects)
