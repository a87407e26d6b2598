"""COCO's twelve numbers, by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pycocotools import mask as coco

from amlocal.trainers.metrics.objects import Floats, Found, Truth

NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)
"""In COCO's own order: average precision over the IoU thresholds 0.50 to 0.95, at 0.5, at 0.75, by area
(below 32 x 32 pixels, below 96 x 96, above); average recall with at most 1, 10 and 100
detections, and by area."""


def evaluate(
    truths: Sequence[Truth], found: Sequence[Found], classes: int, *, kind: Literal["bbox", "segm"]
) -> dict[str, float]:
    """The numbers of `NAMES`, not rounded; -1 where undefined. Areas are those of boxes (`bbox`) or masks
    (`segm`), in the pixels that are given."""
    from faster_coco_eval import COCO, COCOeval_faster

    images = [{"id": i, "height": one.height, "width": one.width} for i, one in enumerate(truths, 1)]
    about = {"images": images, "categories": [{"id": c, "name": str(c)} for c in range(1, classes + 1)]}
    wanted = _numbered(row for i, one in enumerate(truths, 1) for row in _objects(i, one, kind))
    seen = _numbered(row for i, one in enumerate(found, 1) for row in _detections(i, one, kind))
    if not any(not row["iscrowd"] for row in wanted):
        return dict.fromkeys(NAMES, -1.0)
    run = COCOeval_faster(COCO(about | {"annotations": wanted}), COCO(about | {"annotations": seen}), kind)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return {name: float(value) for name, value in zip(NAMES, run.stats[: len(NAMES)], strict=True)}


def _numbered(rows: Any) -> list[dict[str, Any]]:
    return [row | {"id": number} for number, row in enumerate(rows, 1)]  # 0 means "no match" there


def _objects(image: int, one: Truth, kind: str) -> list[dict[str, Any]]:
    rows = _rows(image, one, kind)
    return [row | {"iscrowd": int(crowd)} for row, crowd in zip(rows, one.crowd, strict=True)]


def _detections(image: int, one: Found, kind: str) -> list[dict[str, Any]]:
    rows = _rows(image, one, kind)
    return [row | {"score": float(score)} for row, score in zip(rows, one.scores, strict=True)]


def _rows(image: int, one: Truth | Found, kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for position, (corners, label) in enumerate(zip(sized(one.boxes).tolist(), one.labels, strict=True)):
        row = {"image_id": image, "category_id": int(label) + 1, "bbox": corners, "iscrowd": 0}
        if kind == "segm":
            if one.masks is None:
                raise ValueError("masks are to be compared, and there are none")
            mask = one.masks[position]
            rows.append(row | {"segmentation": mask, "area": float(coco.area(mask))})
        else:
            rows.append(row | {"area": corners[2] * corners[3]})
    return rows


def sized(boxes: Floats) -> Floats:
    """Left, top, right, bottom (n, 4) as left, top, width, height."""
    found = boxes.copy()
    found[:, 2:] -= boxes[:, :2]
    return found
