"""Manifests of images with objects, and the split as it is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amlocal.compat.annotations import Annotation, read_boxes, read_polygons
from amlocal.trainers.data import annotated
from amlocal.trainers.errors import TrainingError

CAT = Annotation("cat", (0.1, 0.2, 0.5, 0.75))
DOG = Annotation(
    "dog", (0.0, 0.0, 0.5, 1.0), True, ((0.0, 0.0, 0.5, 0.0, 0.5, 1.0), (0.1, 0.0, 0.2, 0.0, 0.2, 0.5))
)


def manifest(path: Path, *rows: tuple[str, Any]) -> Path:
    lines = [
        {"path": image, "etag": f"e{n}", "label": label, "source": f"t.jsonl:{n}"}
        for n, (image, label) in enumerate(rows, 1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_rows_become_images_with_their_objects(tmp_path: Path) -> None:
    path = manifest(tmp_path / "m", ("/a", [CAT.as_dict(), DOG.as_dict(), CAT.as_dict()]), ("/b", []))
    found = annotated.read_manifest(path)
    assert [(str(row.path), row.etag, row.source) for row in found] == [
        ("/a", "e1", "t.jsonl:1"),
        ("/b", "e2", "t.jsonl:2"),
    ]
    assert [row.annotations for row in found] == [(CAT, DOG, CAT), ()]
    assert [row.labels for row in found] == [("cat", "dog"), ()]


def test_rows_for_one_image_are_one_image(tmp_path: Path) -> None:
    rows = [("/a", [CAT.as_dict()]), ("/b", []), ("/a", []), ("/a", [DOG.as_dict()])]
    first, second = annotated.read_manifest(manifest(tmp_path / "m", *rows))
    assert (str(first.path), first.annotations, first.labels) == ("/a", (CAT, DOG), ("cat", "dog"))
    assert (first.source, first.etag) == ("t.jsonl:1", "e4")
    assert str(second.path) == "/b"


@pytest.mark.parametrize(
    "label", ["cat", None, {"label": "cat"}, [{"label": "cat"}], [3], [{**CAT.as_dict(), "box": 1}]]
)
def test_a_bad_row_is_named(tmp_path: Path, label: Any) -> None:
    with pytest.raises(TrainingError, match="m:2 is not a manifest row"):
        annotated.read_manifest(manifest(tmp_path / "m", ("/a", []), ("/b", label)))


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot read the manifest"):
        annotated.read_manifest(tmp_path / "none")


def test_segmentation_needs_polygons_and_detection_does_not(tmp_path: Path) -> None:
    path = manifest(tmp_path / "m", ("/a", [DOG.as_dict()]), ("/b", [DOG.as_dict(), CAT.as_dict()]))
    assert len(annotated.read_manifest(path)) == 2
    with pytest.raises(TrainingError, match=r"^t\.jsonl:2: an object has no polygon"):
        annotated.read_manifest(path, polygons=True)


def test_the_split_can_be_read_as_training_data_again(tmp_path: Path) -> None:
    path = manifest(tmp_path / "m", ("/ä", [CAT.as_dict()]), ("/b", [DOG.as_dict()]), ("/c", []))
    first, second, third = annotated.read_manifest(path)
    annotated.write_split(tmp_path / "out", [first, second], [third])
    train, held_out = (
        [json.loads(line) for line in (tmp_path / "out" / name).read_text(encoding="utf-8").splitlines()]
        for name in ("train_sub.json", "val_sub.json")
    )
    assert [row["image_url"] for row in train] == ["/ä", "/b"]
    assert held_out == [{"image_url": "/c", "label": []}]
    assert read_boxes(train[0]["label"]).annotations == (CAT,)
    assert read_polygons(train[1]["label"]).annotations == (DOG,)
