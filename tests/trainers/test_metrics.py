from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from amlocal.trainers.metrics import classification as metrics

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
    assert found["accuracy"] == pytest.approx(4 / 6, abs=1e-5)
    assert found["log_loss"] == 0.65432
    assert found["precision_score_macro"] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3, abs=1e-5)
    assert found["recall_score_macro"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3, abs=1e-5)
    assert found["recall_score_micro"] == found["accuracy"]
    assert found["f1_score_weighted"] == pytest.approx(
        sk.f1_score(TRUTH, predicted, average="weighted"), abs=1e-5
    )
    for average in ("macro", "weighted"):
        expected = sk.roc_auc_score(TRUTH, PROBABILITIES, multi_class="ovr", average=average)
        assert found[f"AUC_{average}"] == pytest.approx(expected, abs=1e-5)
    onehot = np.eye(3)[TRUTH]
    for average in ("macro", "micro", "weighted"):
        expected = sk.average_precision_score(onehot, PROBABILITIES, average=average)
        assert found[f"average_precision_score_{average}"] == pytest.approx(expected, abs=1e-5)
    assert found["AUC_micro"] == pytest.approx(
        sk.roc_auc_score(onehot.ravel(), PROBABILITIES.ravel()), abs=1e-5
    )


def test_two_classes_have_binary_values_too() -> None:
    truth, positive = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9])
    found = metrics.scalars(truth, np.stack((1 - positive, positive), 1), 0.1, "accuracy")
    assert found["AUC_binary"] == found["AUC_macro"] == 0.75
    assert found["precision_score_binary"] == 0.5
    assert found["recall_score_binary"] == 0.5
    assert found["f1_score_binary"] == 0.5
    assert found["average_precision_score_binary"] == pytest.approx(
        sk.average_precision_score(truth, positive), abs=1e-5
    )


def test_a_class_without_validation_images_does_not_spoil_the_averages() -> None:
    truth = np.array([0, 0, 2, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.4, 0.1, 0.5], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    found = metrics.scalars(truth, probabilities, 0.5, "accuracy")
    by_class = [sk.roc_auc_score(truth == c, probabilities[:, c]) for c in (0, 2)]
    assert found["AUC_macro"] == pytest.approx(np.mean(by_class), abs=1e-5)
    assert all(np.isfinite(value) for value in found.values())


def test_norm_macro_recall_is_reported_only_when_it_is_asked_for() -> None:
    found = metrics.scalars(TRUTH, PROBABILITIES, 0.5, "norm_macro_recall")
    assert found["norm_macro_recall"] == pytest.approx((2 / 3 - 1 / 3) / (1 - 1 / 3), abs=1e-5)
    assert "norm_macro_recall" not in metrics.scalars(TRUTH, PROBABILITIES, 0.5, "accuracy")


def test_with_one_class_in_the_validation_data_only_the_primary_metric_is_left() -> None:
    truth = np.zeros(6, dtype=np.int64)
    assert metrics.scalars(truth, PROBABILITIES, 0.5, "accuracy") == {"accuracy": 0.33333, "log_loss": 0.5}
    assert metrics.scalars(truth, PROBABILITIES, 0.5, "AUC_weighted") == {"log_loss": 0.5}
    one = metrics.scalars(truth, np.ones((6, 1)), 0.0, "accuracy")
    assert one == {"accuracy": 1.0, "log_loss": 0.0}


def test_confusion_matrix_document() -> None:
    assert metrics.confusion_matrix(TRUTH, PROBABILITIES.argmax(1), ["a", "b", "c"]) == {
        "schema_type": "confusion_matrix",
        "schema_version": "1.0.0",
        "data": {"class_labels": ["a", "b", "c"], "matrix": [[1, 1, 0], [0, 2, 0], [1, 0, 1]]},
    }


def test_accuracy_table_counts_at_every_threshold() -> None:
    found = metrics.accuracy_table(TRUTH, PROBABILITIES, ["a", "b", "c"])
    assert (found["schema_type"], found["schema_version"]) == ("accuracy_table", "1.0.0")
    data = found["data"]
    assert data["class_labels"] == ["a", "b", "c"]
    assert data["probability_thresholds"][:3] == [0.0, 0.01, 0.02]
    assert len(data["probability_thresholds"]) == len(data["percentile_thresholds"]) == 101
    assert data["probability_tables"][0][0] == [2, 4, 0, 0]
    assert data["probability_tables"][0][100] == [0, 0, 4, 2]
    at = 40
    scores = PROBABILITIES[:, 0] >= data["probability_thresholds"][at]
    positive = TRUTH == 0
    expected = [(scores & positive).sum(), (scores & ~positive).sum()]
    expected += [(~scores & ~positive).sum(), (~scores & positive).sum()]
    assert data["probability_tables"][0][at] == expected == [1, 1, 3, 1]
    assert data["percentile_thresholds"][0] == PROBABILITIES.min()
    assert data["percentile_thresholds"][100] == PROBABILITIES.max()
    for tables in (data["probability_tables"], data["percentile_tables"]):
        assert all(sum(row) == 6 for table in tables for row in table)
