"""Pictures of a trial's final documents, as PNG files beside them.

    confusion_matrix        confusion_matrix.png
    accuracy_table (*)      roc_curve.png, precision_recall_curve.png, calibration_curve.png, lift_curve.png,
                            cumulative_gains_curve.png
    classification_report   classification_report.png
    pr_curve (**)           precision_recall_curve.png
    confusion_matrix_score_threshold_0.5
                            confusion_matrix.png

(*) together with classification_report, (**) with per_label_metrics, whose numbers stand in the legends.
What detectors find in images is drawn by `predictions`.

Drawn by matplotlib's object interface: no window, no figure that stays open, the same bytes for the same
documents, whatever style the user's own matplotlib settings ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Documents = Mapping[str, Mapping[str, Any]]


class ChartError(Exception):
    """Some pictures could not be drawn; all others were written. The text says which and why."""


def draw(documents: Documents, folder: Path) -> list[Path]:
    """Write the pictures that belong to `documents` (by name, as metrics.documents makes them) into `folder`.

    Returns the files. Takes seconds with many classes. Raises ChartError after trying all of them.
    """
    from amlocal.trainers.charts import page

    written, failures = [], []
    with page.settings():
        for name, make in _pictures(documents).items():
            path = folder / f"{name}.png"
            try:
                page.save(make(), path)
            except Exception as error:  # one picture must not cost the others, nor the trained model
                failures.append(f"{path.name} could not be drawn: {type(error).__name__}: {error}")
            else:
                written.append(path)
    if failures:
        raise ChartError("; ".join(failures))
    return written


def _pictures(documents: Documents) -> dict[str, Callable[[], Figure]]:
    from amlocal.trainers.charts import curves, matrix, report

    pictures: dict[str, Callable[[], Figure]] = {}
    if "confusion_matrix" in documents:
        data = documents["confusion_matrix"]["data"]
        pictures["confusion_matrix"] = lambda: matrix.confusion_matrix(data["class_labels"], data["matrix"])
    if "accuracy_table" in documents:
        table = curves.Table(documents["accuracy_table"]["data"], documents["classification_report"]["data"])
        pictures |= {
            "roc_curve": table.roc,
            "precision_recall_curve": table.precision_recall,
            "calibration_curve": table.calibration,
            "lift_curve": table.lift,
            "cumulative_gains_curve": table.gains,
        }
    if "classification_report" in documents:
        rows = documents["classification_report"]["data"]
        pictures["classification_report"] = lambda: report.classification_report(rows)
    return pictures | _of_detection(documents)


def _of_detection(documents: Documents) -> dict[str, Callable[[], Figure]]:
    if "pr_curve" not in documents:
        return {}
    from amlocal.trainers.charts import detection_curves, matrix
    from amlocal.trainers.metrics.detection_documents import CONFUSION, PER_LABEL

    pictures: dict[str, Callable[[], Figure]] = {}
    if PER_LABEL in documents:
        pictures["precision_recall_curve"] = lambda: detection_curves.precision_recall(documents)
    middle = f"{CONFUSION}0.5"
    if middle in documents:
        data = documents[middle]["data"]
        wording = matrix.Wording("Confusion matrix, scores from 0.5", "object", "objects", "label", "labels")
        # The last row says N/A.
        pictures["confusion_matrix"] = lambda: matrix.confusion_matrix(
            data["class_labels"], data["matrix"][:-1], wording
        )
    return pictures
