"""Every logged name is Azure's, or says that it is ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amlocal.compat import names as compat_names
from amlocal.trainers import spec as specs
from amlocal.trainers import trial
from amlocal.trainers.metrics import classification, multilabel, names

AVERAGES = ("macro", "micro", "weighted")


def test_the_names_are_those_that_azure_logs() -> None:
    shared = {"accuracy", "log_loss"} | {
        f"{metric}_{average}"
        for metric in ("AUC", "average_precision_score", "f1_score", "precision_score", "recall_score")
        for average in AVERAGES
    }
    binary = {
        "AUC_binary",
        "average_precision_score_binary",
        "f1_score_binary",
        "precision_score_binary",
        "recall_score_binary",
    }
    assert shared | binary == names.MULTICLASS
    assert shared | {"iou", "iou_micro", "iou_macro", "iou_weighted"} == names.MULTILABEL
    for deliberately_not in ("weighted_accuracy", "balanced_accuracy", "matthews_correlation"):
        assert not names.is_azures(deliberately_not)
    assert names.is_azures("log_loss_train")
    assert names.is_azures("accuracy_train")


def test_our_own_names_are_marked_and_azures_cannot_be() -> None:
    assert names.ours("images_per_second") == "amlocal.images_per_second"
    assert not names.is_azures(names.ours("images_per_second"))
    with pytest.raises(ValueError, match="log_loss is one of Azure's metrics"):
        names.ours("log_loss")


@pytest.mark.parametrize("classes", [2, 3])
def test_a_multi_class_evaluation_logs_exactly_azures_set(classes: int) -> None:
    rng = np.random.default_rng(1)
    truth = np.arange(40) % classes
    found = classification.scalars(truth, rng.dirichlet(np.ones(classes), 40), 0.5, "accuracy")
    binary = {name for name in names.MULTICLASS if name.endswith("_binary")}
    assert set(found) == names.MULTICLASS - (binary if classes > 2 else set())


def test_a_multi_label_evaluation_logs_exactly_azures_set() -> None:
    rng = np.random.default_rng(1)
    truth = (rng.random((40, 3)) < 0.5).astype(np.int64)
    assert set(multilabel.scalars(truth, rng.random((40, 3)), 0.5, "iou")) == names.MULTILABEL


@pytest.mark.parametrize("task", ["image-classification", "image-classification-multilabel"])
def test_every_primary_metric_is_computed_under_its_logged_name(task: str) -> None:
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.ones(3), 40)
    for metric in compat_names.task(task).primary_metrics:
        if task == "image-classification":
            found = classification.scalars(np.arange(40) % 3, probabilities, 0.5, metric.logged)
        else:
            truth = (rng.random((40, 3)) < 0.5).astype(np.int64)
            found = multilabel.scalars(truth, probabilities, 0.5, metric.logged)
        assert metric.logged in found
        assert all(map(names.is_azures, found)), found


@pytest.mark.parametrize("primary", ["accuracy", "norm_macro_recall"])
def test_whatever_a_trial_logs_is_azures_or_marked(
    primary: str,
    make_spec: Callable[..., Path],
    metrics_of: Callable[[Path], dict[str, dict[int, float]]],
) -> None:
    spec = specs.load(make_spec("named", {"number_of_epochs": 1}, primary_metric=primary))
    trial.run(spec)
    logged = set(metrics_of(spec.state_dir))
    assert names.MULTICLASS - {n for n in names.MULTICLASS if n.endswith("_binary")} <= logged
    assert {"log_loss_train", primary} <= logged
    strange = [n for n in logged if not names.is_azures(n) and not n.startswith(names.PREFIX)]
    assert strange == []
    report = json.loads((spec.artifacts_dir / "classification_report").read_text())
    assert report["data"]["class_labels"] == ["blue", "green", "red"]
    assert (spec.artifacts_dir / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
