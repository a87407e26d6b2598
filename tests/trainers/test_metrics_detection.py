"""Detection metrics: COCO's numbers are pycocotools', VOC's those of cases worked by hand."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.models.detection.roi_heads import paste_masks_in_image

from amlocal.trainers.data.objects import Objects
from amlocal.trainers.metrics import coco, names, voc
from amlocal.trainers.metrics import objects as compared
from amlocal.trainers.metrics.detection import Result, evaluate
from amlocal.trainers.metrics.masks import encoded, from_polygon, pasted, whole
from amlocal.trainers.metrics.objects import Found, Truth
from amlocal.trainers.models.detector import Detections

HEIGHT, WIDTH = 120, 160
Kind = Literal["bbox", "segm"]


def truth(*objects: tuple[Any, ...], masked: bool = False) -> Truth:
    """Objects as (label, box) or (label, box, crowd)."""
    boxes = np.array([o[1] for o in objects], dtype=float).reshape(-1, 4)
    crowd = np.array([len(o) > 2 and o[2] for o in objects], dtype=bool)
    drawn = [filled(box) for box in boxes] if masked else None
    return Truth(boxes, np.array([o[0] for o in objects], dtype=np.int64), crowd, drawn, HEIGHT, WIDTH)


def found(*detections: tuple[Any, ...], masked: bool = False) -> Found:
    """Detections as (label, box, score)."""
    boxes = np.array([d[1] for d in detections], dtype=float).reshape(-1, 4)
    drawn = [filled(box) for box in boxes] if masked else None
    scores = np.array([d[2] for d in detections], dtype=float)
    return Found(boxes, np.array([d[0] for d in detections], dtype=np.int64), scores, drawn)


def filled(box: Any) -> dict[str, Any]:
    """The mask of whole pixels that a box covers."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    left, top, right, bottom = (int(value) for value in box)
    mask[top:bottom, left:right] = True
    return encoded(mask)


def random_boxes(rng: np.random.Generator, count: int) -> Any:
    low = rng.random((count, 2)) * (WIDTH - 30, HEIGHT - 30)
    size = rng.random((count, 2)) ** 2 * 100 + 3
    return np.concatenate((low, np.minimum(low + size, (WIDTH, HEIGHT))), 1)


def random_set(seed: int, images: int, kind: Kind) -> tuple[list[Truth], list[Found]]:
    """Objects of three labels with crowds among them, and detections near them; some images are empty."""
    rng = np.random.default_rng(seed)
    truths, seen = [], []
    for image in range(images):
        count = 0 if image % 7 == 3 else int(rng.integers(1, 9))
        boxes = random_boxes(rng, count)
        labels = rng.integers(0, 3, count)
        near = np.repeat(boxes, 2, axis=0)
        near = near + rng.normal(size=near.shape) * 4
        extra = random_boxes(rng, int(rng.integers(0, 5)))
        guesses = np.concatenate((near, extra)).clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
        guesses = guesses[(guesses[:, 2:] - guesses[:, :2] > 1).all(1)]
        named = np.concatenate((np.repeat(labels, 2), rng.integers(0, 3, len(extra))))[: len(guesses)]
        drawn = [blob(rng, box) for box in boxes] if kind == "segm" else None
        shapes = [blob(rng, box) for box in guesses] if kind == "segm" else None
        crowd = rng.random(count) < 0.2
        truths.append(Truth(boxes, labels, crowd, drawn, HEIGHT, WIDTH))
        # Rounded, so that some scores are alike.
        seen.append(Found(guesses, named, rng.random(len(guesses)).round(2), shapes))
    return truths, seen


def blob(rng: np.random.Generator, box: Any) -> dict[str, Any]:
    """An ellipse in a box with a bite out of it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    inside = ((x - cx) / (box[2] - box[0])) ** 2 + ((y - cy) / (box[3] - box[1])) ** 2 <= 0.25
    return encoded(inside & ~((x > cx) & (y > cy) & (rng.random() < 0.5)))


def by_pycocotools(truths: list[Truth], seen: list[Found], kind: Kind) -> list[float]:
    images = [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(len(truths))]
    wanted, answers = [], []
    for i, one in enumerate(truths):
        for k, (left, top, right, bottom) in enumerate(one.boxes.tolist()):
            row = {"image_id": i, "category_id": int(one.labels[k]), "iscrowd": int(one.crowd[k])}
            row |= {"bbox": [left, top, right - left, bottom - top], "id": len(wanted) + 1}
            if one.masks is not None:
                wanted.append(row | {"segmentation": one.masks[k], "area": float(masks.area(one.masks[k]))})
            else:
                wanted.append(row | {"area": (right - left) * (bottom - top)})
        for k, (left, top, right, bottom) in enumerate(seen[i].boxes.tolist()):
            row = {"image_id": i, "category_id": int(seen[i].labels[k]), "score": float(seen[i].scores[k])}
            shapes = seen[i].masks
            answers.append(
                row | {"bbox": [left, top, right - left, bottom - top]}
                if shapes is None
                else row | {"segmentation": shapes[k]}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        goal = COCO()
        goal.dataset = {
            "info": {},
            "images": images,
            "annotations": wanted,
            "categories": [{"id": c} for c in range(3)],
        }
        goal.createIndex()
        run = COCOeval(goal, goal.loadRes(answers), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats.tolist()


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_cocos_numbers_are_those_of_pycocotools(kind: Kind) -> None:
    truths, seen = random_set(5, 24, kind)
    assert any(t.crowd.any() for t in truths)
    ours = coco.evaluate(truths, seen, 3, kind=kind)
    assert list(ours) == list(coco.NAMES)
    expected = by_pycocotools(truths, seen, kind)
    assert list(ours.values()) == pytest.approx(expected, abs=1e-6)
    assert 0.02 < ours["AP"] < ours["AP50"] < 0.95
    assert all(value > 0 for name, value in ours.items() if "large" not in name)


def test_cocos_numbers_without_detections_are_zero_and_without_objects_undefined() -> None:
    some, nothing = [truth((0, (0, 0, 50, 50)))], [found()]
    assert coco.evaluate(some, nothing, 1, kind="bbox")["AP"] == 0.0
    assert coco.evaluate(some, nothing, 1, kind="bbox")["AP_small"] == -1.0
    for empty in (truth(), truth((0, (0, 0, 50, 50), True))):
        numbers = coco.evaluate([empty], [found((0, (0, 0, 50, 50), 0.9))], 1, kind="bbox")
        assert set(numbers.values()) == {-1.0}


def summary(truths: list[Truth], seen: list[Found], classes: int = 1, **options: Any) -> voc.Result:
    return voc.evaluate(truths, seen, classes, **({"kind": "bbox", "threshold": 0.5} | options))


A, B, C = (0, 0, 40, 40), (60, 0, 100, 40), (0, 60, 40, 100)
NEAR_A = (0, 0, 40, 30)  # 0.75 of A
HALF_A = (0, 0, 40, 20)  # 0.5 of A, exactly


@pytest.mark.parametrize("masked", [False, True])
def test_voc_by_hand(masked: bool) -> None:
    kind = "segm" if masked else "bbox"
    truths = [
        truth((0, A), (0, B), (0, C), masked=masked),
        truth((0, A), masked=masked),
    ]
    seen = [
        found((0, A, 0.9), (0, NEAR_A, 0.8), (0, B, 0.6), (0, (100, 80, 140, 110), 0.5), masked=masked),
        found((0, HALF_A, 0.7), masked=masked),
    ]
    # By score: right, wrong (A is taken), right, right, wrong; 4 objects.
    # Recall 1/4, 1/4, 2/4, 3/4, 3/4; precision 1, 1/2, 2/3, 3/4, 3/5, which made monotone is
    # 1, 3/4, 3/4, 3/4, 3/5: an area of 1/4 * 1 + 2/4 * 3/4.
    (only,) = summary(truths, seen, kind=kind).labels
    assert only.right.tolist() == [True, False, True, True, False]
    assert only.summary == pytest.approx((3 / 5, 3 / 4, 1 / 4 + 3 / 8))
    assert only.at(0.65) == pytest.approx((2 / 3, 2 / 4))
    assert only.at(0.8) == pytest.approx((1 / 2, 1 / 4))
    assert only.at(0.95) == (-1.0, 0.0)


def test_a_detection_looks_only_at_the_object_it_overlaps_most() -> None:
    left, right = (0, 0, 40, 40), (4, 0, 44, 40)
    truths = [truth((0, left), (0, right))]
    seen = [found((0, left, 0.9), (0, (1, 0, 41, 40), 0.8))]
    # The second overlaps `right` by more than half as well, but `left`, which is taken, by more.
    (only,) = summary(truths, seen).labels
    assert only.right.tolist() == [True, False]
    # One label's detections do not see the objects of another.
    other = summary([truth((0, left), (1, right))], [found((0, left, 0.9), (1, (1, 0, 41, 40), 0.8))], 2)
    assert [m.summary for m in other.labels] == [(1.0, 1.0, 1.0)] * 2


@pytest.mark.parametrize("masked", [False, True])
def test_crowds_count_neither_as_objects_nor_as_mistakes(masked: bool) -> None:
    kind = "segm" if masked else "bbox"
    crowd = (50, 50, 150, 110)
    truths = [truth((0, A), (0, crowd, True), masked=masked)]
    # Two lie in the crowd, one for the most part outside of it (its intersection over union is small too).
    inside = [(0, (60, 60, 80, 80), 0.9), (0, (90, 60, 110, 80), 0.8)]
    seen = [found((0, A, 0.7), *inside, (0, (30, 60, 60, 80), 0.6), masked=masked)]
    (only,) = summary(truths, seen, kind=kind).labels
    assert only.objects == 1
    assert only.scores.tolist() == [0.7, 0.6]
    assert only.right.tolist() == [True, False]
    assert only.summary == (0.5, 1.0, 1.0)


def test_what_is_undefined_is_minus_one_and_no_part_of_a_mean() -> None:
    truths = [truth((0, A), (1, B))]
    seen = [found((0, A, 0.9), (2, C, 0.8))]
    result = summary(truths, seen, classes=4)
    assert [m.summary for m in result.labels] == [
        (1.0, 1.0, 1.0),  # found
        (-1.0, 0.0, 0.0),  # never predicted
        (0.0, -1.0, -1.0),  # no such object
        (-1.0, -1.0, -1.0),  # neither
    ]
    assert result.mean == (0.5, 0.5, 0.5)
    nothing = summary([truth()], [found()], classes=2)
    assert nothing.mean == (-1.0, -1.0, -1.0)
    assert nothing.images.summary == (-1.0, -1.0, -1.0)


def test_the_threshold_is_that_of_the_overlap() -> None:
    truths, seen = [truth((0, A))], [found((0, NEAR_A, 0.9))]
    assert summary(truths, seen, threshold=0.75).mean.average_precision == 1.0
    assert summary(truths, seen, threshold=0.76).mean.average_precision == 0.0


def test_images_are_told_apart_by_their_best_detection() -> None:
    truths = [truth((0, A)), truth(), truth((0, B)), truth((0, C, True))]
    seen = [found((0, C, 0.6), (0, B, 0.9)), found((0, A, 0.7)), found(), found((0, A, 0.99))]
    # Of an image with a crowd alone it is not asked. Scores 0.9 (right), 0.7 (wrong); two have objects.
    images = summary(truths, seen).images
    assert images.scores.tolist() == [0.9, 0.7]
    assert images.summary == pytest.approx((0.5, 0.5, 0.5))


LABELS = ["can", "milk/bottle", "Can"]


def result(metric_type: str = "voc", kind: Kind = "bbox") -> Result:
    masked = kind == "segm"
    truths = [truth((0, A), (1, B), (2, C), masked=masked), truth(masked=masked)]
    seen = [
        found((0, A, 0.9), (0, B, 0.75), (2, NEAR_A, 0.5), (2, C, 0.35), masked=masked),
        found((1, A, 0.4), masked=masked),
    ]
    return evaluate(
        truths,
        seen,
        LABELS,
        kind=kind,
        metric_type=metric_type,  # type: ignore[arg-type]
    )


def test_scalars_are_azures_and_cocos_numbers_marked_as_ours() -> None:
    by_voc = result("voc").scalars
    # can: right at 0.9, wrong at 0.75. milk: wrong. Can: wrong at 0.5, right at 0.35.
    assert by_voc == {
        "mean_average_precision": round((1 + 0 + 0.5) / 3, 5),
        "precision": round((0.5 + 0 + 0.5) / 3, 5),
        "recall": round(2 / 3, 5),
    }
    by_coco = result("coco").scalars
    assert set(by_coco) == {"mean_average_precision"} | {names.ours(f"coco_{n}") for n in coco.NAMES}
    assert by_coco["mean_average_precision"] == by_coco["amlocal.coco_AP50"] == pytest.approx(0.5, abs=0.01)
    assert by_coco["amlocal.coco_AP_small"] == -1.0
    both = result("coco_voc").scalars
    assert both == by_coco | by_voc
    assert result("none").scalars == {}
    assert result("none").documents() == {}


def test_documents_in_azures_envelope() -> None:
    found_documents = result("coco_voc").documents()
    json.dumps(found_documents, allow_nan=False)
    assert all(d["schema_version"] == "1.0.0" for d in found_documents.values())
    rows = found_documents["per_label_metrics"]["data"]["rows"]
    assert rows[0] == {"class_name": "can", "precision": 0.5, "recall": 1.0, "average_precision": 1.0}
    assert rows == result().per_label
    curve = found_documents["pr_curve_can"]["data"]["rows"]
    assert [row["score_threshold"] for row in curve] == [h / 100 for h in range(99, -1, -1)]
    assert curve[0] == {"recall": 0.0, "precision": -1.0, "score_threshold": 0.99}
    assert curve[9] == {"recall": 1.0, "precision": 1.0, "score_threshold": 0.9}
    assert curve[24] == {"recall": 1.0, "precision": 0.5, "score_threshold": 0.75}
    means = found_documents["pr_curve"]["data"]["rows"]
    assert (means[-1]["precision"], means[-1]["recall"]) == (round(1 / 3, 5), round(2 / 3, 5))
    assert found_documents["image_level_binary_classifier_metrics"]["data"]["rows"] == [
        {"precision": 0.5, "recall": 1.0, "average_precision": 1.0}
    ]
    assert {row["metric"] for row in found_documents["coco_metrics"]["data"]["rows"]} == set(coco.NAMES)


def test_confusion_matrices_at_score_thresholds() -> None:
    found_documents = result().documents()
    prefix = "confusion_matrix_score_threshold_"
    at = {n.removeprefix(prefix): d["data"] for n, d in found_documents.items() if n.startswith(prefix)}
    assert list(at) == [f"0.{tenth}" for tenth in range(10)]
    assert at["0.0"]["class_labels"] == [*LABELS, "Missed"]
    last = ["N/A"] * 4
    assert at["0.0"]["matrix"] == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], last]
    assert at["0.4"]["matrix"] == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], last]
    assert at["0.8"]["matrix"] == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], last]
    nothing = evaluate([truth((0, A))], [found()], ["can"], kind="bbox", metric_type="voc").documents()
    assert nothing[f"{prefix}-1.0"]["data"]["matrix"] == [[0, 1], ["N/A", "N/A"]]
    assert len([name for name in nothing if name.startswith(prefix)]) == 1


def test_segmentation_has_no_image_level_metrics_and_no_confusion() -> None:
    assert set(result(kind="segm").documents()) == {
        *("per_label_metrics", "pr_curve", "pr_curve_can", "pr_curve_@1", "pr_curve_@2"),
    }
    assert result(kind="segm").scalars == result().scalars


def test_labels_cannot_choose_a_files_place() -> None:
    labels = ["../../x", "a\x00b", "", "CON.", "a" * 300, "b ", "ok", "OK", "@0"]
    one = evaluate([truth((0, A))], [found()], labels, kind="segm", metric_type="none")
    assert one.documents() == {}
    curves = evaluate([truth((0, A))], [found()], labels, kind="bbox", metric_type="voc").documents()
    written = [name.removeprefix("pr_curve_") for name in curves if name.startswith("pr_curve_")]
    assert written == ["@0", "@1", "@2", "@3", "@4", "@5", "ok", "@7", "@8"]


# Masks and the way from tensors


def test_masks_are_stretched_as_torchvision_does() -> None:
    torch.manual_seed(3)
    corner = torch.rand(12, 2) * torch.tensor([WIDTH - 20, HEIGHT - 20])
    boxes = torch.cat((corner, corner + torch.rand(12, 2) * 90 + 0.2), 1)
    boxes = boxes.minimum(torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))
    given = torch.rand(12, 28, 28)
    expected = paste_masks_in_image(given[:, None], boxes, (HEIGHT, WIDTH))[:, 0] >= 0.5
    ours = np.stack([masks.decode(one) for one in pasted(given, boxes, HEIGHT, WIDTH)]).astype(bool)
    assert 0.01 < ours.mean() < 0.6
    assert (ours == expected.numpy()).all()


def test_whole_masks_lose_what_was_padded() -> None:
    given = torch.zeros(1, 8, 12)
    given[0, 2:8, 3:12] = 0.5
    (found_mask,) = whole(given, 6, 10)
    decoded = masks.decode(found_mask)
    assert decoded.shape == (6, 10)
    assert decoded.sum() == 4 * 7
    assert masks.decode(whole(given, 6, 10, threshold=0.6)[0]).sum() == 0


def test_objects_and_detections_become_what_is_compared() -> None:
    square = torch.tensor([[10.0, 10], [50, 10], [50, 50], [10, 50]])
    hole = torch.tensor([[20.0, 20], [40, 20], [40, 40], [20, 40]])
    given = Objects(
        torch.tensor([[10.0, 10, 50, 50], [0, 0, 30, 20]]),
        torch.tensor([1, 0]),
        torch.tensor([False, True]),
        ((square, hole), (square,)),
    )
    one = compared.truth(given, HEIGHT, WIDTH, masks=True)
    assert one.boxes.dtype == np.float64
    assert (one.labels.tolist(), one.crowd.tolist()) == ([1, 0], [False, True])
    drawn = given.rasterised(HEIGHT, WIDTH).masks
    assert drawn is not None and one.masks is not None
    for mask, code in zip(drawn.numpy(), one.masks, strict=True):
        assert (masks.decode(code).astype(bool) == mask).all()
    assert masks.area(one.masks[1]) - masks.area(one.masks[0]) == 20 * 20
    assert compared.truth(given, HEIGHT, WIDTH, masks=False).masks is None
    seen = Detections(given.boxes, given.labels, torch.tensor([0.9, 0.8]), torch.ones(2, 14, 14))
    two = compared.found(seen, HEIGHT, WIDTH, masks=True)
    assert two.masks is not None
    assert masks.area(two.masks[0]) == pytest.approx(40 * 40, rel=0.1)
    flat = Detections(seen.boxes, seen.labels, seen.scores, torch.ones(2, HEIGHT + 8, WIDTH + 8), whole=True)
    assert masks.area(compared.found(flat, HEIGHT, WIDTH, masks=True).masks[1]) == HEIGHT * WIDTH  # type: ignore[index]
    with pytest.raises(ValueError, match="without polygons"):
        compared.truth(Objects(given.boxes, given.labels, given.crowd), HEIGHT, WIDTH, masks=True)
    with pytest.raises(ValueError, match="without masks"):
        compared.found(Detections(seen.boxes, seen.labels, seen.scores), HEIGHT, WIDTH, masks=True)


def test_an_empty_image_is_no_special_case() -> None:
    boxes, labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    one = compared.truth(
        Objects(boxes, labels, torch.zeros(0, dtype=torch.bool), ()), HEIGHT, WIDTH, masks=True
    )
    none = Detections(boxes, labels, torch.zeros(0), torch.zeros(0, 28, 28))
    two = compared.found(none, HEIGHT, WIDTH, masks=True)
    scalars = evaluate([one], [two], ["can"], kind="segm", metric_type="coco_voc").scalars
    assert set(scalars.values()) == {-1.0}
    assert from_polygon((torch.tensor([[0.0, 0], [4, 0], [4, 4]]),), 8, 8)["size"] == [8, 8]
