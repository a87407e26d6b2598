"""The classification report as bars, one group per class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from amlocal.trainers.charts import labels, page

_MOST = 60
_BARS = {"precision": "#0072b2", "recall": "#e69f00", "f1-score": "#009e73", "iou": "#8c564b"}


def classification_report(data: Mapping[str, Any]) -> Figure:
    """Precision, recall, F1 (and IoU) of each class, and their macro average.

    With more than 60 classes, the 60 with the lowest F1 among those that have validation images, worst first.
    """
    classes = len(data["class_labels"])
    rows = data["rows"][:classes]
    shown = labels.shown(data["class_labels"], 30)
    there = [i for i in range(classes) if rows[i]["support"]]
    order, notes = list(range(classes)), []
    if classes > _MOST:
        order = sorted(there, key=lambda i: (rows[i]["f1-score"], i))[:_MOST]
        notes.append(f"the {len(order)} of {labels.counted(classes)} with the lowest F1, worst first")
    if len(there) < classes:
        notes.append(f"{classes - len(there)} of {labels.counted(classes)} without validation images")
    bars = [name for name in _BARS if name in data["columns"]]
    height = 0.075 * len(bars) + 0.1 if classes <= 20 else 0.045 * len(bars) + 0.07
    figure = page.new(8.2, 1.6 + height * (len(order) + 1) + 0.2 * len(notes))
    axes = figure.add_subplot()
    macro = dict(zip(("micro", "macro", "weighted"), data["rows"][-3:], strict=True))["macro"]
    drawn = [*(rows[i] for i in order), macro]
    places = np.arange(len(drawn), dtype=np.float64)
    places[-1] += 0.4  # the average stands apart
    thickness = 0.8 / len(bars)
    lines = []
    for number, name in enumerate(bars):
        offset = (number - (len(bars) - 1) / 2) * thickness
        widths = [row[name] or 0.0 for row in drawn]
        lines.append(axes.barh(places + offset, widths, thickness * 0.92, color=_BARS[name]))
    texts = [f"{shown[i]}  ({rows[i]['support']:,})" for i in order]
    size = 8 if classes <= 20 else 7
    axes.set_yticks(places, [*texts, "macro average"], fontsize=size)
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_xlim(0.0, 1.0)
    page.tidy(axes)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labeltop=len(order) > 30)
    axes.legend(
        lines,
        [{"f1-score": "F1", "iou": "IoU"}.get(name, name) for name in bars],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=8,
    )
    facts = f"{labels.counted(classes)}; in brackets: validation images of each"
    page.headline(figure, "Classification report", facts, notes)
    return figure
