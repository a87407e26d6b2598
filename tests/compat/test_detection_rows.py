"""Sets of detection and segmentation rows: what is kept, merged, left out, told, and written for training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mltable_desk import check

from amlocal.compat.annotations import Annotation
from amlocal.compat.mltable import Report, compare, write_manifest

BOXES, POLYGONS = "image-object-detection", "image-instance-segmentation"
CAT = {"label": "cat", "topX": 0.1, "topY": 0.2, "bottomX": 0.5, "bottomY": 0.75, "isCrowd": 0}
DOG = {**CAT, "label": "dog", "isCrowd": "true"}
TRIANGLE = {"label": "tri", "isCrowd": 0, "polygon": [[0.1, 0.2, 0.6, 0.2, 0.3, 0.9]]}


def rows(labels: list[Any], first: int = 0) -> list[object]:
    return [{"image_url": f"images/{n}.jpg", "label": label} for n, label in enumerate(labels, first)]


def of(report: Report) -> dict[str, Any]:
    return {Path(row.path).name: row.label for row in report.rows}


def test_objects_background_and_crowds_are_kept_and_counted(folder: Path) -> None:
    report = check(folder, rows([[CAT, DOG], [CAT, CAT], [], *[[DOG]] * 9]), task=BOXES)
    assert (report.errors, report.dropped, report.left_out) == ([], [], [])
    box = (0.1, 0.2, 0.5, 0.75)
    assert of(report)["0.jpg"] == (Annotation("cat", box), Annotation("dog", box, crowd=True))
    assert of(report)["2.jpg"] == ()
    # Images and objects: a class that is twice in an image counts it once.
    assert (report.labels, report.objects) == ({"cat": 2, "dog": 10}, {"cat": 3, "dog": 10})
    assert report.notices[0] == "1 of 12 images have no objects; they are trained on as background."
    assert "weighted_loss" not in "".join(report.notices)
    document = report.as_dict()
    assert (document["unlabelled"], document["objects"]) == (1, {"cat": 3, "dog": 10})


def test_the_manifest_has_every_object(folder: Path, tmp_path: Path) -> None:
    report = check(folder, rows([[TRIANGLE, TRIANGLE], *[[]] * 9]), task=POLYGONS)
    assert write_manifest(report, tmp_path / "manifest.jsonl") == 10
    first, second = (json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()[:2])
    found = {"label": "tri", "box": [0.1, 0.2, 0.6, 0.9], "crowd": False, "polygon": TRIANGLE["polygon"]}
    assert first["label"] == [found, found] and second["label"] == []
    assert set(first) == {"path", "etag", "label", "source"}


def test_what_cannot_be_used_is_left_out_and_listed(folder: Path) -> None:
    reversed_box = {**CAT, "topX": 0.9}
    outside = {**CAT, "bottomX": 640}
    good: list[Any] = [[CAT]] * 10
    report = check(folder, rows([[CAT, reversed_box, outside], [reversed_box], *good]), task=BOXES)
    assert of(report)["0.jpg"] == (Annotation("cat", (0.1, 0.2, 0.5, 0.75)),)
    said = [(row.where, row.reason, row.column) for row in report.left_out]
    assert said == [
        (
            "train_annotations.jsonl:1",
            "object 1 (cat): the box is reversed or empty: topX 0.9 is not less than bottomX 0.5",
            "label",
        ),
        (
            "train_annotations.jsonl:1",
            "object 2 (cat): the box has the coordinate 640, which looks like pixels; coordinates are shares "
            "of the image's size, from 0 to 1",
            "label",
        ),
    ]
    # The second image has nothing else, so it goes as a whole.
    assert [(row.line, row.reason.partition(":")[0]) for row in report.dropped] == [
        (2, "no valid annotations")
    ]
    assert report.notices[0].startswith(
        "2 boxes or polygons cannot be used and are left out: train_annotations.jsonl:1: object 1 (cat): "
    )
    assert report.as_dict()["left_out_count"] == len(report.as_dict()["left_out"]) == 2


def test_a_million_bad_boxes_are_counted_and_not_kept(folder: Path) -> None:
    bad = [{**CAT, "topX": 0.9}] * 2_500
    report = check(folder, rows([[CAT, *bad]] * 5 + [[CAT]] * 5), task=BOXES)
    assert (len(report.rows), report.left_out_count, len(report.left_out)) == (10, 12_500, 10_000)
    assert "; and 12495 more." in report.notices[0]


def test_rows_of_one_image_are_put_together(folder: Path) -> None:
    more = [{"image_url": "images/0.jpg", "label": [DOG]}, {"image_url": "./images/0.jpg", "label": [CAT]}]
    report = check(folder, [*rows([[CAT]] * 10), *more], task=BOXES)
    assert (len(report.rows), report.dropped) == (10, [])
    assert [one.label for one in of(report)["0.jpg"]] == ["cat", "dog", "cat"]
    assert report.rows[0].source == "train_annotations.jsonl:1"
    assert (report.labels, report.objects) == ({"cat": 10, "dog": 1}, {"cat": 11, "dog": 1})
    assert report.notices[0] == (
        "2 rows of an image that has a row already: the objects of all its rows count: "
        "train_annotations.jsonl:11, train_annotations.jsonl:12."
    )


def test_one_object_in_place_of_a_list_counts_with_a_warning(folder: Path) -> None:
    report = check(folder, rows([CAT, *[[CAT]] * 9]), task=BOXES)
    assert (report.errors, len(report.rows), report.single) == ([], 10, 1)
    assert (
        "1 of 10 labels are no list; each counts as a list of one here, Azure drops such rows."
        in report.notices
    )


def test_a_segmentation_set_serves_for_detection_and_not_the_other_way(folder: Path) -> None:
    report = check(folder, rows([[TRIANGLE]] * 10), task=BOXES)
    assert of(report)["0.jpg"][0].box == (0.1, 0.2, 0.6, 0.9)
    report = check(folder, rows([[CAT]] * 10), task=POLYGONS)
    assert [error.code for error in report.errors] == ["TooFewRows"]
    assert "0 of 10 rows can be used" in report.errors[0].message
    assert "object 0 (cat): no polygon; instance segmentation needs one" in report.errors[0].message


@pytest.mark.parametrize("task", [BOXES, POLYGONS])
def test_images_that_are_all_background_teach_nothing(folder: Path, task: str) -> None:
    report = check(folder, rows([[]] * 12), task=task)
    assert [(error.code, error.message) for error in report.errors] == [
        ("NoLabels", "train: not one of 12 images has an object: all are background.")
    ]


def test_labels_of_another_task_are_refused_with_their_place(folder: Path) -> None:
    report = check(folder, rows(["cat"] * 10), task=BOXES)
    assert "label is 'cat'; a list of objects is needed" in report.errors[0].message
    report = check(folder, rows([None] * 10), task=BOXES)
    assert "no label; an image without objects needs an empty list" in report.errors[0].message


def test_two_sets_compared(folder: Path) -> None:
    train = check(folder, rows([[CAT]] * 10), task=BOXES)
    held = check(folder, rows([[CAT], [DOG]]), task=BOXES, minimum_rows=1)
    assert compare(train, held) == [
        "class 'dog' is in the validation data but not in the training data.",
        "2 validation images also in the training data: train_annotations.jsonl:1, "
        "train_annotations.jsonl:2.",
    ]


# The rows that the documentation prints, as they stand there.
DETECTION_SCHEMA = """\
{"image_url": "images/0.jpg", "image_details": {"format": "jpg", "width": "499px", "height": "666px"}, "label": [{"label": "can", "topX": 0.260, "topY": 0.406, "bottomX": 0.735, "bottomY": 0.701, "isCrowd": 0}]}
{"image_url": "images/1.jpg", "image_details": {"format": "jpg", "width": "499px", "height": "666px"}, "label": [{"label": "carton", "topX": 0.172, "topY": 0.153, "bottomX": 0.432, "bottomY": 0.659, "isCrowd": 0}, {"label": "milk_bottle", "topX": 0.300, "topY": 0.566, "bottomX": 0.891, "bottomY": 0.735, "isCrowd": 0}]}
.
.
.
{"image_url": "images/2.jpg", "image_details": {"format": "jpg", "width": "499px", "height": "666px"}, "label": [{"label": "carton", "topX": 0.0180, "topY": 0.297, "bottomX": 0.380, "bottomY": 0.836, "isCrowd": 0}, {"label": "milk_bottle", "topX": 0.454, "topY": 0.348, "bottomX": 0.613, "bottomY": 0.683, "isCrowd": 0}, {"label": "water_bottle", "topX": 0.667, "topY": 0.279, "bottomX": 0.841, "bottomY": 0.615, "isCrowd": 0}]}
"""  # noqa: E501
SEGMENTATION_SCHEMA = """\
{"image_url": "images/0.jpg", "image_details": {"format": "jpg", "width": "499px", "height": "666px"}, "label": [{"label": "can", "isCrowd": 0, "polygon": [[0.577, 0.689, 0.567, 0.689, 0.559, 0.686, 0.380, 0.593, 0.304, 0.555, 0.294, 0.545, 0.290, 0.534, 0.274, 0.512, 0.2705, 0.496, 0.270, 0.478]]}]}
{"image_url": "images/1.jpg", "image_details": {"format": "jpg", "width": "499px", "height": "666px"}, "label": [{"label": "carton", "isCrowd": 0, "polygon": [[0.240, 0.65, 0.234, 0.654, 0.230, 0.647, 0.210, 0.512, 0.202, 0.403, 0.182, 0.267]]}, {"label": "milk_bottle",  "isCrowd": 0, "polygon": [[0.675, 0.732, 0.635, 0.731, 0.621, 0.725, 0.573, 0.717, 0.516, 0.717]]}]}
.
"""  # noqa: E501
HOW_TO = """\
  {
      "image_url": "images/0.jpg",
      "image_details":
      {
          "format": "png",
          "width": "2230px",
          "height": "4356px"
      },
      "label":
      {
          "label": "cat",
          "topX": "1",
          "topY": "0",
          "bottomX": "0",
          "bottomY": "1",
          "isCrowd": "true",
      }
  }
"""


@pytest.mark.parametrize(
    ("task", "text", "good", "dots"),
    [(BOXES, DETECTION_SCHEMA, 3, [3, 4, 5]), (POLYGONS, SEGMENTATION_SCHEMA, 2, [3])],
)
def test_the_rows_of_the_schema_article(
    folder: Path, task: str, text: str, good: int, dots: list[int]
) -> None:
    """Its dots are no rows: an error with the line, or dropped where the MLTable file says so."""
    report = check(folder, text.encode(), task=task, minimum_rows=1)
    assert [error.where for error in report.errors] == [f"train_annotations.jsonl:{line}" for line in dots]
    assert all("not JSON: Expecting value" in error.message for error in report.errors)
    report = check(folder, text.encode(), task=task, minimum_rows=1, invalid_lines="drop")
    assert (report.errors, len(report.rows), report.left_out) == ([], good, [])
    assert [(row.line, row.column) for row in report.dropped] == [(line, "") for line in dots]


def test_the_rows_of_the_how_to_article(folder: Path) -> None:
    """Printed over several lines, with a comma too many, they are no JSON Lines: the first line says so."""
    report = check(folder, HOW_TO.encode(), task=BOXES)
    assert [error.where for error in report.errors] == [f"train_annotations.jsonl:{n}" for n in range(1, 19)]
    assert report.errors[0].message == (
        "train_annotations.jsonl:1:4: not JSON: Expecting property name enclosed in double quotes at the end "
        "of the line; an object must be whole on one line. Mend the line, or set invalid_lines: drop in "
        "train/MLTable to leave such lines out."
    )
    one_line = " ".join(HOW_TO.split())
    report = check(folder, one_line.encode(), task=BOXES)
    assert "trailing comma" in report.errors[0].message or "property name" in report.errors[0].message
    mended = one_line.replace('"true", }', '"true" }')
    report = check(folder, mended.encode(), task=BOXES, minimum_rows=1)
    assert [row.reason for row in report.dropped] == [
        "no valid annotations: object 0 (cat): the box is reversed or empty: topX 1 is not less than "
        "bottomX 0"
    ]
    assert report.errors[0].code == "TooFewRows"
