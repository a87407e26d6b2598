"""Objects in an image: what the rows of object detection and instance segmentation data say.

Source: "Data schemas to train computer vision models" in Azure Machine Learning's documentation, and what its
trainer does with rows that break them: an object whose box or polygon cannot be used is left out, an image is
left out when it had objects and none can be used, an image without objects is background and is trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from amlocal.compat.jsonl import brief
from amlocal.compat.labels import LabelError, read_class

CORNERS = ("topX", "topY", "bottomX", "bottomY")
LEAST_NUMBERS = 6
"""Of a part of a polygon: three points."""
MOST_OBJECTS = 100_000
_CROWD = ("true", "True", "1")

Box = tuple[float, float, float, float]
Part = tuple[float, ...]


class Annotation(NamedTuple):
    """One object. Coordinates are shares (0 to 1) of the image's width and height.

    `box`: left, top, right, bottom. `polygon`: its parts, each x and y in turns; parts that overlap cut holes
    into each other. Empty in data that has boxes only. `crowd`: metrics skip the object.
    """

    label: str
    box: Box
    crowd: bool = False
    polygon: tuple[Part, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The object as a line of the manifest has it."""
        found: dict[str, Any] = {"label": self.label, "box": list(self.box), "crowd": self.crowd}
        if self.polygon:
            found["polygon"] = [list(part) for part in self.polygon]
        return found


class Objects(NamedTuple):
    """The objects of one row. `dropped` tells which were left out and why; `single`: the label was one object
    in place of a list."""

    annotations: tuple[Annotation, ...]
    dropped: tuple[str, ...] = ()
    single: bool = False


def read_boxes(value: Any) -> Objects:
    """The objects of a detection row; where one has a polygon, that says what its box is.

    Raises LabelError when the image cannot be used.
    """
    return _read(value, polygons=False)


def read_polygons(value: Any) -> Objects:
    """The objects of an instance segmentation row; each needs a polygon.

    Raises LabelError when the image cannot be used.
    """
    return _read(value, polygons=True)


def _read(value: Any, *, polygons: bool) -> Objects:
    single = isinstance(value, dict)
    items: Sequence[Any] = [value] if single else value
    if value is None:
        raise LabelError("no label; an image without objects needs an empty list")
    if not isinstance(items, list):
        raise LabelError(f"label is {brief(value)}; a list of objects is needed")
    if len(items) > MOST_OBJECTS:
        raise LabelError(f"label has {len(items):,} objects; at most {MOST_OBJECTS:,} are read")
    kept: list[Annotation] = []
    dropped: list[str] = []
    for number, item in enumerate(items):
        annotation, reasons = _object(item, f"object {number}", polygons)
        dropped += reasons
        if annotation is not None:
            kept.append(annotation)
    if items and not kept:
        raise LabelError(f"no valid annotations: {'; '.join(dropped[:3])}")
    return Objects(tuple(kept), tuple(dropped), single)


def _object(item: Any, where: str, polygons: bool) -> tuple[Annotation | None, list[str]]:
    """One object, or None when its shape cannot be used; and what was left out of it.

    Raises LabelError for what costs the whole image: an object that is no object, or says too little.
    """
    if not isinstance(item, dict):
        raise LabelError(f"{where} is {brief(item)}; an object with label and coordinates is needed")
    polygon = item.get("polygon")
    missing = [name for name in CORNERS if name not in item]
    if "label" not in item or (missing and polygon is None):
        lacks = "label" if "label" not in item else f"polygon, and {', '.join(missing)}"
        raise LabelError(f"incomplete record: {where} has no {lacks}")
    try:
        label = read_class(item["label"])
    except LabelError as error:
        raise LabelError(f"{where}: {error}") from error
    crowd = _crowd(item.get("isCrowd"))
    if polygon is not None:
        parts, reasons = _parts(polygon, where)
        if not parts:
            return None, [*reasons, f"{where} ({label}): no valid polygon"]
        box = _around(parts)
        if fault := _fault(box):
            return None, [*reasons, f"{where} ({label}): the polygon's box {fault}"]
        return Annotation(label, box, crowd, parts), reasons
    if polygons:
        return None, [f"{where} ({label}): no polygon; instance segmentation needs one"]
    left, top, right, bottom = (_number(item[name], f"{where}: {name}") for name in CORNERS)
    if fault := _fault((left, top, right, bottom)):
        return None, [f"{where} ({label}): the box {fault}"]
    return Annotation(label, (left, top, right, bottom), crowd), []


def _parts(polygon: Any, where: str) -> tuple[tuple[Part, ...], list[str]]:
    if not isinstance(polygon, list):
        raise LabelError(f"{where}: polygon is {brief(polygon)}; a list of lists of numbers is needed")
    # One part in place of a list of parts.
    parts = polygon if polygon and isinstance(polygon[0], list) else [polygon]
    kept: list[Part] = []
    reasons: list[str] = []
    for number, part in enumerate(parts):
        fault = ""
        if not isinstance(part, list):
            raise LabelError(f"{where}: part {number} of its polygon is {brief(part)}; a list is needed")
        values = tuple(_number(value, f"{where}: part {number} of its polygon") for value in part)
        if len(values) < LEAST_NUMBERS:
            fault = f"has {len(values)} numbers, fewer than three points"
        elif len(values) % 2:
            fault = f"has {len(values)} numbers; there must be as many Xs as Ys"
        elif outside := [value for value in values if not 0 <= value <= 1]:
            fault = f"has {_outside(outside[0])}"
        if fault:
            reasons.append(f"{where}: part {number} of its polygon {fault}")
        else:
            kept.append(values)
    return tuple(kept), reasons


def _number(value: Any, where: str) -> float:
    """A number, or text that is one. Raises LabelError."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise LabelError(f"{where} is {brief(value)}; a number is needed")


def _fault(box: Box) -> str:
    """What is wrong with a box; empty when nothing is."""
    left, top, right, bottom = box
    if outside := [value for value in box if not 0 <= value <= 1]:
        return f"has {_outside(outside[0])}"
    if left >= right or top >= bottom:
        named = [f"{a} {x:g} is not less than {b} {y:g}" for a, x, b, y in _pairs(box) if x >= y]
        return f"is reversed or empty: {' and '.join(named)}"
    return ""


def _pairs(box: Box) -> tuple[tuple[str, float, str, float], ...]:
    left, top, right, bottom = box
    return ("topX", left, "bottomX", right), ("topY", top, "bottomY", bottom)


def _outside(value: float) -> str:
    hint = ", which looks like pixels" if value > 1 and value == int(value) else ""
    return f"the coordinate {value:g}{hint}; coordinates are shares of the image's size, from 0 to 1"


def _around(parts: Sequence[Part]) -> Box:
    xs = [x for part in parts for x in part[0::2]]
    ys = [y for part in parts for y in part[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _crowd(value: Any) -> bool:
    """Only these spellings say so (the rule of Azure's trainer)."""
    if isinstance(value, str):
        return value in _CROWD
    return isinstance(value, int | float) and value == 1


def from_manifest(row: Mapping[str, Any]) -> Annotation:
    """What `as_dict` wrote. Raises KeyError, TypeError or ValueError for anything else."""
    left, top, right, bottom = (float(value) for value in row["box"])
    polygon = tuple(tuple(float(value) for value in part) for part in row.get("polygon", ()))
    return Annotation(str(row["label"]), (left, top, right, bottom), bool(row["crowd"]), polygon)
