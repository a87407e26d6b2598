"""The confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from amlocal.trainers.charts import labels, page

_WITH_NUMBERS = 32
_WITH_SHARES = 12
_CONFUSIONS = 6


class Wording(NamedTuple):
    """What a matrix is about: its title, what it counts (one, several), and what its rows are."""

    title: str = "Confusion matrix"
    one: str = "validation image"
    several: str = "validation images"
    row: str = "class"
    rows: str = "classes"


IMAGES = Wording()


def confusion_matrix(
    names: Sequence[str], matrix: Sequence[Sequence[int]], wording: Wording = IMAGES
) -> Figure:
    """Rows are the true classes, coloured by the share of the row; numbers are images, or what `wording`
    says.

    `names` are those of the columns; there may be fewer rows, which have the first of them. With more than 32
    classes there are no numbers, labels are thinned, and the commonest confusions are written below.
    """
    counts = np.array(matrix, dtype=np.int64)
    classes = len(counts)
    total = counts.sum(1, keepdims=True)
    shares = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    shown = labels.shown(names, 24)
    side = float(np.clip(0.62 * classes, 2.6, 9.0))
    figure = page.new(side + 3.2, side + 2.4)
    axes = figure.add_subplot()
    # Small shares must still be seen where the cells are small.
    norm = PowerNorm(1.0 if classes <= _WITH_NUMBERS else 0.5, 0.0, 1.0)
    axes.set_facecolor("#eeeeee")
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=30, pad=0.02)
    bar.set_label(f"share of the true {wording.row}'s {wording.several.rpartition(' ')[2]}")
    bar.outline.set_visible(False)
    _ticks(axes, shown, classes, side)
    if classes <= _WITH_NUMBERS:
        _numbers(axes, counts, shares, side / classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    images = int(counts.sum())
    rows = labels.counted(classes, wording.row, wording.rows)
    right = f", {np.trace(counts) / images:.1%} right" if images else ""
    notes = [_confusions(counts, labels.shown(names, 16))] if classes > _WITH_NUMBERS else []
    empty = int((total == 0).sum())
    if empty:
        notes.append(f"grey rows: {empty} of {rows} without {wording.several}")
    facts = f"{labels.counted(images, wording.one, wording.several)}, {rows}"
    page.headline(figure, wording.title, facts + right, notes)
    return figure


def _ticks(axes: Axes, shown: Sequence[str], rows: int, side: float) -> None:
    step = labels.every(len(shown), int(side / 0.14))
    places = list(range(0, len(shown), step))
    texts = [shown[i] for i in places]
    size = 8 if len(places) <= 40 else 7
    across = max(map(len, texts)) * 0.075 > side / len(shown) * step
    axes.set_xticks(places, texts, rotation=90 if across else 0, fontsize=size)
    down = [place for place in places if place < rows]
    axes.set_yticks(down, texts[: len(down)], fontsize=size)
    axes.tick_params(length=0 if step == 1 else 2)
    axes.spines[:].set_visible(False)
    if len(shown) <= _WITH_NUMBERS:
        right, bottom = len(shown) - 0.5, rows - 0.5
        across_and_down = [((-0.5, e), (right, e)) for e in np.arange(1, rows) - 0.5]
        across_and_down += [((e, -0.5), (e, bottom)) for e in np.arange(1, len(shown)) - 0.5]
        axes.add_collection(LineCollection(across_and_down, colors="white", linewidths=1.0))


def _numbers(axes: Axes, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], cell: float) -> None:
    widest = len(_short(int(counts.max())))
    size = float(np.clip(cell * 72 / (0.75 * max(widest, 3)), 4.0, 11.0))
    for row, column in np.ndindex(counts.shape):
        count, share = int(counts[row, column]), shares[row, column]
        if not np.isfinite(share) or (count == 0 and row != column):
            continue
        text = _short(count)
        if len(counts) <= _WITH_SHARES and count:
            text += f"\n{share:.0%}"
        colour = "white" if share > 0.55 else page.INK
        number = axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
        number.set_linespacing(1.1)
        number.set_in_layout(False)  # it lies inside; measuring each takes most of the time


def _short(count: int) -> str:
    if count < 10_000:
        return str(count)
    return f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1_000_000:.1f}M"


def _confusions(counts: npt.NDArray[np.int64], shown: Sequence[str]) -> str:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong.ravel(), kind="stable")[:_CONFUSIONS]
    rows, columns = np.unravel_index(order, wrong.shape)
    found = [
        f"{shown[row]} as {shown[column]} ({wrong[row, column]})"
        for row, column in zip(rows, columns, strict=True)
        if wrong[row, column]
    ]
    if not found:
        return "nothing is confused"
    half = (len(found) + 1) // 2
    lines = [", ".join(found[:half]), ", ".join(found[half:])]
    return "most often taken for another: " + "\n".join(filter(None, lines))
