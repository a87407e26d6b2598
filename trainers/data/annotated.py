"""Images with objects: the manifest of detection and instance segmentation, and the split as it is left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amlocal.compat.annotations import Annotation, from_manifest
from amlocal.trainers import files
from amlocal.trainers.data.samples import Sample, manifest_rows
from amlocal.trainers.errors import TrainingError


@dataclass(frozen=True)
class Annotated(Sample):
    """One image, or the `region` of it, and its objects in shares of what is meant. `labels`: their classes,
    each once. No objects: background."""

    annotations: tuple[Annotation, ...] = ()

    def of(self, annotations: Sequence[Annotation]) -> Annotated:
        """The same image with these objects."""
        return replace(self, annotations=tuple(annotations), labels=classes(annotations))


def classes(annotations: Sequence[Annotation]) -> tuple[str, ...]:
    """The classes of these objects, each once."""
    return tuple(dict.fromkeys(annotation.label for annotation in annotations))


def read_manifest(path: Path, *, polygons: bool = False) -> list[Annotated]:
    """The images of a manifest. Rows for one image are one image with the objects of all (Azure's rule).

    Raises TrainingError naming file and line, with `polygons` also for an object that has none.
    """
    found: dict[Path, Annotated] = {}
    for row in manifest_rows(path, _row):
        if polygons and not all(annotation.polygon for annotation in row.annotations):
            raise TrainingError(f"{row.source}: an object has no polygon; instance segmentation needs one")
        earlier = found.get(row.path)
        if earlier is not None:
            row = replace(earlier, etag=row.etag).of([*earlier.annotations, *row.annotations])
        found[row.path] = row
    return list(found.values())


def _row(row: Any) -> Annotated:
    if not isinstance(row["label"], list):
        raise ValueError("label is no list of objects")
    annotations = tuple(from_manifest(one) for one in row["label"])
    return Annotated(
        Path(row["path"]), str(row["etag"]), classes(annotations), str(row["source"]), annotations=annotations
    )


def write_split(folder: Path, train: Sequence[Annotated], validation: Sequence[Annotated]) -> None:
    """train_sub.json and val_sub.json, the names of Azure's trainer: JSON Lines as training data has them."""
    for name, rows in (("train_sub.json", train), ("val_sub.json", validation)):
        text = "".join(json.dumps(_document(row), ensure_ascii=False) + "\n" for row in rows)
        files.write_text(folder / name, text)


def _document(row: Annotated) -> dict[str, Any]:
    return {"image_url": str(row.path), "label": [_object(one) for one in row.annotations]}


def _object(annotation: Annotation) -> dict[str, Any]:
    found: dict[str, Any] = {"label": annotation.label, "isCrowd": annotation.crowd}
    if annotation.polygon:
        return found | {"polygon": [list(part) for part in annotation.polygon]}
    names = ("topX", "topY", "bottomX", "bottomY")
    return found | dict(zip(names, annotation.box, strict=True))
