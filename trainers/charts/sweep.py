"""Pictures of a sweep: how its trials went, and which hyperparameters they had."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from amlocal.trainers.charts import labels, page
from amlocal.trainers.charts.coordinates import Coordinate, coordinates

Trial = Mapping[str, Any]
_COLOURED = len(page.COLOURS)
_MINUTE = 60_000.0
_STEPS = 24
_CROWD = 60


def metric_over_time(spec: Mapping[str, Any], trials: Sequence[Trial]) -> Figure | None:
    """Each trial's primary metric by interval; below it the best so far over the sweep's time.

    None: no trial has logged a value.
    """
    played = [trial for trial in trials if any(math.isfinite(value) for value in trial["values"])]
    if not played:
        return None
    timed = [trial for trial in played if trial["times"]]
    figure = page.new(8.4, 6.6 if timed else 4.4)
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 2)) if timed else (figure.add_subplot(), None)
    _headline(figure, spec, "by trial", trials, played)
    _by_interval(upper, spec, played)
    if lower is not None:
        _best_so_far(lower, spec, timed)
    return figure


def parallel_coordinates(spec: Mapping[str, Any], trials: Sequence[Trial]) -> Figure | None:
    """A line for each trial through its hyperparameters to its score; grey without one.

    Hyperparameters that are the same in all trials have no axis. None: no trial has a score, or none differs.
    """
    scored = _scored(trials)
    found = coordinates([trial["parameters"] for trial in trials])
    if not scored or not found:
        return None
    scores = [float(trial["score"]) for trial in scored]
    last = Coordinate.of_numbers(_plain(str(spec["metric"])), scores, steep=math.inf)
    figure = page.new(max(6.4, 1.35 * (len(found) + 1) + 1.0), 5.0)
    axes = figure.add_subplot()
    _headline(figure, spec, "by hyperparameter", trials, scored)
    least, most = last.low, last.high
    # The best trial has the brightest colour.
    shades = colormaps["viridis" if spec["maximize"] else "viridis_r"]
    thin = 1.3 if len(trials) <= _CROWD else 0.5
    colour = ScalarMappable(Normalize(least, most if most > least else least + 1.0), shades)
    for trial in reversed(trials):
        heights = [axis.height(trial["parameters"].get(axis.name), trial["trial"]) for axis in found]
        if trial["score"] is None:
            axes.plot(*_curve(heights), color=page.FAINT, linewidth=thin, linestyle="--")
            continue
        best = trial["rank"] == 1
        line = _curve([*heights, last.height(trial["score"], "")])
        shade = colour.to_rgba(float(trial["score"]))
        axes.plot(*line, color=shade, linewidth=2.8 if best else thin, zorder=3 if best else 2)
    for place, axis in enumerate([*found, last]):
        _axis(axes, place, axis)
    axes.set_xlim(-0.3, len(found) + 0.45)
    axes.set_ylim(-0.16, 1.04)
    axes.axis("off")
    bar = figure.colorbar(colour, ax=axes, shrink=0.75, pad=0.02)
    page.plain_numbers(bar.ax.yaxis, "{:.4g}")
    bar.outline.set_visible(False)
    return figure


def _by_interval(axes: Axes, spec: Mapping[str, Any], played: Sequence[Trial]) -> None:
    page.tidy(axes)
    faint = [_steps(trial) for trial in played[_COLOURED:]]
    axes.add_collection(LineCollection(faint, colors=page.FAINT, linewidths=0.7, alpha=0.6))
    lines, texts = [], []
    for place, trial in enumerate(played[:_COLOURED]):
        points = _steps(trial)
        (line,) = axes.plot(
            points[:, 0],
            points[:, 1],
            color=page.COLOURS[place],
            linewidth=2.4 if trial["rank"] == 1 else 1.4,
            linestyle="--" if _stopped(trial) else "-",
            marker="o",
            markersize=3.0,
        )
        lines.append(line)
        texts.append(_entry(trial))
    page.legend(axes, lines, texts, _title(played))
    axes.autoscale_view()
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("interval (one for each time that the metric is logged)")
    axes.set_ylabel(_plain(str(spec["metric"])))


def _best_so_far(axes: Axes, spec: Mapping[str, Any], timed: Sequence[Trial]) -> None:
    page.tidy(axes)
    start, maximize = float(spec["start"]), bool(spec["maximize"])
    rows = sorted(
        (max(0.0, float(at) - start) / _MINUTE, float(value))
        for trial in timed
        for at, value in zip(trial["times"], trial["values"], strict=True)
        if math.isfinite(value)
    )
    minutes, values = np.asarray(rows, dtype=np.float64).T
    best = np.maximum.accumulate(values) if maximize else np.minimum.accumulate(values)
    axes.plot(minutes, values, linestyle="none", marker="o", markersize=2.5, color=page.FAINT)
    axes.plot(minutes, best, drawstyle="steps-post", color=page.INK, linewidth=1.8)
    proxies = [
        Line2D([], [], color=page.INK, linewidth=1.8),
        Line2D([], [], linestyle="none", marker="o", markersize=2.5, color=page.FAINT),
    ]
    page.legend(axes, proxies, ["best so far", "one interval"])
    axes.set_xlabel("minutes since the job's start")
    axes.set_ylabel(_plain(str(spec["metric"])))


def _axis(axes: Axes, place: int, axis: Coordinate) -> None:
    axes.plot([place, place], [0.0, 1.0], color="#8a8a8a", linewidth=1.0, zorder=4)
    for height, text in axis.ticks():
        axes.plot([place - 0.03, place], [height, height], color="#8a8a8a", linewidth=1.0, zorder=4)
        axes.text(
            place + 0.04,
            height,
            text,
            fontsize=7.5,
            va="center",
            zorder=5,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
        )
    axes.text(place, -0.12, axis.shown, fontsize=8, ha="center", va="center", zorder=5)


def _curve(heights: Sequence[float]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A line through the axes that leaves and meets each level, so that crossings can be followed."""
    if len(heights) == 1:
        return np.asarray([-0.12, 0.12]), np.asarray([heights[0]] * 2)
    part = np.linspace(0.0, 1.0, _STEPS)
    ease = part * part * (3.0 - 2.0 * part)
    x = np.concatenate([part + place for place in range(len(heights) - 1)])
    y = np.concatenate([a + (b - a) * ease for a, b in itertools.pairwise(heights)])
    return x, y


def _steps(trial: Trial) -> np.ndarray[Any, Any]:
    values = np.asarray(trial["values"], dtype=np.float64)
    return np.column_stack([np.arange(1, len(values) + 1), values])


def _headline(
    figure: Figure, spec: Mapping[str, Any], how: str, trials: Sequence[Trial], used: Sequence[Trial]
) -> None:
    scored = _scored(trials)
    facts = labels.counted(len(trials), "trial", "trials")
    if scored:
        facts += f", best: {_name(scored[0])} with {scored[0]['score']:.5g}"
    left = len(trials) - len(used)
    notes = []
    if left:
        what = "a value" if how == "by trial" else "a score"
        notes.append(f"{labels.counted(left, 'trial', 'trials')} without {what}")
    page.headline(figure, f"{_plain(str(spec['metric']))} {how}: {_plain(str(spec['job']))}", facts, notes)


def _stopped(trial: Trial) -> bool:
    return trial["status"] in ("Canceled", "Failed")


def _title(played: Sequence[Trial]) -> str:
    title = "trial, score"
    if len(played) > _COLOURED:
        title += f"\nthe best {_COLOURED} of {len(played)}"
    return f"{title}\n(dashed: did not complete)" if any(map(_stopped, played)) else title


def _entry(trial: Trial) -> str:
    return _name(trial) if trial["score"] is None else f"{_name(trial)}  {trial['score']:.5g}"


def _name(trial: Trial) -> str:
    """A trial's number, which ends its name."""
    number = str(trial["trial"]).rpartition("_")[2]
    return f"trial {number}" if number.isdecimal() else _plain(str(trial["trial"]))


def _scored(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial["score"] is not None]


def _plain(text: str) -> str:
    return labels.shown([text], 40)[0]
