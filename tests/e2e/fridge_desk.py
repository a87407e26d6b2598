"""What the public examples of AutoML for images are run on: painted pictures in place of their downloads.

The examples themselves are read from a clone of their repository.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from amlocal.fixtures.datasets import write_mltable
from amlocal.fixtures.shapes import write_shapes

CLONE = "AMLOCAL_AZUREML_EXAMPLES"
CLI = Path("cli/jobs/automl-standalone-jobs")
SDK = Path("sdk/python/jobs/automl-standalone-jobs")
CAPS = {"trials": 2, "images": 24, "epochs": 1, "image_size": 64}
LABELS = {"circle": "can", "square": "carton", "triangle": "milk_bottle"}
SIZE = (96, 64)
COUNT = 40
"""Images of a data set. Examples show number 99 and 31; a fifth is for validation."""
_NAMES = (1, 31, 56, 99)


def clone() -> Path:
    """The folder of a clone of https://github.com/Azure/azureml-examples; without one the test is skipped."""
    folder = os.environ.get(CLONE)
    if not folder:
        pytest.skip(f"needs a clone of github.com/Azure/azureml-examples; name its folder in {CLONE}")
    found = Path(folder)
    assert (found / CLI).is_dir(), f"{CLONE} is {folder}, and there is no {CLI} in it"
    return found


def write_tables(folder: Path, task: str) -> None:
    """folder/training-mltable-folder and folder/validation-mltable-folder, with painted pictures."""
    for part, images in _paint(folder, task).items():
        rows: list[dict[str, object]] = []
        for image, objects in images:
            place = folder / f"{part}-mltable-folder" / "images" / image.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(image.read_bytes())
            rows.append({"image_url": f"images/{image.name}", "label": _label(task, objects)})
        write_mltable(folder / f"{part}-mltable-folder", rows, jsonl=f"{part}_annotations.jsonl")


def write_download(folder: Path, task: str) -> Path:
    """What a notebook finds in its data folder after it has downloaded and unpacked its archive."""
    name = {
        "image_classification": "fridgeObjects",
        "image_classification_multilabel": "multilabelFridgeObjects",
        "image_object_detection": "odFridgeObjects",
        "image_instance_segmentation": "odFridgeObjectsMask",
    }[task]
    images = [one for part in _paint(folder, task).values() for one in part]
    numbers = [*_NAMES, *(number for number in range(1, 100) if number not in _NAMES)]
    lines = ["filename,label"]
    for number, (image, objects) in zip(numbers, _bottle_last_of_names(images), strict=False):
        inside = f"images/{number}.jpg"
        if task == "image_classification":
            inside = f"{_label(task, objects)}/{number}.jpg"
        place = folder / name / inside
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(image.read_bytes())
        lines.append(f"{number}.jpg,{' '.join(_label('image_classification_multilabel', objects))}")
        if task in ("image_object_detection", "image_instance_segmentation"):
            _write_voc(folder / name, number, objects)
    if task == "image_classification_multilabel":
        (folder / name / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / name


def _bottle_last_of_names(images: list[tuple[Path, Any]]) -> list[tuple[Path, Any]]:
    """Number 99 is shown as a milk bottle."""
    bottle = next(one for one in images if LABELS[one[1][0]["label"]] == "milk_bottle")
    others = [one for one in images if one is not bottle]
    return [*others[: len(_NAMES) - 1], bottle, *others[len(_NAMES) - 1 :]]


def _paint(folder: Path, task: str) -> dict[str, list[tuple[Path, Any]]]:
    """Pictures and the objects in them, by the part of the data set that they are for."""
    most = 1 if task == "image_classification" else 2
    made = write_shapes(
        folder / "painted", train=COUNT * 4 // 5, validation=COUNT // 5, held_out=0, size=SIZE,
        most=most, polygons=True,
    )  # fmt: skip
    parts = {"training": made.train, "validation": made.validation}
    found: dict[str, list[tuple[Path, Any]]] = {}
    for part, table in parts.items():
        lines = (table / f"{table.name}_annotations.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        found[part] = [(table / row["image_url"], row["label"]) for row in rows]
    return found


def _label(task: str, objects: Sequence[dict[str, Any]]) -> Any:
    names = [LABELS[one["label"]] for one in objects]
    if task == "image_classification":
        return names[0]
    if task == "image_classification_multilabel":
        return sorted(set(names))
    if task == "image_instance_segmentation":
        return [{**one, "label": name} for one, name in zip(objects, names, strict=True)]
    return [{"label": name, "isCrowd": 0, **_box(one)} for one, name in zip(objects, names, strict=True)]


def _box(one: dict[str, Any]) -> dict[str, float]:
    xs, ys = one["polygon"][0][::2], one["polygon"][0][1::2]
    return {"topX": min(xs), "topY": min(ys), "bottomX": max(xs), "bottomY": max(ys)}


def _write_voc(folder: Path, number: int, objects: Sequence[dict[str, Any]]) -> None:
    """An image's annotations as Pascal VOC has them: XML with boxes in pixels, and a mask by object."""
    from PIL import Image, ImageDraw

    mask = Image.new("L", SIZE, 0)
    parts = []
    for index, one in enumerate(objects):
        corners = {key: round(value * SIZE[key.endswith("Y")]) for key, value in _box(one).items()}
        parts.append(
            f"<object><name>{escape(LABELS[one['label']])}</name><difficult>0</difficult><bndbox>"
            f"<xmin>{corners['topX']}</xmin><ymin>{corners['topY']}</ymin>"
            f"<xmax>{corners['bottomX']}</xmax><ymax>{corners['bottomY']}</ymax></bndbox></object>"
        )
        flat = one["polygon"][0]
        points = [(x * SIZE[0], y * SIZE[1]) for x, y in zip(flat[::2], flat[1::2], strict=True)]
        ImageDraw.Draw(mask).polygon(points, fill=index + 1)
    for name in ("annotations", "segmentation-masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / f"{number}.xml").write_text(
        f"<annotation><filename>{number}.jpg</filename><size><width>{SIZE[0]}</width>"
        f"<height>{SIZE[1]}</height><depth>3</depth></size>{''.join(parts)}</annotation>"
    )
    mask.save(folder / "segmentation-masks" / f"{number}.png")
