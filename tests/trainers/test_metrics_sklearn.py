"""Every scalar equals scikit-learn's own function to 1e-9, before it is rounded."""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.exceptions import UndefinedMetricWarning

from amlocal.trainers.metrics import averages, classification, multilabel, names

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

AVERAGES = ("macro", "micro", "weighted")
PREDICTION = {
    "f1_score": sk.f1_score,
    "precision_score": sk.precision_score,
    "recall_score": sk.recall_score,
}
SCORE = {"AUC": sk.roc_auc_score, "average_precision_score": sk.average_precision_score}
TOLERANCE = 1e-9


def same(found: dict[str, float], expected: dict[str, float]) -> None:
    """The same names, and values equal to 1e-9 or both not a number."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=TOLERANCE, nan_ok=True), name


def expected_scores(columns: Ints, probabilities: Floats, usable: Ints) -> dict[str, float]:
    values = {}
    for name, function in SCORE.items():
        # AUC needs negatives as well.
        which = [c for c in usable if name != "AUC" or columns[:, c].sum() < len(columns)]
        for average in ("macro", "weighted"):
            each = [function(columns[:, c], probabilities[:, c]) for c in which]
            weights = columns.sum(0)[which] if average == "weighted" else None
            values[f"{name}_{average}"] = np.average(each, weights=weights) if each else math.nan
        flat = columns.ravel()
        possible = flat.any() and (name != "AUC" or not flat.all())
        values[f"{name}_micro"] = function(flat, probabilities.ravel()) if possible else math.nan
    return values


def expected_classes(truth: Ints, probabilities: Floats, loss: float) -> dict[str, float]:
    """What scikit-learn says, called metric by metric."""
    predicted = probabilities.argmax(1)
    classes = probabilities.shape[1]
    values = {"accuracy": sk.accuracy_score(truth, predicted), "log_loss": loss}
    for name, function in PREDICTION.items():
        for average in AVERAGES:
            values[f"{name}_{average}"] = function(truth, predicted, average=average, zero_division=0)
        if classes == 2:
            values[f"{name}_binary"] = function(truth, predicted, average="binary", zero_division=0)
    columns = np.eye(classes, dtype=np.int64)[truth]
    values |= expected_scores(columns, probabilities, np.unique(truth))
    if classes == 2:
        for name, function in SCORE.items():
            values[f"{name}_binary"] = function(truth, probabilities[:, 1])
    return values


def expected_labels(truth: Ints, probabilities: Floats, loss: float) -> dict[str, float]:
    """The same for several labels; needs at least two columns, or scikit-learn takes them for one answer."""
    predicted = (probabilities > 0.5).astype(np.int64)
    values = {"accuracy": sk.accuracy_score(truth, predicted), "log_loss": loss}
    values["iou"] = sk.jaccard_score(truth, predicted, average="samples", zero_division=0)
    for average in AVERAGES:
        values[f"iou_{average}"] = sk.jaccard_score(truth, predicted, average=average, zero_division=0)
        for name, function in PREDICTION.items():
            values[f"{name}_{average}"] = function(truth, predicted, average=average, zero_division=0)
    return values | expected_scores(truth, probabilities, np.flatnonzero(truth.any(0)))


def random_classes(seed: int, classes: int, images: int, kind: str) -> tuple[Ints, Floats]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, images)
    truth[:2] = 0, classes - 1  # at least two classes
    probabilities = rng.dirichlet(np.full(classes, 0.5), images)
    if kind == "missing":
        truth[truth == classes // 2] = 0
    elif kind == "ties":
        probabilities = np.round(probabilities, 1)
    elif kind == "equal":
        probabilities = np.full((images, classes), 1 / classes)
    elif kind == "perfect":
        probabilities = np.eye(classes)[truth]
    elif kind == "wrong":
        probabilities = np.eye(classes)[(truth + 1) % classes]
    return truth, probabilities


KINDS = ("plain", "missing", "ties", "equal", "perfect", "wrong")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seed", "classes", "images"), [(0, 2, 31), (1, 3, 40), (2, 7, 25), (3, 29, 300)])
def test_multi_class_equals_scikit_learn(kind: str, seed: int, classes: int, images: int) -> None:
    if kind == "missing" and classes == 2:
        classes = 3
    truth, probabilities = random_classes(seed, classes, images, kind)
    found = classification.values(truth, probabilities, 0.123456789, "accuracy")
    same(found, expected_classes(truth, probabilities, 0.123456789))
    if kind == "perfect":
        assert {value for name, value in found.items() if name != "log_loss"} == {1.0}
    if kind == "wrong":
        assert found["accuracy"] == found["f1_score_macro"] == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_multi_class_areas_equal_scikit_learns_one_versus_rest(kind: str) -> None:
    truth, probabilities = random_classes(4, 5, 80, kind if kind != "missing" else "plain")
    probabilities = probabilities / probabilities.sum(1, keepdims=True).clip(1e-9)
    found = classification.values(truth, probabilities, 0.0, "accuracy")
    for average in ("macro", "weighted", "micro"):
        area = sk.roc_auc_score(truth, probabilities, multi_class="ovr", average=average)
        assert found[f"AUC_{average}"] == pytest.approx(area, abs=TOLERANCE)
        precision = sk.average_precision_score(truth, probabilities, average=average)
        assert found[f"average_precision_score_{average}"] == pytest.approx(precision, abs=TOLERANCE)


@pytest.mark.parametrize("seed", range(5))
def test_norm_macro_recall_equals_scikit_learns_adjusted_balanced_accuracy(seed: int) -> None:
    truth, probabilities = random_classes(seed, 4, 60, "plain")
    found = classification.values(truth, probabilities, 0.0, "norm_macro_recall")["norm_macro_recall"]
    adjusted = sk.balanced_accuracy_score(truth, probabilities.argmax(1), adjusted=True)
    assert found == pytest.approx(adjusted, abs=TOLERANCE)


def random_labels(seed: int, labels: int, images: int, kind: str) -> tuple[Ints, Floats]:
    rng = np.random.default_rng(seed)
    truth = (rng.random((images, labels)) < 0.3).astype(np.int64)
    truth[0] = 1
    truth[1] = 0
    probabilities = rng.random((images, labels))
    if kind == "missing":
        truth[:, 0] = 0
    elif kind == "everywhere":
        truth[:, 0] = 1
    elif kind == "ties":
        probabilities = np.round(probabilities, 1)  # 0.5 itself is not predicted
    elif kind == "equal":
        probabilities = np.full((images, labels), 0.5)
    elif kind == "perfect":
        probabilities = truth.astype(np.float64)
    elif kind == "wrong":
        probabilities = 1.0 - truth
    return truth, probabilities


@pytest.mark.parametrize("kind", (*KINDS, "everywhere"))
@pytest.mark.parametrize(("seed", "labels", "images"), [(0, 3, 31), (1, 4, 40), (2, 12, 200)])
def test_multi_label_equals_scikit_learn(kind: str, seed: int, labels: int, images: int) -> None:
    truth, probabilities = random_labels(seed, labels, images, kind)
    found = multilabel.values(truth, probabilities, 0.5, "iou")
    same(found, expected_labels(truth, probabilities, 0.5))
    assert all(math.isfinite(value) for value in found.values())
    if kind == "perfect":
        empty = (~truth.any(1)).mean()
        assert found["accuracy"] == found["f1_score_macro"] == found["AUC_micro"] == 1.0
        assert found["iou"] == pytest.approx(1.0 - empty)
    if kind == "wrong":
        assert found["accuracy"] == found["iou"] == found["AUC_macro"] == 0.0


def test_multi_label_by_hand() -> None:
    truth = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    probabilities = np.array([[0.9, 0.2, 0.4], [0.6, 0.7, 0.1], [0.8, 0.9, 0.3], [0.1, 0.5, 0.2]])
    found = multilabel.values(truth, probabilities, 0.25, "norm_macro_recall")
    assert found["accuracy"] == 0.5  # the third and the fourth image
    assert found["iou"] == (1 / 2 + 1 / 2 + 1 + 0) / 4
    assert found["iou_micro"] == 4 / 6
    assert found["iou_macro"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["iou_weighted"] == pytest.approx((2 * 2 / 3 + 2 * 1 + 1 * 0) / 5)
    assert found["norm_macro_recall"] == pytest.approx(((1 + 1 + 0) / 3 - 0.5) / 0.5)
    assert found["log_loss"] == 0.25


def test_a_label_without_validation_images_counts_as_documented() -> None:
    truth, probabilities = random_labels(7, 4, 50, "missing")
    found = multilabel.values(truth, probabilities, 0.5, "iou")
    rest = multilabel.values(truth[:, 1:], probabilities[:, 1:], 0.5, "iou")
    for name in ("f1_score", "recall_score", "precision_score", "iou"):
        assert found[f"{name}_macro"] == pytest.approx(rest[f"{name}_macro"] * 3 / 4)
        assert found[f"{name}_weighted"] == pytest.approx(rest[f"{name}_weighted"])
    for name in ("AUC", "average_precision_score"):
        for average in ("macro", "weighted"):
            assert found[f"{name}_{average}"] == rest[f"{name}_{average}"]


def test_one_label_is_not_taken_for_two_answers() -> None:
    truth = np.array([[1], [1], [0], [0]])
    probabilities = np.array([[0.9], [0.4], [0.6], [0.1]])
    found = multilabel.every(truth, probabilities)
    assert found["iou"] == 1 / 4
    assert found["iou_macro"] == found["iou_micro"] == found["iou_weighted"] == 1 / 3
    for average in AVERAGES:
        assert found[f"precision_score_{average}"] == found[f"recall_score_{average}"] == 0.5
        assert found[f"AUC_{average}"] == 0.75
    assert multilabel.values(truth, probabilities, 0.5, "iou") == {"iou": 0.25}


def test_no_label_at_all_leaves_only_what_is_defined() -> None:
    truth, probabilities = np.zeros((5, 3), dtype=np.int64), np.full((5, 3), 0.2)
    assert multilabel.scalars(truth, probabilities, 0.5, "accuracy") == {"accuracy": 1.0}
    assert multilabel.scalars(truth, probabilities, 0.5, "iou") == {"iou": 0.0}
    for primary in ("AUC_weighted", "norm_macro_recall", "average_precision_score_weighted"):
        assert multilabel.scalars(truth, probabilities, 0.5, primary) == {}


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(SEEDS, st.integers(2, 6), st.integers(2, 30), st.sampled_from(KINDS))
def test_any_multi_class_input_gives_numbers_in_range_that_equal_scikit_learn(
    seed: int, classes: int, images: int, kind: str
) -> None:
    truth, probabilities = random_classes(seed, classes, images, kind)
    found = classification.values(truth, probabilities, 1.0, "accuracy")
    if len(np.unique(truth)) < 2:
        assert set(found) == {"accuracy"}
        return
    same(found, expected_classes(truth, probabilities, 1.0))
    assert all(0.0 <= value <= 1.0 for value in found.values())
    order = np.random.default_rng(seed).permutation(images)
    same(classification.values(truth[order], probabilities[order], 1.0, "accuracy"), found)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 30), st.sampled_from((*KINDS, "everywhere"))
)
def test_any_multi_label_input_gives_numbers_in_range_that_equal_scikit_learn(
    seed: int, labels: int, images: int, kind: str
) -> None:
    truth, probabilities = random_labels(seed, labels, images, kind)
    found = multilabel.values(truth, probabilities, 1.0, "iou")
    if truth.any(0).sum() < 2:
        assert set(found) == {"iou"}
        return
    same(found, expected_labels(truth, probabilities, 1.0))
    assert all(0.0 <= value <= 1.0 for value in found.values() if math.isfinite(value))
    order = np.random.default_rng(seed).permutation(labels)
    same(multilabel.values(truth[:, order], probabilities[:, order], 1.0, "iou"), found)


@pytest.mark.parametrize("kind", KINDS)
def test_no_warning_of_scikit_learn_reaches_the_trial_log(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UndefinedMetricWarning)
        warnings.simplefilter("error", UserWarning)
        for classes in (1, 2, 5):
            truth, probabilities = random_classes(1, classes, 12, kind)
            classification.every(truth, probabilities)
            multilabel.every(*random_labels(1, classes, 12, kind))
        multilabel.every(np.zeros((4, 2), dtype=np.int64), np.zeros((4, 2)))


def test_rounding_is_to_five_digits_and_drops_what_is_no_number() -> None:
    given = {"a": 1 / 3, "b": math.nan, "c": math.inf, "d": 1.0, "e": -1 / 3}
    assert averages.rounded(given) == {"a": 0.33333, "d": 1.0, "e": -0.33333}
    truth, probabilities = random_classes(2, 3, 40, "plain")
    exact = classification.values(truth, probabilities, 1 / 7, "accuracy")
    assert classification.scalars(truth, probabilities, 1 / 7, "accuracy") == {
        name: round(value, 5) for name, value in exact.items()
    }
    assert exact["log_loss"] == 1 / 7
    assert set(exact) == names.MULTICLASS - {n for n in names.MULTICLASS if n.endswith("_binary")}
