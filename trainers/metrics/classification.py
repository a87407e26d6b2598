"""Multi-class scalars under Azure's names, computed by scikit-learn.

Averages of F1, precision and recall are taken over the classes that are true or predicted for some image, as
scikit-learn does. Classes that do not occur among the true labels cannot have an AUC or average precision;
those two are averaged over the classes that occur.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn import metrics as sk

from amlocal.trainers.metrics import averages, names
from amlocal.trainers.metrics.averages import Classes, Probabilities


def scalars(truth: Classes, probabilities: Probabilities, loss: float, primary: str) -> dict[str, float]:
    """`values`, rounded to five digits; those that are not defined are left out."""
    return averages.rounded(values(truth, probabilities, loss, primary))


def values(truth: Classes, probabilities: Probabilities, loss: float, primary: str) -> dict[str, float]:
    """What Azure logs of one evaluation, and the primary metric where Azure would not log it; NaN where
    undefined.

    `loss` is the mean validation loss, logged as log_loss. With one class among the true labels only the
    primary metric is left (Azure's rule).
    """
    found = every(truth, probabilities) | {"log_loss": loss}
    several = len(np.unique(truth)) > 1
    wanted = (names.MULTICLASS if several else frozenset()) | {primary}
    return {name: value for name, value in found.items() if name in wanted}


def every(truth: Classes, probabilities: Probabilities) -> dict[str, float]:
    """Every multi-class metric, NaN where undefined. `truth`: class numbers; the prediction is the class of
    the largest probability, the first of equals. The `_binary` ones are about the second of two classes."""
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    columns = onehot(truth, classes)
    found = {"accuracy": float(sk.accuracy_score(truth, predicted))}
    found |= averages.by_prediction(
        lambda function, average: function(truth, predicted, average=average, zero_division=0)
    )
    found |= averages.by_score(columns, probabilities)
    if classes == 2:
        found |= _binary(truth, predicted, probabilities)
    found["norm_macro_recall"] = norm_macro_recall(truth, predicted, classes)
    return found


def onehot(truth: Classes, classes: int) -> Classes:
    """Class numbers as 0 and 1: (images, classes)."""
    columns: Classes = (truth[:, None] == np.arange(classes)[None, :]).astype(np.int64)
    return columns


def norm_macro_recall(truth: Classes, predicted: Classes, classes: int) -> float:
    """(r - 1/classes) / (1 - 1/classes) with r the mean recall of the classes that occur: 0 for guessing, 1
    for all right (Azure's definition)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes predicted but never true are expected early on
        recall = float(sk.balanced_accuracy_score(truth, predicted))
    chance = 1.0 / classes if classes > 1 else 0.0
    return (recall - chance) / (1.0 - chance)


def _binary(truth: Classes, predicted: Classes, probabilities: Probabilities) -> dict[str, float]:
    positive = (truth == 1).astype(np.int64)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        positive, (predicted == 1).astype(np.int64), average="binary", zero_division=0
    )
    second = positive[:, None], probabilities[:, 1:]
    return {
        "precision_score_binary": float(precision),
        "recall_score_binary": float(recall),
        "f1_score_binary": float(f1),
        "AUC_binary": float(averages.area_under_roc(*second)[0]),
        "average_precision_score_binary": float(averages.average_precision(*second)[0]),
    }
