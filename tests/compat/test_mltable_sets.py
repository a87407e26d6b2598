"""Whole sets of rows: too few, no columns, imbalance, two sets compared, reports, limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mltable_desk import GOOD, check, refuse

from amlocal.compat.mltable import compare, lint, write_manifest


def test_fewer_than_ten_good_rows(folder: Path) -> None:
    bad = [{"image_url": f"images/x{number}.jpg", "label": "a"} for number in range(7)]
    report = check(folder, [*bad, *GOOD[:9]])
    assert [(error.code, error.where) for error in report.errors] == [
        ("TooFewRows", "train_annotations.jsonl:1")
    ]
    message = report.errors[0].message
    assert message.startswith("train: 9 of 16 rows can be used, at least 10 are needed. Dropped: ")
    assert "train_annotations.jsonl:1: image not found: images/x0.jpg; " in message
    assert message.endswith("images/x4.jpg; and 2 more.")
    assert check(folder, [*bad, *GOOD[:10]]).errors == []
    assert check(folder, GOOD[:1], minimum_rows=1).errors == []  # type: ignore[arg-type]


def test_no_rows_at_all(folder: Path) -> None:
    assert (
        check(folder, b"\n\n").errors[0].message == "train: 0 of 0 rows can be used, at least 10 are needed."
    )


def test_label_column_that_is_nowhere(folder: Path) -> None:
    rows = [{"image_url": f"images/{n}.jpg", "labels": "a", "image_details": {}} for n in range(12)]
    report = check(folder, list(rows))
    assert [error.code for error in report.errors] == ["ColumnNotFound"]
    for part in (
        "no row has the column 'label'",
        "image_url",
        "labels",
        "image_details",
        "Did you mean 'labels'?",
    ):
        assert part in report.errors[0].message
    assert len(check(folder, list(rows), label_column="labels").rows) == 12


def test_image_column_that_is_nowhere(folder: Path) -> None:
    report = check(folder, [{"image": f"images/{n}.jpg", "label": "a"} for n in range(12)])
    assert "no row has the column 'image_url'. Columns found: " in report.errors[0].message


@pytest.mark.parametrize(
    ("labels", "notice"),
    [
        (["a"] * 12, "all 12 labels are the one class 'a'."),
        (["a"] * 12 + ["b"] * 3, "1 class with fewer than 10 images: 'b' (3)."),
        (
            ["a"] * 40 + ["b"] * 4,
            "imbalanced classes: 'a' has 40 images, 'b' has 4, 10.0 to 1; weighted_loss can help.",
        ),
        (
            ["a"] * 30 + ["b"] * 10,
            "imbalanced classes: 'a' has 30 images, 'b' has 10, 3.0 to 1; weighted_loss can help.",
        ),
        (["Cat"] * 12 + ["cat "] * 12, "classes that differ only by case or blanks: 'Cat' and 'cat '."),
    ],
)
def test_notices(folder: Path, labels: list[str], notice: str) -> None:
    report = check(
        folder, [{"image_url": f"images/{n}.jpg", "label": label} for n, label in enumerate(labels)]
    )
    assert report.errors == []
    assert notice in report.notices


def test_balanced_classes_give_no_notice(folder: Path) -> None:
    assert check(folder, list(GOOD)).notices == []


def test_the_imbalance_is_in_the_report_whether_or_not_it_is_worth_a_notice(folder: Path) -> None:
    labels = ["a"] * 29 + ["b"] * 10
    report = check(
        folder, [{"image_url": f"images/{n}.jpg", "label": label} for n, label in enumerate(labels)]
    )
    assert report.notices == []
    assert report.as_dict()["imbalance"] == {
        "largest": {"label": "a", "images": 29},
        "smallest": {"label": "b", "images": 10},
        "rate": 2.9,
    }
    one = check(folder, [{"image_url": f"images/{n}.jpg", "label": "a"} for n in range(10)])
    assert (one.errors, one.as_dict()["imbalance"]) == ([], None)


def test_two_sets_compared(folder: Path) -> None:
    train = check(folder, list(GOOD))
    other = [{"image_url": "images/0.jpg", "label": "a"}, {"image_url": "images/55.jpg", "label": "new"}]
    validation = check(folder, list(other), minimum_rows=1)
    assert compare(train, validation) == [
        "class 'new' is in the validation data but not in the training data.",
        "1 validation image also in the training data: train_annotations.jsonl:1.",
    ]
    assert compare(train, train)[0].startswith("20 validation images also in the training data: ")


def test_without_time_the_rest_is_left_for_later(folder: Path, tmp_path: Path) -> None:
    ticks = iter(range(1000))
    rows = [{"image_url": f"images/{n % 60}.jpg", "label": "a"} for n in range(600)]
    report = check(folder, list(rows), budget_seconds=3, clock=lambda: float(next(ticks)))
    assert (report.complete, report.pending, report.errors) == (False, 344, [])
    assert len(report.rows) == 60
    with pytest.raises(ValueError, match="not complete"):
        write_manifest(report, tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()


def test_without_any_time_no_verdict_on_numbers(folder: Path) -> None:
    ticks = iter(range(1000))
    report = check(folder, [{"label": "a"}] * 300, budget_seconds=0.5, clock=lambda: float(next(ticks)))
    assert (report.complete, report.errors, report.rows) == (False, [], [])


def test_too_few_rows_are_known_even_when_images_are_not_checked(folder: Path) -> None:
    ticks = iter(range(1000))
    report = check(folder, GOOD[:9], budget_seconds=0.5, clock=lambda: float(next(ticks)))  # type: ignore[arg-type]
    assert (report.complete, report.pending) == (False, 9)
    assert [error.code for error in report.errors] == ["TooFewRows"]


def test_a_report_with_errors_writes_nothing(folder: Path, tmp_path: Path) -> None:
    report = check(folder, GOOD[:3])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 10 are needed"):
        write_manifest(report, tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()


def test_the_report_as_json(folder: Path) -> None:
    report = check(folder, [*GOOD, {"image_url": "images/1.jpg"}])
    assert json.loads(json.dumps(report.as_dict())) == {
        "rows": 20,
        "labels": {"a": 10, "b": 10},
        "unlabelled": 0,
        "imbalance": {
            "largest": {"label": "a", "images": 10},
            "smallest": {"label": "b", "images": 10},
            "rate": 1.0,
        },
        "dropped": [{"file": "train_annotations.jsonl", "line": 21, "reason": "no label", "column": "label"}],
        "notices": [],
        "errors": [],
        "complete": True,
    }


def test_errors_are_capped(folder: Path) -> None:
    assert len(check(folder, b"no\n" * 500).errors) == 20


def test_unknown_task_is_a_mistake_of_the_caller(folder: Path) -> None:
    with pytest.raises(ValueError, match="unknown task 'image-cooking'; known: image-classification"):
        lint(folder, resolve=refuse, task="image-cooking")


def test_a_resolver_without_words(folder: Path) -> None:
    def resolve(uri: str) -> Path:
        raise ValueError

    report = check(folder, [*GOOD, {"image_url": "/x.jpg", "label": "a"}], resolve=resolve)
    assert [row.reason for row in report.dropped] == ["ValueError"]
