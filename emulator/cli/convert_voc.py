"""Reads a folder of Pascal VOC's XML files, one an image. Source: the VOC development kit.

Only boxes: VOC's segmentation is pictures. An object marked difficult counts as a crowd, since VOC's metric
skips it too (Azure's own samples convert it so).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from amlocal.emulator.cli import CommandError
from amlocal.emulator.cli.convert_pictures import Picture, Pictures, box, number, side, text

_LARGEST = 4 << 20
_DEEPEST = 32
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SUFFIX = ".jpg"


def read(folder: Path) -> Pictures:
    """Every image that has an XML file there. Raises CommandError where there is none."""
    files = sorted(path for path in folder.glob("*.xml") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise CommandError(f"{folder} holds no XML file; name VOC's folder Annotations.")
    found = Pictures()
    for path in files:
        try:
            root = _parse(path)
        except (expat.ExpatError, ValueError) as error:
            found.left_out.append(f"{path.name}: {error}")
            continue
        _read(root, path, found)
    return found


def _read(root: Element, path: Path, found: Pictures) -> None:
    size = root.find("size")
    width, height = (side(_text(size, name)) for name in ("width", "height"))
    if root.tag != "annotation" or not width or not height:
        found.left_out.append(f"{path.name}: no annotation with the size of its image")
        return
    picture = Picture(_text(root, "filename") or path.stem + _SUFFIX, width, height, [])
    for position, one in enumerate(root.findall("object")):
        label, corners = text(_text(one, "name")), one.find("bndbox")
        made: dict[str, Any] | str = "it has no name"
        if label:
            crowd = number(_text(one, "difficult")) == 1
            made = box(label, [_text(corners, name) for name in _CORNERS], width, height, crowd)
        if isinstance(made, dict):
            picture.objects.append(made)
        else:
            found.left_out.append(f"{path.name}: object {position}: {made}")
    found.pictures.append(picture)


def _text(element: Element | None, name: str) -> str:
    found = element.find(name) if element is not None else None
    return (found.text or "").strip() if found is not None else ""


def _parse(path: Path) -> Element:
    """An XML file without a document type: with one, a few bytes can stand for gigabytes, or for other files.

    Raises ValueError or ExpatError.
    """
    with path.open("rb") as stream:
        raw = stream.read(_LARGEST + 1)
    if len(raw) > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST >> 20} MB")
    builder, depth = TreeBuilder(), 0

    def start(name: str, _: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        builder.start(name, {})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: Any) -> None:
        raise ValueError("it has a document type (DOCTYPE), which is not read; remove it")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.Parse(raw, True)
    return builder.close()
