"""The pictures of a detector's trial: curves, confusion, predictions beside the ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amlocal.trainers import charts
from amlocal.trainers.charts import ChartError, detection_curves, page, predictions
from amlocal.trainers.metrics.detection import evaluate
from amlocal.trainers.metrics.masks import encoded
from amlocal.trainers.metrics.objects import Found, Truth

HEIGHT, WIDTH = 60, 90
HOSTILE = ["$x_1$", "a\nb", "\x00", "_hidden", "", "x" * 300, "\u202eevil", "日本語", "😀", "../x", "train"]


def images(classes: int, *, masked: bool = False, seed: int = 0) -> tuple[list[Truth], list[Found]]:
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(3 * classes):
        low = rng.random((2, 2)) * (WIDTH / 2, HEIGHT / 2)
        boxes = np.concatenate((low, low + 20), 1)
        labels = rng.integers(0, classes, 2)
        masks = [shape(box) for box in boxes] if masked else None
        crowd = np.array([False, True])
        truths.append(Truth(boxes, labels, crowd, masks, HEIGHT, WIDTH))
        found.append(Found(boxes + 2, labels, rng.random(2), masks))
    return truths, found


def shape(box: Any) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    left, top, right, bottom = box.astype(int)
    mask[top:bottom, left:right] = True
    return encoded(mask)


def documents(names: list[str], **options: Any) -> dict[str, Any]:
    truths, found = images(len(names), **options)
    return evaluate(truths, found, names, kind="bbox", metric_type="coco_voc").documents()


def pixels_of(path: Path) -> Any:
    return np.asarray(Image.open(path).convert("RGB"))


def test_curves_and_confusion_are_drawn_from_the_documents(tmp_path: Path) -> None:
    written = charts.draw(documents(["can", "carton"]), tmp_path)
    assert {path.name for path in written} == {"precision_recall_curve.png", "confusion_matrix.png"}
    for path in written:
        assert (pixels_of(path) < 200).mean() > 0.005


def test_the_curves_legend_has_the_average_precisions() -> None:
    found = documents(["can", "carton", "never"])
    found["per_label_metrics"]["data"]["rows"][2]["average_precision"] = -1.0
    with page.settings():
        figure = detection_curves.precision_recall(found)
    rows = found["per_label_metrics"]["data"]["rows"]
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert texts[:2] == [f"{row['class_name']}  {row['average_precision']:.3f}" for row in rows[:2]]
    mean = np.mean([row["average_precision"] for row in rows[:2]])
    assert texts[2] == f"mean of the labels  {mean:.3f}"
    curve = found["pr_curve_can"]["data"]["rows"]
    drawn = figure.axes[0].lines[0]
    defined = [(row["recall"], row["precision"]) for row in curve if row["precision"] >= 0]
    assert np.column_stack((drawn.get_xdata(), drawn.get_ydata())).tolist() == [list(p) for p in defined]


def test_many_labels_show_the_worst(tmp_path: Path) -> None:
    found = documents([f"label {i}" for i in range(40)])
    with page.settings():
        figure = detection_curves.precision_recall(found)
    assert len(figure.axes[0].get_legend().get_texts()) == 6  # type: ignore[union-attr]
    assert len(charts.draw(found, tmp_path)) == 2


def test_a_trial_that_finds_nothing_has_a_curve_that_says_so(tmp_path: Path) -> None:
    truths, found = images(2)
    nothing = [Found(f.boxes[:0], f.labels[:0], f.scores[:0], None) for f in found]
    written = charts.draw(
        evaluate(truths, nothing, ["a", "b"], kind="bbox", metric_type="voc").documents(), tmp_path
    )
    assert [path.name for path in written] == ["precision_recall_curve.png"]


def test_hostile_labels_break_no_picture(tmp_path: Path) -> None:
    assert len(charts.draw(documents(HOSTILE), tmp_path)) == 2
    boxes = np.concatenate([[[i, i, i + 9.0, i + 9.0]] for i in range(len(HOSTILE))])
    labels, masks = np.arange(len(HOSTILE)), [shape(box) for box in boxes]
    there = Truth(boxes, labels, labels % 2 == 1, masks, HEIGHT, WIDTH)
    seen = Found(boxes, labels, labels / 20, masks)
    picture = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    shown = [predictions.Shown(name, picture, there, seen) for name in ("$\\frac{1}{0}$", "\x00a\nb")]
    assert len(predictions.draw(shown, HOSTILE, tmp_path)) == 2


def test_predictions_stand_at_the_right_and_objects_at_the_left(tmp_path: Path) -> None:
    ground = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    box = np.array([[10.0, 10, 40, 40]])
    none = np.zeros((0, 4))
    there = Truth(box, np.array([0]), np.array([False]), [shape(box[0])], HEIGHT, WIDTH)
    nothing = Found(none, np.zeros(0, dtype=np.int64), np.zeros(0), [])
    (path,) = predictions.draw([predictions.Shown("a.jpg", ground, there, nothing)], ["can"], tmp_path)
    assert path == tmp_path / "validation_predictions" / "00.png"
    drawn = pixels_of(path).astype(int)
    blue = (drawn[:, :, 2] - drawn[:, :, 0]) > 60
    half = blue.shape[1] // 2
    assert blue[:, :half].mean() > 0.05
    assert not blue[:, half:].any()
    missing = Truth(none, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool), [], HEIGHT, WIDTH)
    seen = Found(box, np.array([0]), np.array([0.9]), [shape(box[0])])
    (path,) = predictions.draw([predictions.Shown("a.jpg", ground, missing, seen)], ["can"], tmp_path)
    drawn = pixels_of(path).astype(int)
    blue = (drawn[:, :, 2] - drawn[:, :, 0]) > 60
    assert not blue[:, :half].any()
    assert blue[:, half:].mean() > 0.05


def test_one_broken_picture_costs_no_other(tmp_path: Path) -> None:
    truths, found = images(1)
    good = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    broken = predictions.Shown("broken", np.zeros((0, 0, 3), dtype=np.uint8), truths[0], found[0])
    with pytest.raises(ChartError, match=r"00\.png could not be drawn"):
        predictions.draw([broken, predictions.Shown("b", good, truths[1], found[1])], ["can"], tmp_path)
    assert (tmp_path / "validation_predictions" / "01.png").is_file()


def test_images_to_draw_are_spread_evenly() -> None:
    assert predictions.spread(3) == [0, 1, 2]
    assert predictions.spread(100, 5) == [0, 25, 50, 74, 99]
    assert predictions.spread(0) == []
