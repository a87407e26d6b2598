"""Reads a COCO file of instances. Source: "Data format" on cocodataset.org."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from amlocal.compat.jsonl import brief
from amlocal.emulator.cli import CommandError
from amlocal.emulator.cli.convert_pictures import Picture, Pictures, box, content, items, polygon, side, text


def read(path: Path, *, polygons: bool) -> Pictures:
    """Every image with its objects as boxes, or as polygons. Raises CommandError for a file that is none of
    COCO's."""
    document = _load(path)
    names = {_id(one): text(one.get("name")) for one in items(document, "categories", path.name)}
    found = Pictures()
    by_id: dict[Any, Picture] = {}
    for one in items(document, "images", path.name):
        name, width, height = one.get("file_name"), side(one.get("width")), side(one.get("height"))
        if not isinstance(name, str) or not width or not height:
            found.left_out.append(f"image {brief(one.get('id'))}: no file_name, width or height")
            continue
        if _id(one) is None or _id(one) in by_id:
            found.left_out.append(f"image {brief(name)}: its id {brief(one.get('id'))} is not its own")
            continue
        by_id[_id(one)] = Picture(name, width, height, [])
    for one in items(document, "annotations", path.name):
        picture = by_id.get(_id(one, "image_id"))
        label = names.get(_id(one, "category_id"), "")
        made: dict[str, Any] | str
        if picture is None:
            made = f"there is no image {brief(one.get('image_id'))}"
        elif not label:
            made = f"there is no category {brief(one.get('category_id'))}"
        else:
            made = _object(one, picture, label, polygons)
        if picture is not None and isinstance(made, dict):
            picture.objects.append(made)
        else:
            where = f" of {picture.name}" if picture is not None else ""
            found.left_out.append(f"annotation {brief(one.get('id'))}{where}: {made}")
    found.pictures = list(by_id.values())
    return found


def _object(one: dict[str, Any], picture: Picture, label: str, polygons: bool) -> dict[str, Any] | str:
    crowd = one.get("iscrowd") in (1, True)
    if polygons:
        parts = one.get("segmentation")
        if not isinstance(parts, list):
            return "its segmentation is no polygon (run lengths are not taken)"
        return polygon(label, parts, picture.width, picture.height, crowd)
    given = one.get("bbox")
    if not isinstance(given, list) or len(given) != 4:
        return f"its bbox is {brief(given)}"
    try:
        left, top, width, height = (float(value) for value in given)
    except (TypeError, ValueError, OverflowError):
        return f"its bbox is {brief(given)}"
    return box(label, (left, top, left + width, top + height), picture.width, picture.height, crowd)


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(content(path))
    except RecursionError as error:
        raise CommandError(f"{path}: it is nested too deeply.") from error
    except ValueError as error:
        raise CommandError(f"{path}: it is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise CommandError(f"{path}: a JSON object with images, annotations and categories is needed.")
    return document


def _id(one: dict[str, Any], key: str = "id") -> Any:
    value = one.get(key)
    return value if isinstance(value, int | str) else None
