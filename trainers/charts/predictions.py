"""What a detector finds in images, drawn beside what is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from pycocotools import mask as coco

from amlocal.trainers.charts import ChartError, labels, page
from amlocal.trainers.metrics.objects import Found, Truth

FOLDER = "validation_predictions"
MOST = 16
"""Images that are drawn; a trial's other predictions are in its metrics."""
_MOST_DRAWN = 100
_NAMED = 40
_TINT = 0.4
_WIDEST, _TALLEST = 5.2, 5.2


class Shown(NamedTuple):
    """One image: its name for the reader, its pixels (height, width, 3), what is in it and what was found."""

    name: str
    pixels: npt.NDArray[np.uint8]
    truth: Truth
    found: Found


def spread(count: int, most: int = MOST) -> list[int]:
    """Which of `count` images to draw: evenly spread over them, always the same."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)] if most > 1 else [0]


def draw(images: Sequence[Shown], names: Sequence[str], folder: Path) -> list[Path]:
    """Write one picture per image, ground truth at the left and predictions at the right, into FOLDER in
    `folder`. `names`: of the labels.

    Returns the files. Raises ChartError after trying all of them.
    """
    written, failures = [], []
    with page.settings():
        shown = labels.shown(names)
        for number, image in enumerate(images):
            path = folder / FOLDER / f"{number:02d}.png"
            try:
                page.save(picture(image, shown), path)
            except Exception as error:  # one picture must not cost the others, nor the trained model
                failures.append(f"{path.name} could not be drawn: {type(error).__name__}: {error}")
            else:
                written.append(path)
    if failures:
        raise ChartError("; ".join(failures))
    return written


def picture(image: Shown, names: Sequence[str]) -> Figure:
    """The two panels. Every label has its colour; crowds are dashed. Of more than 100 objects or predictions
    the first, or the best, 100 are drawn."""
    height, width = image.pixels.shape[:2]
    scale = min(_WIDEST / width, _TALLEST / height)
    figure = page.new(2 * scale * width + 0.5, scale * height + 1.0)
    left, right = figure.subplots(1, 2)
    truth, found = image.truth, image.found
    best = np.argsort(-found.scores, kind="stable")
    title = labels.shown([image.name], 60)[0]
    page.headline(figure, title, f"{width} x {height} pixels as the network sees them")
    objects = labels.counted(len(truth), "object", "objects")
    _panel(left, image.pixels, truth, range(len(truth)), names, f"ground truth: {objects}")
    predictions = labels.counted(len(found), "prediction", "predictions")
    _panel(right, image.pixels, found, best.tolist(), names, f"found: {predictions}")
    return figure


def _panel(
    axes: Axes,
    pixels: npt.NDArray[np.uint8],
    things: Truth | Found,
    order: Sequence[int],
    names: Sequence[str],
    title: str,
) -> None:
    order = order[:_MOST_DRAWN]
    height, width = pixels.shape[:2]
    axes.imshow(_tinted(pixels, things, order), interpolation="antialiased")
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_axis_off()
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    crowd = things.crowd if isinstance(things, Truth) else np.zeros(len(things), dtype=bool)
    # The first ones are drawn last, on top.
    drawn = list(reversed(order))
    axes.add_collection(
        LineCollection(
            [_ring(things.boxes[i]) for i in drawn],
            colors=[colour(int(things.labels[i])) for i in drawn],
            linewidths=1.4,
            linestyles=["dashed" if crowd[i] else "solid" for i in drawn],
        )
    )
    for i in list(reversed(order[:_NAMED])):
        text = names[int(things.labels[i])]
        if isinstance(things, Found):
            text = f"{text} {things.scores[i]:.2f}"
        x, y = (float(value) for value in things.boxes[i, :2])
        axes.text(x, y, text, **_written(int(things.labels[i]), above=y > 0.06 * height))


def _written(label: int, *, above: bool) -> Mapping[str, Any]:
    return {
        "color": "white",
        "fontsize": 6.5,
        "ha": "left",
        "va": "bottom" if above else "top",
        "clip_on": True,
        "in_layout": False,
        "bbox": {"facecolor": colour(label), "edgecolor": "none", "pad": 1.0, "alpha": 0.85},
    }


def colour(label: int) -> str:
    """Of a label; ten of them are told apart."""
    return page.COLOURS[label % len(page.COLOURS)]


def _ring(box: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    left, top, right, bottom = (float(value) - 0.5 for value in box)
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


def _tinted(
    pixels: npt.NDArray[np.uint8], things: Truth | Found, order: Sequence[int]
) -> npt.NDArray[np.uint8]:
    if things.masks is None:
        return pixels
    found = pixels.astype(np.float32)
    for i in reversed(order):
        inside = coco.decode(things.masks[i]).astype(bool)
        tint = 255.0 * np.array(to_rgb(colour(int(things.labels[i]))), dtype=np.float32)
        found[inside] = (1 - _TINT) * found[inside] + _TINT * tint
    return found.round().astype(np.uint8)
