"""The objects of pictures, for detectors: those that were drawn last on a made one, and as many, at the same
places, on an image of the user's: it is speed that is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amlocal.trainers import files
from amlocal.trainers.bench import pictures

LABELS = ("ellipse", "rectangle")
_OBJECTS = 6
_CORNERS = 24


@dataclass(frozen=True)
class Thing:
    """One object: its label's number, and corners (x, y) in shares of width and height."""

    label: int
    corners: tuple[tuple[float, float], ...]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


_MIDDLE = Thing(1, ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)))


def things(number: int) -> list[Thing]:
    """The objects of picture `number`, at least one; what its edge cuts is none."""
    (width, height), shapes = pictures.shapes(number)
    whole = [shape for shape in shapes if shape.box[2] < width and shape.box[3] < height]
    return [_thing(shape, width, height) for shape in whole[-_OBJECTS:]] or [_MIDDLE]


def annotations(number: int) -> list[dict[str, Any]]:
    """The same as a manifest has them."""
    return [
        {
            "label": LABELS[one.label],
            "box": list(one.box),
            "crowd": False,
            "polygon": [[value for corner in one.corners for value in corner]],
        }
        for one in things(number)
    ]


def write_yolo(paths: Sequence[Path], folder: Path) -> Path:
    """The images in the layout that ultralytics reads: links to them, a text file of middles and sizes for
    each, and the description, whose path is returned."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number, path in enumerate(paths):
        (folder / "images" / f"{number:05d}{path.suffix}").symlink_to(path.resolve())
        lines = []
        for one in things(number):
            left, top, right, bottom = one.box
            numbers = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
            lines.append(f"{one.label} " + " ".join(f"{number:.6f}" for number in numbers))
        (folder / "labels" / f"{number:05d}.txt").write_text("\n".join(lines), encoding="utf-8")
    description = folder / "set.yaml"
    # JSON is YAML too.
    files.write_json(description, {"path": str(folder), "train": "images", "val": "images", "names": LABELS})
    return description


def _thing(shape: pictures.Shape, width: int, height: int) -> Thing:
    left, top, right, bottom = shape.box
    if shape.round:
        turns = [2 * math.pi * corner / _CORNERS for corner in range(_CORNERS)]
        corners = [
            (
                (left + right) / 2 + (right - left) / 2 * math.cos(turn),
                (top + bottom) / 2 + (bottom - top) / 2 * math.sin(turn),
            )
            for turn in turns
        ]
    else:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return Thing(0 if shape.round else 1, tuple((x / width, y / height) for x, y in corners))
