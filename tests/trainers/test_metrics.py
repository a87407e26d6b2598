"""Multi-class scalars and the accuracy table by hand; scikit-learn's word is in test_metrics_sklearn.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from amlocal.trainers.metrics import classification as metrics
from amlocal.trainers.metrics import documents, multilabel

TRUTH = np.array([0, 0, 1, 1, 2, 2])
PROBABILITIES = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.3, 0.6, 0.1],
        [0.2, 0.7, 0.1],
        [0.1, 0.8, 0.1],
        [0.2, 0.1, 0.7],
        [0.5, 0.2, 0.3],
    ]
)


def test_three_classes_by_hand() -> None:
    found = metrics.scalars(TRUTH, PROBABILITIES, 0.654321987, "accuracy")
    predicted = [0, 1, 1, 1, 2, 0]
    assert PROBABILITIES.argmax(1).tolist() == predicted
    assert set(found) == {
        *("accuracy", "log_loss"),
        *(f"{m}_{a}" for m in ("AUC", "average_precision_score") for a in ("macro", "micro", "weighted")),
        *(
            f"{m}_{a}"
            for m in ("f1_score", "precision_score", "recall_score")
            for a in ("macro", "micro", "weighted")
        ),
    }
    assert found["accuracy"] == 0.66667
    assert found["log_loss"] == 0.65432
    assert found["precision_score_macro"] == round((1 / 2 + 2 / 3 + 1) / 3, 5)
    assert found["recall_score_macro"] == round((1 / 2 + 1 + 1 / 2) / 3, 5)
    assert found["recall_score_micro"] == found["accuracy"]


def test_two_classes_have_binary_values_too() -> None:
    truth, positive = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9])
    found = metrics.scalars(truth, np.stack((1 - positive, positive), 1), 0.1, "accuracy")
    assert found["AUC_binary"] == found["AUC_macro"] == 0.75
    assert found["precision_score_binary"] == 0.5
    assert found["recall_score_binary"] == 0.5
    assert found["f1_score_binary"] == 0.5
    assert found["average_precision_score_binary"] == round(sk.average_precision_score(truth, positive), 5)


def test_a_class_without_validation_images_does_not_spoil_the_averages() -> None:
    truth = np.array([0, 0, 2, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.4, 0.1, 0.5], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    found = metrics.scalars(truth, probabilities, 0.5, "accuracy")
    by_class = [sk.roc_auc_score(truth == c, probabilities[:, c]) for c in (0, 2)]
    assert found["AUC_macro"] == round(np.mean(by_class), 5)
    assert all(np.isfinite(value) for value in found.values())


def test_norm_macro_recall_is_reported_only_when_it_is_asked_for() -> None:
    found = metrics.values(TRUTH, PROBABILITIES, 0.5, "norm_macro_recall")
    assert found["norm_macro_recall"] == pytest.approx((2 / 3 - 1 / 3) / (1 - 1 / 3), abs=1e-12)
    assert "norm_macro_recall" not in metrics.scalars(TRUTH, PROBABILITIES, 0.5, "accuracy")


def test_norm_macro_recall_is_nothing_for_guessing_and_one_for_all_right() -> None:
    truth = np.arange(9000) % 3
    perfect = np.eye(3)[truth]
    assert metrics.values(truth, perfect, 0.0, "norm_macro_recall")["norm_macro_recall"] == 1.0
    always_first = np.tile([1.0, 0.0, 0.0], (len(truth), 1))
    guessed = metrics.values(truth, always_first, 0.0, "norm_macro_recall")["norm_macro_recall"]
    assert guessed == pytest.approx(0.0, abs=1e-12)


def test_with_one_class_in_the_validation_data_only_the_primary_metric_is_left() -> None:
    truth = np.zeros(6, dtype=np.int64)
    assert metrics.scalars(truth, PROBABILITIES, 0.5, "accuracy") == {"accuracy": 0.33333}
    assert metrics.scalars(truth, PROBABILITIES, 0.5, "precision_score_weighted") == {
        "precision_score_weighted": 1.0
    }
    assert metrics.scalars(truth, PROBABILITIES, 0.5, "norm_macro_recall") == {"norm_macro_recall": 0.0}
    assert metrics.scalars(truth, PROBABILITIES, 0.5, "average_precision_score_weighted") == {
        "average_precision_score_weighted": 1.0
    }
    assert metrics.scalars(truth, PROBABILITIES, 0.5, "AUC_weighted") == {}
    assert metrics.scalars(truth, np.ones((6, 1)), 0.0, "accuracy") == {"accuracy": 1.0}


def test_a_loss_that_is_no_number_is_not_logged() -> None:
    assert "log_loss" not in metrics.scalars(TRUTH, PROBABILITIES, float("inf"), "accuracy")


def test_confusion_matrix_document() -> None:
    assert documents.confusion_matrix(TRUTH, PROBABILITIES.argmax(1), ["a", "b", "c"]) == {
        "schema_type": "confusion_matrix",
        "schema_version": "1.0.0",
        "data": {"class_labels": ["a", "b", "c"], "matrix": [[1, 1, 0], [0, 2, 0], [1, 0, 1]]},
    }


def test_accuracy_table_counts_at_every_threshold() -> None:
    found = documents.accuracy_table(TRUTH, PROBABILITIES, ["a", "b", "c"])
    assert (found["schema_type"], found["schema_version"]) == ("accuracy_table", "1.0.0")
    data = found["data"]
    assert data["class_labels"] == ["a", "b", "c"]
    assert data["probability_thresholds"][:3] == [0.0, 0.01, 0.02]
    assert len(data["probability_thresholds"]) == len(data["percentile_thresholds"]) == 101
    assert data["probability_tables"][0][0] == [2, 4, 0, 0]
    assert data["probability_tables"][0][100] == [0, 0, 4, 2]
    assert data["percentile_thresholds"][0] == PROBABILITIES.min()
    assert data["percentile_thresholds"][100] == PROBABILITIES.max()
    exact = {
        "probability_tables": np.linspace(0, 1, 101),
        "percentile_tables": np.percentile(PROBABILITIES, range(101)),
    }
    for name, thresholds in exact.items():
        for c, table in enumerate(data[name]):
            positive = c == TRUTH
            for threshold, row in zip(thresholds, table, strict=True):
                chosen = PROBABILITIES[:, c] >= threshold
                assert row == [
                    (chosen & positive).sum(),
                    (chosen & ~positive).sum(),
                    (~chosen & ~positive).sum(),
                    (~chosen & positive).sum(),
                ]


def lines_of_ours(work: Callable[[], Any]) -> int:
    """How many lines of trainers/metrics are executed by `work`."""
    folder = str(Path(metrics.__file__).resolve().parent)
    count = 0
    inside: dict[str, bool] = {}

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return local

    def calls(frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if file not in inside:
            inside[file] = str(Path(file).resolve()).startswith(folder)
        return local if inside[file] else None

    before = sys.gettrace()
    sys.settrace(calls)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_large_evaluations_do_not_loop_over_images_or_thresholds() -> None:
    rng = np.random.default_rng(3)
    images, classes = 2000, 50
    truth = rng.integers(0, classes, images)
    probabilities = rng.dirichlet(np.ones(classes), images)
    many = (rng.random((images, classes)) < 0.05).astype(np.int64)
    labels = [f"class {c}" for c in range(classes)]
    assert lines_of_ours(lambda: metrics.scalars(truth, probabilities, 0.5, "accuracy")) < 20 * classes
    assert lines_of_ours(lambda: multilabel.scalars(many, probabilities, 0.5, "iou")) < 20 * classes
    assert lines_of_ours(lambda: documents.accuracy_table(truth, probabilities, labels)) < 40 * classes
