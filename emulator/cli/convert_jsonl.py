"""Writes COCO's JSON from an MLTable folder or a JSONL file of boxes or polygons.

Sizes in pixels come from image_details, else from the image itself where it lies beside the data. Polygons
stay polygons; the area of an object is the sum of its parts' areas, that of a box its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from amlocal.compat.annotations import Annotation, read_boxes
from amlocal.compat.azureml_uri import DatastoreUri, JobOutputUri, UriError, clean_path, is_azureml, parse
from amlocal.compat.jsonl import DataError, brief, read_lines
from amlocal.compat.labels import LabelError
from amlocal.compat.mltable import IMAGE_COLUMN
from amlocal.compat.mltable_file import data_files, is_relative, read_definition
from amlocal.emulator.cli import CommandError
from amlocal.emulator.cli.convert_pictures import Done, side

_DIGITS = 3


def convert(source: Path, target: Path, *, label_column: str) -> Done:
    """The file `target` from every row that can be used. Raises CommandError where there is none."""
    images: dict[str, dict[str, Any]] = {}
    found: list[tuple[str, Annotation]] = []
    left_out: list[str] = []
    for folder, where, row in _lines(source, left_out):
        try:
            name, size = _image(folder, row)
            objects = read_boxes(row.get(label_column))
        except (LabelError, ValueError) as error:
            left_out.append(f"{where}: {error}")
            continue
        left_out += [f"{where}: {reason}" for reason in objects.dropped]
        width, height = size
        images.setdefault(name, {"id": len(images) + 1, "file_name": name, "width": width, "height": height})
        found += [(name, one) for one in objects.annotations]
    if not images:
        shown = f" For example: {left_out[0]}" if left_out else ""
        raise CommandError(f"{source}: not one row can be used.{shown}")
    labels = sorted({one.label for _, one in found})
    document = {
        "images": list(images.values()),
        "annotations": [
            _annotation(number, images[name], one, labels.index(one.label) + 1)
            for number, (name, one) in enumerate(found, 1)
        ],
        "categories": [{"id": number, "name": label} for number, label in enumerate(labels, 1)],
    }
    _write(target, document)
    return Done(len(images), len(found), len(labels), left_out)


def _lines(source: Path, left_out: list[str]) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """The folder that paths start from, file:line, and the row."""
    folder = source if source.is_dir() else source.parent
    try:
        if source.is_dir():
            definition = read_definition(source)
            encoding, files = definition.encoding, data_files(source, definition, _refuse)
        else:
            encoding, files = "utf8", [(source.name, source)]
        for name, path in files:
            for line in read_lines(path, encoding=encoding):
                if line.value is None:
                    left_out.append(f"{name}:{line.number}: {line.fault}")
                else:
                    yield folder, f"{name}:{line.number}", line.value
    except DataError as error:
        raise CommandError(error.message) from error


def _refuse(reference: str) -> Path:
    raise ValueError(f"{reference[:200]!r} is not on this machine")


def _image(folder: Path, row: dict[str, Any]) -> tuple[str, tuple[int, int]]:
    """The image's name and size. Raises ValueError."""
    reference = row.get(IMAGE_COLUMN)
    if not isinstance(reference, str) or not reference:
        raise ValueError(f"{IMAGE_COLUMN} is {brief(reference)}")
    try:
        name = _name(reference)
    except UriError as error:
        raise ValueError(f"{reference[:200]!r}: {error.reason}") from error
    details = row.get("image_details")
    given = details if isinstance(details, dict) else {}
    size = side(given.get("width")), side(given.get("height"))
    if not all(size):
        if not is_relative(reference):
            raise ValueError("its size is not known: it needs image_details with width and height")
        size = _measured(folder, name)
    return name, size


def _name(reference: str) -> str:
    if is_azureml(reference):
        parsed = parse(reference)
        if isinstance(parsed, DatastoreUri | JobOutputUri):
            return parsed.path
        raise UriError(reference, "names no file.")
    return clean_path(reference) if is_relative(reference) else reference.rpartition("/")[2]


def _measured(folder: Path, name: str) -> tuple[int, int]:
    """From the image's header."""
    from PIL import Image

    root = folder.resolve()
    try:
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root):
            raise ValueError("its image is a link that leaves the folder")
        with Image.open(path) as image:
            return image.size
    except (OSError, RuntimeError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"its size is not known: no image_details, and the image: {error}") from error


def _annotation(number: int, image: dict[str, Any], one: Annotation, category: int) -> dict[str, Any]:
    width, height = image["width"], image["height"]
    left, top, right, bottom = one.box
    sides = (right - left) * width, (bottom - top) * height
    parts = [[value * (width, height)[at % 2] for at, value in enumerate(part)] for part in one.polygon]
    return {
        "id": number,
        "image_id": image["id"],
        "category_id": category,
        "bbox": [round(value, _DIGITS) for value in (left * width, top * height, *sides)],
        "area": round(sum(map(_area, parts)) if parts else sides[0] * sides[1], _DIGITS),
        "iscrowd": int(one.crowd),
        "segmentation": [[round(value, _DIGITS) for value in part] for part in parts],
    }


def _area(part: Sequence[float]) -> float:
    xs, ys = part[0::2], part[1::2]
    turns = range(len(xs))
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in turns)) / 2


def _write(target: Path, document: dict[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with temporary.open("x", encoding="utf-8") as stream:
            json.dump(document, stream, ensure_ascii=False)
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)
