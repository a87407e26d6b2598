"""The documents of detection and segmentation, written once at the end of a trial, each in the envelope of
Azure's chart documents. `-1` stands for what is not defined; numbers have five digits.

    per_label_metrics          columns class_name, precision, recall, average_precision; a row per label
    pr_curve                   columns recall, precision, score_threshold; thresholds 0.99 to 0.00; the means
                               over the labels (as the scalars precision and recall)
    pr_curve_<label>           the same of one label; of a label that is no safe file name, pr_curve_@<its
                               position from 0>
    image_level_binary_classifier_metrics (detection)
                               columns precision, recall, average_precision; one row
    confusion_matrix_score_threshold_<t> (detection)
                               class_labels with "Missed" as the last, matrix; rows are the objects' labels,
                               the last row says "N/A"; t = 0.0, 0.1, ..., 0.9, or -1.0 alone where no
                               detection overlaps an object
    coco_metrics               columns metric, value (metric_type coco and coco_voc)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from amlocal.trainers.metrics import confusion, voc
from amlocal.trainers.metrics.envelope import Document, document

PER_LABEL = "per_label_metrics"
CURVE = "pr_curve"
IMAGES = "image_level_binary_classifier_metrics"
CONFUSION = "confusion_matrix_score_threshold_"
COCO = "coco_metrics"
MISSED = "Missed"
_DIGITS = 5
_GRID = [hundredths / 100 for hundredths in range(99, -1, -1)]
_SAFE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_. -]{0,62}(?<![. ])")


def per_label_rows(result: voc.Result, labels: Sequence[str]) -> list[dict[str, Any]]:
    """class_name, precision, recall and average_precision of each label."""
    return [
        {"class_name": label} | _rounded(matches.summary._asdict())
        for label, matches in zip(labels, result.labels, strict=True)
    ]


def documents(result: voc.Result, labels: Sequence[str]) -> dict[str, Document]:
    """What both tasks have: per_label_metrics and the curves, by file name."""
    rows = per_label_rows(result, labels)
    columns = ["class_name", *voc.Summary._fields]
    per_label = document(PER_LABEL, {"class_labels": list(labels), "columns": columns, "rows": rows})
    found = {
        PER_LABEL: per_label,
        CURVE: _curve("", (result.at(t) for t in _GRID)),
    }
    for name, label, matches in zip(curve_names(labels), labels, result.labels, strict=True):
        found[name] = _curve(label, (matches.at(t) for t in _GRID))
    return found


def image_level(result: voc.Result) -> dict[str, Document]:
    """How well images with objects are told from images without."""
    row = _rounded(result.images.summary._asdict())
    return {IMAGES: document(IMAGES, {"columns": list(row), "rows": [row]})}


def confusions(pairs: confusion.Pairs, labels: Sequence[str]) -> dict[str, Document]:
    """The confusion matrices."""
    thresholds = [tenths / 10 for tenths in range(10)] if len(pairs.scores) else [-1.0]
    names = [*labels, MISSED]
    found = {}
    for threshold in thresholds:
        matrix: list[list[Any]] = [*pairs.matrix(threshold).tolist(), ["N/A"] * len(names)]
        found[f"{CONFUSION}{threshold:.1f}"] = document(
            "confusion_matrix", {"class_labels": names, "matrix": matrix}
        )
    return found


def coco_metrics(numbers: Mapping[str, float]) -> dict[str, Document]:
    """COCO's numbers as a table."""
    rows = [{"metric": name, "value": round(value, _DIGITS)} for name, value in numbers.items()]
    return {COCO: document(COCO, {"columns": ["metric", "value"], "rows": rows})}


def curve_names(labels: Sequence[str]) -> list[str]:
    """The file name of each label's curve; safe whatever the label is, and no two alike."""
    seen: set[str] = set()
    names = []
    for position, label in enumerate(labels):
        # File systems that do not tell cases apart must not lose one; _train is about training images.
        safe = bool(_SAFE.fullmatch(label)) and label.lower() not in seen
        safe = safe and not f"_{label.lower()}".endswith("_train")
        seen.add(label.lower())
        names.append(f"{CURVE}_{label}" if safe else f"{CURVE}_@{position}")
    return names


def _curve(label: str, points: Iterable[voc.Point]) -> Document:
    rows = [
        _rounded({"recall": point.recall, "precision": point.precision, "score_threshold": threshold})
        for threshold, point in zip(_GRID, points, strict=True)
    ]
    data: dict[str, Any] = {"columns": ["recall", "precision", "score_threshold"], "rows": rows}
    return document(CURVE, ({"class_name": label} if label else {}) | data)


def _rounded(row: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, _DIGITS) for name, value in row.items()}
