"""The five curves of an accuracy table as pictures.

Up to ten classes have a colour each. With more, all are drawn faintly and the five that most need a look are
picked out in colour; so a picture with 200 classes still says something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from amlocal.trainers.charts import labels, page, points

_COLOURED = 10
_PICKED = 5
_STEEP = 20.0
_SCORES = {"auc": "AUC", "average_precision": "average precision"}


class Table:
    """An accuracy table, and the classification report of the same evaluation for the numbers in the
    legends."""

    def __init__(self, data: Mapping[str, Any], report: Mapping[str, Any]) -> None:
        self._data = data
        self._labels = labels.shown(data["class_labels"])
        self._classes, self._micro = points.counts(data)
        self._rows = report["rows"]
        self._images = int(self._classes[0].positives + self._classes[0].negatives)
        self._there = [i for i, one in enumerate(self._classes) if one.positives > 0]

    def roc(self) -> Figure:
        """True positives against false positives, with the area under each curve."""
        usable = [i for i in self._there if self._classes[i].negatives > 0]
        each = {i: self._classes[i].roc() for i in usable}
        figure, axes = self._square("ROC curve", usable)
        axes.plot([0, 1], [0, 1], color=page.FAINT, linestyle=":", linewidth=1.2)
        if each:
            self._lines(axes, each, self._micro.roc(), points.macro(list(each.values())), "auc")
        else:
            axes.text(0.5, 0.5, "not defined: all images are of one class", ha="center", va="center")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        return figure

    def precision_recall(self) -> Figure:
        """Precision against recall, with the average precision of each class."""
        each = {i: self._classes[i].precision_recall() for i in self._there}
        figure, axes = self._square("Precision-recall curve", self._there)
        mean = points.macro(list(each.values()), steps=True)
        self._lines(axes, each, self._micro.precision_recall(), mean, "average_precision", steps=True)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        return figure

    def gains(self) -> Figure:
        """Which share of a class is found in the images that look most like it."""
        each = {i: self._classes[i].gains() for i in self._there}
        figure, axes = self._square("Cumulative gains curve", self._there)
        axes.plot([0, 1], [0, 1], color=page.FAINT, linestyle=":", linewidth=1.2)
        self._lines(axes, each, self._micro.gains(), points.macro(list(each.values())), None)
        axes.set_xlabel("share of the images, most probable first")
        axes.set_ylabel("share of the class found")
        return figure

    def lift(self) -> Figure:
        """The same, as a multiple of what as many images by chance would hold."""
        each = {i: self._classes[i].lift() for i in self._there}
        figure, axes = self._square("Lift curve", self._there)
        axes.axhline(1.0, color=page.FAINT, linestyle=":", linewidth=1.2)
        share, gain = points.macro([self._classes[i].gains() for i in self._there])
        mean = share[1:], gain[1:] / share[1:]
        self._lines(axes, each, self._micro.lift(), mean, None)
        top = max(float(y.max()) for _, y in each.values())
        axes.set_ylim(0.0, 1.05 * max(top, 1.0))
        if top > _STEEP:
            axes.set_xscale("log")
            axes.set_yscale("log")
            page.plain_numbers(axes.xaxis, "{:g}")
            page.plain_numbers(axes.yaxis, "{:,g}")
            axes.set_xlim(1.0 / self._images, 1.05)
            axes.set_ylim(0.5, 1.3 * top)
        axes.set_xlabel("share of the images, most probable first")
        axes.set_ylabel("times more than by chance")
        return figure

    def calibration(self) -> Figure:
        """How often predictions of a probability are true; below it, how many predictions there are."""
        classes, micro = points.bins(self._data)
        each = {i: classes[i].calibration() for i in self._there}
        figure = page.new(7.6, 6.8)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        self._headline(figure, "Calibration curve", self._there)
        self._frame(above)
        above.plot([0, 1], [0, 1], color=page.FAINT, linestyle=":", linewidth=1.2)
        worst = {i: -classes[i].error() for i in self._there}
        self._lines(above, each, micro.calibration(), None, None, worst=worst, marker="o")
        above.set_ylabel("share that is true")
        page.tidy(below)
        edges = np.linspace(0.0, 1.0, points.BINS + 1)
        below.stairs(micro.count, edges, fill=True, color="#9db8d1")
        below.set_yscale("log")
        page.plain_numbers(below.yaxis, "{:,.0f}")
        below.set_ylim(0.8, 2.0 * max(1.0, float(micro.count.max())))
        below.set_ylabel("predictions")
        below.set_xlabel("predicted probability")
        return figure

    # Inside

    def _square(self, title: str, used: Sequence[int]) -> tuple[Figure, Axes]:
        figure = page.new(7.6, 5.4)
        axes = figure.add_subplot()
        self._headline(figure, title, used)
        self._frame(axes)
        return figure, axes

    def _frame(self, axes: Axes) -> None:
        page.tidy(axes)
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.03)

    def _headline(self, figure: Figure, title: str, used: Sequence[int]) -> None:
        images = labels.counted(self._images, "validation image", "validation images")
        total = labels.counted(len(self._labels))
        missing = len(self._labels) - len(used)
        notes = [f"left out: {missing} of {total} without images to compare"] if missing else []
        page.headline(figure, title, f"{images}, {total}", notes)

    def _lines(
        self,
        axes: Axes,
        each: Mapping[int, points.Curve],
        micro: points.Curve,
        macro: points.Curve | None,
        score: str | None,
        *,
        worst: Mapping[int, float] | None = None,
        steps: bool = False,
        marker: str | None = None,
    ) -> None:
        scores = worst if worst is not None else self._scores(each, score or "auc")
        chosen = list(each)
        title = _SCORES.get(score or "")
        if len(each) > _COLOURED:
            chosen = sorted(each, key=lambda i: (scores.get(i, 0.0), i))[:_PICKED]
            title = _picked(
                len(each), score, "farthest from the diagonal" if worst else "with the lowest AUC"
            )
            faint = [i for i in each if i not in chosen]
            axes.add_collection(
                LineCollection(
                    [np.column_stack(_stairs(*each[i]) if steps else each[i]) for i in faint],
                    colors=page.FAINT,
                    linewidths=0.7,
                    alpha=max(0.25, 0.7 - len(faint) / 400),
                )
            )
        shape: dict[str, Any] = {"drawstyle": "steps-pre" if steps else "default"}
        lines: list[Line2D] = []
        texts: list[str] = []
        for position, i in enumerate(chosen):
            (line,) = axes.plot(
                *each[i],
                color=page.COLOURS[position],
                linewidth=1.6,
                marker=marker,
                markersize=3.5,
                **shape,
            )
            lines.append(line)
            texts.append(_entry(self._labels[i], scores.get(i) if score else None))
        averages: dict[str, tuple[points.Curve | None, Any]] = {"micro": (micro, "-"), "macro": (macro, "--")}
        for name, (curve, style) in averages.items():
            if curve is None:
                continue
            (line,) = axes.plot(*curve, color=page.INK, linewidth=2.0, linestyle=style, **shape)
            lines.append(line)
            texts.append(_entry(f"{name} average", self._average(name, score)))
        page.legend(axes, lines, texts, title)

    def _scores(self, each: Mapping[int, points.Curve], score: str) -> dict[int, float]:
        return {i: self._rows[i][score] for i in each if self._rows[i][score] is not None}

    def _average(self, name: str, score: str | None) -> float | None:
        row = dict(zip(("micro", "macro", "weighted"), self._rows[-3:], strict=True))[name]
        value: float | None = row[score] if score else None
        return value


def _stairs(x: points.Floats, y: points.Floats) -> points.Curve:
    """The corners of steps that hold the next point's value."""
    return np.repeat(x, 2)[:-1], np.r_[y[0], np.repeat(y[1:], 2)]


def _entry(text: str, score: float | None) -> str:
    return text if score is None else f"{text}  {score:.3f}"


def _picked(classes: int, score: str | None, why: str) -> str:
    if score is not None:
        return f"{_SCORES[score]},\nthe {_PICKED} lowest of {classes} classes"
    return f"the {_PICKED} of {classes} classes\n{why}"
