"""classification_report and the set of final documents."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from amlocal.trainers.metrics import classification, multilabel
from amlocal.trainers.metrics.documents import final_documents
from amlocal.trainers.metrics.report import classification_report

LABELS = ["cat", "dog", "micro", "never"]


def multi_class() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 3, 50)  # the fourth class does not occur
    return truth, rng.dirichlet(np.ones(4), 50)


def multi_label() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    truth = (rng.random((50, 4)) < 0.4).astype(np.int64)
    truth[:, 3] = 0
    truth[:, 2] = 1
    return truth, rng.random((50, 4))


def test_the_multi_class_report_is_scikit_learns() -> None:
    truth, probabilities = multi_class()
    report = classification_report(truth, probabilities, LABELS, False)
    assert (report["schema_type"], report["schema_version"]) == ("classification_report", "1.0.0")
    data = report["data"]
    assert data["class_labels"] == LABELS
    assert data["columns"] == [
        *("class_name", "precision", "recall", "f1-score", "support", "auc", "average_precision")
    ]
    assert [row["class_name"] for row in data["rows"]] == [*LABELS, "micro", "macro", "weighted"]
    assert all(list(row) == data["columns"] for row in data["rows"])
    theirs = sk.classification_report(
        truth,
        probabilities.argmax(1),
        labels=range(4),
        target_names=["0", "1", "2", "3"],
        output_dict=True,
        zero_division=0,
    )
    for c, row in enumerate(data["rows"][:4]):
        for name in ("precision", "recall", "f1-score", "support"):
            assert row[name] == pytest.approx(theirs[str(c)][name], abs=5e-6)
        assert isinstance(row["support"], int)
    for c in range(3):
        one = truth == c
        assert data["rows"][c]["auc"] == round(sk.roc_auc_score(one, probabilities[:, c]), 5)
        precision = sk.average_precision_score(one, probabilities[:, c])
        assert data["rows"][c]["average_precision"] == round(precision, 5)
    never = data["rows"][3]
    assert (never["support"], never["auc"], never["average_precision"]) == (0, None, None)


def test_the_averages_are_the_logged_scalars() -> None:
    for many, (truth, probabilities), scalars in (
        (False, multi_class(), classification.scalars),
        (True, multi_label(), multilabel.scalars),
    ):
        rows = classification_report(truth, probabilities, LABELS, many)["data"]["rows"]
        logged = scalars(truth, probabilities, 0.0, "accuracy")
        for row in rows[-3:]:
            average = row["class_name"]
            assert row["precision"] == logged[f"precision_score_{average}"]
            assert row["recall"] == logged[f"recall_score_{average}"]
            assert row["f1-score"] == logged[f"f1_score_{average}"]
            assert row["auc"] == logged[f"AUC_{average}"]
            assert row["average_precision"] == logged[f"average_precision_score_{average}"]
            assert row["support"] == truth.sum() if many else len(truth)
            assert not many or row["iou"] == logged[f"iou_{average}"]


def test_the_multi_label_report_is_scikit_learns() -> None:
    truth, probabilities = multi_label()
    data = classification_report(truth, probabilities, LABELS, True)["data"]
    assert data["columns"][5] == "iou"
    predicted = probabilities > 0.5
    for c, row in enumerate(data["rows"][:4]):
        one = truth[:, c]
        assert row["precision"] == round(sk.precision_score(one, predicted[:, c], zero_division=0), 5)
        assert row["recall"] == round(sk.recall_score(one, predicted[:, c], zero_division=0), 5)
        assert row["f1-score"] == round(sk.f1_score(one, predicted[:, c], zero_division=0), 5)
        assert row["iou"] == round(sk.jaccard_score(one, predicted[:, c], zero_division=0), 5)
        assert row["support"] == one.sum()
    assert data["rows"][2]["auc"] is None  # true for every image
    assert data["rows"][2]["average_precision"] == 1.0
    assert data["rows"][3]["average_precision"] is None


def test_final_documents_of_both_tasks_are_json_without_nan() -> None:
    for many, (truth, probabilities), names in (
        (False, multi_class(), {"confusion_matrix", "accuracy_table", "classification_report"}),
        (True, multi_label(), {"classification_report"}),
    ):
        found = final_documents(truth.astype(np.float32), probabilities, LABELS, many)
        assert set(found) == names
        for name, document in found.items():
            assert document["schema_type"] == name
            assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize("many", [False, True])
def test_one_class_and_one_image_have_a_report_too(many: bool) -> None:
    truth = np.array([[1]]) if many else np.array([0])
    rows = classification_report(truth, np.array([[1.0]]), ["only"], many)["data"]["rows"]
    assert [row["class_name"] for row in rows] == ["only", "micro", "macro", "weighted"]
    for row in rows:
        assert (row["precision"], row["recall"], row["f1-score"], row["support"]) == (1.0, 1.0, 1.0, 1)
        assert (row["auc"], row["average_precision"]) == (None, 1.0)
        assert row.get("iou") == (1.0 if many else None)
