"""The metrics of detection and segmentation, under Azure's names.

| metric_type | mean_average_precision           | precision, recall | COCO's twelve numbers |
|-------------|----------------------------------|-------------------|-----------------------|
| voc         | VOC's, at the IoU threshold      | VOC's             |                       |
| coco        | COCO's AP at IoU 0.5             |                   | yes                   |
| coco_voc    | VOC's (Azure's rule)             | VOC's             | yes                   |
| none        |                                  |                   |                       |

What is not defined is -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from amlocal.trainers.metrics import coco, confusion, detection_documents, names, voc
from amlocal.trainers.metrics.averages import rounded
from amlocal.trainers.metrics.envelope import Document
from amlocal.trainers.metrics.objects import Found, Truth

Kind = Literal["bbox", "segm"]
MetricType = Literal["none", "coco", "voc", "coco_voc"]
PRIMARY = "mean_average_precision"


@dataclass(frozen=True)
class Result:
    """The metrics of one evaluation. `coco`: the twelve numbers by COCO's names, None where they are not
    asked for."""

    metric_type: MetricType
    labels: tuple[str, ...]
    coco: dict[str, float] | None
    _images: tuple[Sequence[Truth], Sequence[Found]] = field(repr=False)
    _kind: Kind
    _iou_threshold: float

    @cached_property
    def voc(self) -> voc.Result:
        """By Azure's VOC rule; computed when first asked for."""
        return voc.evaluate(*self._images, len(self.labels), kind=self._kind, threshold=self._iou_threshold)

    @property
    def scalars(self) -> dict[str, float]:
        """By name, rounded to five digits; empty for metric_type none."""
        values: dict[str, float] = {}
        if self.coco is not None:
            values |= {names.ours(f"coco_{name}"): value for name, value in self.coco.items()}
            values[PRIMARY] = self.coco["AP50"]
        if "voc" in self.metric_type:
            mean = self.voc.mean
            values |= {PRIMARY: mean.average_precision, "precision": mean.precision, "recall": mean.recall}
        return rounded(values)

    @property
    def per_label(self) -> list[dict[str, Any]]:
        """class_name, precision, recall and average_precision of each label, by the VOC rule."""
        if self.metric_type == "none":
            return []
        return detection_documents.per_label_rows(self.voc, self.labels)

    def _pairs(self) -> confusion.Pairs:
        truths, found = self._images
        return confusion.pairs(
            truths, found, len(self.labels), kind=self._kind, threshold=self._iou_threshold
        )

    def documents(self) -> dict[str, Document]:
        """What is written once at the end of a trial: file name -> JSON values."""
        if self.metric_type == "none":
            return {}
        found = detection_documents.documents(self.voc, self.labels)
        if self._kind == "bbox":  # Azure has these for detection only
            found |= detection_documents.image_level(self.voc)
            found |= detection_documents.confusions(self._pairs(), self.labels)
        if self.coco is not None:
            found |= detection_documents.coco_metrics(self.coco)
        return found


def evaluate(
    truths: Sequence[Truth],
    found: Sequence[Found],
    labels: Sequence[str],
    *,
    kind: Kind,
    metric_type: MetricType,
    iou_threshold: float = 0.5,
) -> Result:
    """Compare what was `found` with the `truths`, image by image in the same order; boxes (`bbox`) or masks
    (`segm`). `iou_threshold` is VOC's."""
    if len(truths) != len(found):
        raise ValueError(f"{len(truths)} images have objects and {len(found)} detections")
    numbers = coco.evaluate(truths, found, len(labels), kind=kind) if "coco" in metric_type else None
    return Result(metric_type, tuple(labels), numbers, (truths, found), kind, iou_threshold)
