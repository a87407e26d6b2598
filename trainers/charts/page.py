"""What all pictures have in common: size, fonts, colours, notes, and how they become files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib import style as styles
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from amlocal.trainers import files
from amlocal.trainers.charts import labels

DPI = 110
INK = "#1f1f1f"
FAINT = "#b8b8b8"
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"),
    *("#56b4e9", "#8c564b", "#6a51a3", "#7f9a1f", "#e15759"),
)
"""Ten colours that stay apart for most colour-blind eyes."""


@contextmanager
def settings() -> Iterator[None]:
    """matplotlib's own defaults for as long as pictures are drawn, with "$" as a plain character.

    The process's settings are as before afterwards.
    """
    ours: dict[Any, Any] = {
        "font.family": list(labels.families()),
        "font.size": 9.0,
        "text.parse_math": False,
        "axes.edgecolor": "#8a8a8a",
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": "#5a5a5a",
        "ytick.color": "#5a5a5a",
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
    }
    with styles.context("default"), rc_context(ours):
        yield


def new(width: float, height: float) -> Figure:
    """An empty picture of so many inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def headline(figure: Figure, title: str, facts: str, notes: Sequence[str] = ()) -> None:
    """Title and, smaller, what it is about; notes stand below everything."""
    figure.suptitle(f"{title}\n{facts}", x=0.02, ha="left", fontsize=10, linespacing=1.5)
    if notes:
        figure.supxlabel("\n".join(notes), x=0.02, ha="left", fontsize=7.5, color="#5a5a5a", linespacing=1.5)


def legend(axes: Axes, lines: Sequence[Line2D], texts: Sequence[str], title: str | None = None) -> None:
    """A legend to the right of the axes."""
    placed = axes.legend(
        lines,
        ["-"] * len(lines),
        title=title,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        alignment="left",
    )
    # matplotlib leaves out entries whose text begins with an underscore, unless they come later.
    for place, text in zip(placed.get_texts(), texts, strict=True):
        place.set_text(text)


def tidy(axes: Axes) -> None:
    """No box, a faint grid behind everything."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e9e9e9", linewidth=0.8)
    axes.set_axisbelow(True)


def plain_numbers(axis: Axis, number: str) -> None:
    """Write the numbers of a logarithmic axis as `number` formats them: matplotlib's own are mathtext."""
    axis.set_major_formatter(lambda value, _: number.format(value))
    axis.set_minor_formatter(lambda value, _: "")


def save(figure: Figure, path: Path) -> None:
    """Write the picture under a temporary name, fsync, rename; then forget it. Makes the folder."""
    buffer = io.BytesIO()
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)  # `new` gave it one
    # Drawn once; savefig draws a picture twice where its layout is computed. No name and version of the
    # program is in the file: the same documents give the same bytes.
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, format="png")
    figure.clear()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(buffer.getvalue())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    files.sync_folder(path.parent)
