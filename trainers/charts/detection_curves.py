"""The precision-recall curves of detection as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from amlocal.trainers.charts import labels, page
from amlocal.trainers.metrics.detection_documents import CURVE, PER_LABEL, curve_names

_COLOURED = 10
_PICKED = 5
_UNDEFINED = -1.0

Documents = Mapping[str, Mapping[str, Any]]


def precision_recall(documents: Documents) -> Figure:
    """Precision against recall of each label and their mean, over the thresholds of `pr_curve`.

    With more than ten labels, all are drawn faintly and the five with the lowest average precision in colour.
    """
    names: list[str] = documents[PER_LABEL]["data"]["class_labels"]
    rows = documents[PER_LABEL]["data"]["rows"]
    scores = {i: row["average_precision"] for i, row in enumerate(rows)}
    lines = {i: _points(documents[name]) for i, name in enumerate(curve_names(names))}
    there = [i for i in lines if scores[i] != _UNDEFINED and len(lines[i])]
    chosen, title = there, "average precision"
    if len(there) > _COLOURED:
        chosen = sorted(there, key=lambda i: (scores[i], i))[:_PICKED]
        title = f"average precision,\nthe {_PICKED} lowest of {labels.counted(len(there), 'label', 'labels')}"
    figure = page.new(7.6, 5.4)
    axes = figure.add_subplot()
    page.tidy(axes)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.03)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    faint = [lines[i] for i in there if i not in chosen]
    axes.add_collection(LineCollection(faint, colors=page.FAINT, linewidths=0.7, alpha=0.6))
    drawn, texts = [], []
    shown = labels.shown(names)
    for place, i in enumerate(chosen):
        drawn += axes.plot(*lines[i].T, color=page.COLOURS[place], linewidth=1.6, marker=".", markersize=3)
        texts.append(f"{shown[i]}  {scores[i]:.3f}")
    mean = _points(documents[CURVE])
    if there:
        drawn += axes.plot(*mean.T, color=page.INK, linewidth=2.0, linestyle="--")
        texts.append(f"mean of the labels  {np.mean([scores[i] for i in there]):.3f}")
        page.legend(axes, drawn, texts, title)
    else:
        axes.text(0.5, 0.5, "not defined: nothing was found, or nothing is there", ha="center", va="center")
    missing = len(names) - len(there)
    total = labels.counted(len(names), "label", "labels")
    notes = [f"left out: {missing} of {total} without objects or without predictions"] if missing else []
    page.headline(figure, "Precision-recall curve", f"{total}, score thresholds 0.99 to 0.00", notes)
    return figure


def _points(document: Mapping[str, Any]) -> Any:
    """(n, 2) recall and precision, where both are defined."""
    rows: Sequence[Mapping[str, float]] = document["data"]["rows"]
    found = [(row["recall"], row["precision"]) for row in rows if _UNDEFINED not in row.values()]
    return np.array(found, dtype=np.float64).reshape(-1, 2)
