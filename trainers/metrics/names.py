"""The names under which scalars are logged: Azure's own, and how ours beyond them are marked."""

from __future__ import annotations

AVERAGES = ("macro", "micro", "weighted")
PREFIX = "amlocal."
"""Begins every name that Azure does not log, so that nobody takes it for one of Azure's."""

PREDICTION = ("f1_score", "precision_score", "recall_score")
SCORE = ("AUC", "average_precision_score")
IOU = "iou"

_AVERAGED = frozenset(f"{name}_{average}" for name in (*PREDICTION, *SCORE) for average in AVERAGES)

MULTICLASS = frozenset({"accuracy", "log_loss", *(f"{n}_binary" for n in (*PREDICTION, *SCORE))}) | _AVERAGED
"""What Azure logs at each evaluation of a multi-class trial; the `_binary` ones only with two classes."""

MULTILABEL = frozenset({"accuracy", "log_loss", IOU, *(f"{IOU}_{a}" for a in AVERAGES)}) | _AVERAGED
"""What Azure logs at each evaluation of a multi-label trial."""

DETECTION = frozenset({"mean_average_precision", "precision", "recall", "log_loss"})
"""What Azure logs at each evaluation of a detection or segmentation trial; log_loss where log_validation_loss
asks for it."""

TRAINING = frozenset({"log_loss_train", "accuracy_train", "iou_train"}) | {f"{n}_train" for n in DETECTION}
"""What Azure logs about the training images; all but log_loss_train only where log_training_metrics asks for
it."""

ONLY_AS_PRIMARY = frozenset({"norm_macro_recall"})
"""Azure's name, which Azure never logs beside the others; here it is logged where it is the primary
metric."""


def is_azures(name: str) -> bool:
    """Whether Azure logs a scalar of this name in some image task."""
    return name in MULTICLASS | MULTILABEL | DETECTION | TRAINING | ONLY_AS_PRIMARY


def ours(name: str) -> str:
    """The name under which a scalar of our own is logged. Raises ValueError for one of Azure's names."""
    if is_azures(name):
        raise ValueError(f"{name} is one of Azure's metrics; it is logged under its own name")
    return PREFIX + name
