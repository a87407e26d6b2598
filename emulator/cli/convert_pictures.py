"""What the converters have in common: an image with its objects, between two formats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from amlocal.compat.annotations import LEAST_NUMBERS
from amlocal.compat.jsonl import brief
from amlocal.emulator.cli import CommandError

MAX_BYTES = 1 << 30
"""Largest file that is read: COCO's own of 118,000 images has 0.45 GB."""
_DIGITS = 7


class Picture(NamedTuple):
    """One image: the name of its file, its size in pixels, and its objects as a row's label has them."""

    name: str
    width: int
    height: int
    objects: list[dict[str, Any]]


@dataclass
class Pictures:
    """What was read; `left_out` says what is not among it, and why."""

    pictures: list[Picture] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass
class Done:
    """What was written."""

    images: int
    objects: int
    classes: int
    left_out: list[str]


def content(path: Path) -> bytes:
    """A file of a reasonable size. Raises CommandError."""
    if not path.is_file():
        raise CommandError(f"{path} is no file.")
    with path.open("rb") as stream:
        found = stream.read(MAX_BYTES + 1)
    if len(found) > MAX_BYTES:
        raise CommandError(f"{path} is larger than {MAX_BYTES >> 20} MB.")
    return found


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def side(value: Any) -> int:
    """A width or height in pixels: 640, "640" or "640px"; 0 for anything else."""
    found = number(value.removesuffix("px") if isinstance(value, str) else value)
    return int(found) if found is not None and 1 <= found <= 1 << 20 and found == int(found) else 0


def box(label: str, corners: Sequence[Any], width: int, height: int, crowd: bool) -> dict[str, Any] | str:
    """An object of a row's label from left, top, right, bottom in pixels, cut off at the image's edges; or
    why there is none."""
    found = [number(value) for value in corners]
    if None in found or len(found) != 4:
        return f"its box is {brief(list(corners))}"
    left, top, right, bottom = (value for value in found if value is not None)
    left, right = (_share(value, width) for value in (left, right))
    top, bottom = (_share(value, height) for value in (top, bottom))
    if left >= right or top >= bottom:
        return "its box has no area inside the image"
    corner = {"topX": left, "topY": top, "bottomX": right, "bottomY": bottom}
    return {"label": label, **corner, "isCrowd": int(crowd)}


def polygon(label: str, parts: Sequence[Any], width: int, height: int, crowd: bool) -> dict[str, Any] | str:
    """The same from a list of parts, each x and y in turns, in pixels."""
    kept = []
    for part in parts:
        values = [number(value) for value in part] if isinstance(part, list) else [None]
        if None in values or len(values) % 2 or len(values) < LEAST_NUMBERS:
            continue
        sizes = (width, height)
        kept.append([_share(v, sizes[at % 2]) for at, v in enumerate(values) if v is not None])
    if not kept:
        return "it has no polygon of three points"
    return {"label": label, "isCrowd": int(crowd), "polygon": kept}


def text(value: Any) -> str:
    """A class as text; "" for what is none."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def items(document: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """A list of objects in a JSON object. Raises CommandError."""
    found = document.get(key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise CommandError(f"{where}: {key!r} must be a list of objects.")
    return found


def _share(pixels: float, size: int) -> float:
    return round(min(max(pixels / size, 0.0), 1.0), _DIGITS)
