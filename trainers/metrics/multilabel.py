"""Multi-label scalars under Azure's names, computed by scikit-learn.

A label is predicted for an image when its probability is above 0.5. Two rules concern labels that are true
for no validation image: in F1, precision, recall and IoU they count as scikit-learn counts them with
zero_division=0, so a macro average holds a 0 for each; AUC and average precision are not defined for them
(AUC neither for a label true for every image) and are averaged over the other labels.
"""

from __future__ import annotations

import numpy as np
from sklearn import metrics as sk

from amlocal.trainers.metrics import averages, names
from amlocal.trainers.metrics.averages import Classes, Probabilities

THRESHOLD = 0.5


def scalars(truth: Classes, probabilities: Probabilities, loss: float, primary: str) -> dict[str, float]:
    """`values`, rounded to five digits; those that are not defined are left out."""
    return averages.rounded(values(truth, probabilities, loss, primary))


def values(truth: Classes, probabilities: Probabilities, loss: float, primary: str) -> dict[str, float]:
    """What Azure logs of one evaluation, and the primary metric where Azure would not log it; NaN where
    undefined.

    `truth`: 0 and 1 (images, labels). `loss` is the mean validation loss, logged as log_loss. Where fewer
    than two labels are true for any image, only the primary metric is left (Azure's rule).
    """
    found = every(truth, probabilities) | {"log_loss": loss}
    several = int(np.count_nonzero(truth.any(0))) > 1
    wanted = (names.MULTILABEL if several else frozenset()) | {primary}
    return {name: value for name, value in found.items() if name in wanted}


def every(truth: Classes, probabilities: Probabilities) -> dict[str, float]:
    """Every multi-label metric, NaN where undefined.

    `accuracy` is the share of images whose labels are predicted exactly. `iou` is the mean over the images of
    common labels by labels true or predicted (scikit-learn's jaccard_score, average="samples"; 0 for an image
    that has neither); `iou_micro`, `iou_macro` and `iou_weighted` are jaccard_score's other averages.
    """
    predicted = predictions(probabilities)
    columns = averages.Columns(truth, predicted)
    found = {
        "accuracy": float(sk.accuracy_score(truth, predicted)),
        "iou": float(columns.score(sk.jaccard_score, "samples")),
    }
    for average in names.AVERAGES:
        found[f"iou_{average}"] = float(columns.score(sk.jaccard_score, average))
    found |= averages.by_prediction(columns.score)
    found |= averages.by_score(truth, probabilities)
    found["norm_macro_recall"] = norm_macro_recall(truth, predicted)
    return found


def predictions(probabilities: Probabilities) -> Classes:
    """0 and 1 (images, labels)."""
    return (probabilities > THRESHOLD).astype(np.int64)


def norm_macro_recall(truth: Classes, predicted: Classes) -> float:
    """(r - 1/2) / (1 - 1/2) with r the mean recall of the labels that occur, NaN where none does.

    Azure's definition takes away the recall of guessing, which for each label's yes or no is one half.
    """
    occurring = truth.any(0)
    if not occurring.any():
        return float("nan")
    recall = averages.Columns(truth, predicted).score(sk.recall_score, None)
    return (float(np.mean(recall[occurring])) - 0.5) / 0.5
