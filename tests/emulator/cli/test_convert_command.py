"""`amlocal convert`: COCO and Pascal VOC to what jobs read and back; hostile files harm nobody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amlocal.compat.mltable import lint
from amlocal.emulator.cli import main
from amlocal.fixtures.shapes import write_shapes

BOXES, POLYGONS = "image-object-detection", "image-instance-segmentation"
BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">]>
<annotation><filename>1.jpg</filename><object><name>&lol2;</name></object></annotation>"""
STEALER = """<?xml version="1.0"?>
<!DOCTYPE x [<!ENTITY file SYSTEM "file:///etc/passwd">]><annotation><filename>&file;</filename></annotation>"""
VOC = """<annotation><folder>f</folder><filename>{name}</filename>
<size><width>200</width><height>100</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{label}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def refuse(uri: str) -> Path:
    raise ValueError(f"{uri} is not allowed here")


def run(*arguments: str | Path, code: int = 0) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["convert", *map(str, arguments)])
    assert caught.value.code == code


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train_annotations.jsonl").read_text().splitlines()]


def image(path: Path, size: tuple[int, int] = (200, 100)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def coco(path: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    document = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 200, "height": 100}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 3, **one} for n, one in enumerate(annotations)
        ],
        "categories": [{"id": 3, "name": "cat"}],
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def numbers(one: dict[str, Any]) -> list[float]:
    """The coordinates of an object."""
    corners = ("topX", "topY", "bottomX", "bottomY")
    return one["polygon"][0] if "polygon" in one else [one[name] for name in corners]


@pytest.mark.parametrize(("task", "polygons"), [(BOXES, False), (POLYGONS, True)])
def test_there_and_back(tmp_path: Path, task: str, polygons: bool) -> None:
    shapes = write_shapes(tmp_path / "shapes", polygons=polygons, train=12, validation=1, background=1)
    run("jsonl", shapes.train, tmp_path / "coco.json")
    document = json.loads((tmp_path / "coco.json").read_text())
    assert [one["name"] for one in document["categories"]] == ["circle", "square", "triangle"]
    assert len(document["images"]) == 12 and document["images"][0]["width"] == 128
    run("coco", tmp_path / "coco.json", tmp_path / "out", "--images", shapes.train, "--task", task)
    before = [json.loads(one) for one in (shapes.train / "train_annotations.jsonl").read_text().splitlines()]
    after = rows(tmp_path / "out")
    assert [one["image_url"] for one in after] == [one["image_url"] for one in before]
    for was, now in zip(before, after, strict=True):
        assert [one["label"] for one in now["label"]] == [one["label"] for one in was["label"]]
        for a, b in zip(was["label"], now["label"], strict=True):
            assert numbers(b) == pytest.approx(numbers(a), abs=1e-4)
    report = lint(tmp_path / "out", resolve=refuse, task=task)
    assert (report.errors, report.dropped, len(report.rows)) == ([], [], 12)
    copied = tmp_path / "out" / after[0]["image_url"]
    assert copied.read_bytes() == (shapes.train / before[0]["image_url"]).read_bytes()


def test_cocos_numbers_are_pixels_and_faults_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image(tmp_path / "images/1.jpg")
    source = coco(
        tmp_path / "instances.json",
        [
            {"bbox": [20, 10, 100, 50], "iscrowd": 1},
            {"bbox": [-5, 0, 500, 100]},
            {"bbox": [20, 10, -3, 50]},
            {"bbox": ["x", 1, 2, 3]},
            {"bbox": None},
            {"bbox": [0, 0, 1, 1], "category_id": 9},
            {"bbox": [0, 0, 1, 1], "image_id": [1]},
            {"bbox": [0, 0, 1e308, 1e400]},
        ],
    )
    run("coco", source, tmp_path / "out", "--images", tmp_path / "images")
    (row,) = rows(tmp_path / "out")
    assert row["image_details"] == {"format": "jpg", "width": "200px", "height": "100px"}
    edges = {"topX": 0.0, "topY": 0.0, "bottomX": 1.0, "bottomY": 1.0}
    assert row["label"] == [
        {"label": "cat", "topX": 0.1, "topY": 0.1, "bottomX": 0.6, "bottomY": 0.6, "isCrowd": 1},
        {"label": "cat", **edges, "isCrowd": 0},
    ]
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out'}: 1 images, 2 objects, 1 classes\n"
    lines = said.err.splitlines()
    assert lines[0] == "left out: annotation 2 of 1.jpg: its box has no area inside the image"
    assert lines[1] == "left out: annotation 3 of 1.jpg: its bbox is ['x', 1, 2, 3]"
    assert lines[3] == "left out: annotation 5 of 1.jpg: there is no category 9"
    assert lines[4] == "left out: annotation 6: there is no image [1]"
    assert len(lines) == 6


def test_polygons_of_several_parts_and_what_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image(tmp_path / "1.jpg")
    parts = [[0, 0, 100, 0, 100, 50], [150, 50, 220, 50, 150, 100]]
    source = coco(
        tmp_path / "instances.json",
        [
            {"segmentation": parts},
            {"segmentation": {"counts": [1, 2], "size": [2, 2]}},
            {"segmentation": [[1, 2, 3]]},
            {"segmentation": [parts[0], [1, 2, 3, None, 5, 6], "x"]},
        ],
    )
    run("coco", source, tmp_path / "out", "--task", POLYGONS)
    (row,) = rows(tmp_path / "out")
    first, second = row["label"]
    assert first["polygon"] == [[0.0, 0.0, 0.5, 0.0, 0.5, 0.5], [0.75, 0.5, 1.0, 0.5, 0.75, 1.0]]
    assert second["polygon"] == first["polygon"][:1]
    said = capsys.readouterr().err
    assert "annotation 1 of 1.jpg: its segmentation is no polygon (run lengths are not taken)" in said
    assert "annotation 2 of 1.jpg: it has no polygon of three points" in said


def test_voc_and_images_that_stay_in_a_datastore(tmp_path: Path) -> None:
    annotations = tmp_path / "VOC/Annotations"
    annotations.mkdir(parents=True)
    objects = OBJECT.format(label="dog", difficult=0, box=(20, 10, 120, 60))
    objects += OBJECT.format(label="dog", difficult=1, box=("1.0", 1, 240, 100))
    (annotations / "1.xml").write_text(VOC.format(name="1.jpg", objects=objects))
    (annotations / "2.xml").write_text(VOC.format(name="2.jpg", objects=""))
    for name in ("1.jpg", "2.jpg"):
        image(tmp_path / "VOC/JPEGImages" / name)
    run("voc", annotations, tmp_path / "out")
    first, second = rows(tmp_path / "out")
    assert first["label"] == [
        {"label": "dog", "topX": 0.1, "topY": 0.1, "bottomX": 0.6, "bottomY": 0.6, "isCrowd": 0},
        {"label": "dog", "topX": 0.005, "topY": 0.01, "bottomX": 1.0, "bottomY": 1.0, "isCrowd": 1},
    ]
    assert (second["image_url"], second["label"]) == ("images/2.jpg", [])
    assert (tmp_path / "out/images/2.jpg").is_file()
    address = "azureml://datastores/workspaceblobstore/paths/dogs/"
    run("voc", annotations, tmp_path / "far", "--image-url", address)
    assert [one["image_url"] for one in rows(tmp_path / "far")] == [f"{address}1.jpg", f"{address}2.jpg"]
    assert sorted(one.name for one in (tmp_path / "far").iterdir()) == ["MLTable", "train_annotations.jsonl"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "document type"),
        (STEALER, "document type"),
        ("<annotation>" * 100, "nested too deeply"),
        ("<annotation>" + " " * (5 << 20), "larger than 4 MB"),
        ("<annotation><size>", "no element found"),
        ("not xml", "syntax error"),
        ("<html/>", "no annotation with the size of its image"),
        (VOC.format(name="/etc/passwd", objects=""), "absolute"),
        (VOC.format(name="../../secret.jpg", objects=""), "'..'"),
        (VOC.format(name="%2e%2e/secret.jpg", objects=""), "'..'"),
        (VOC.format(name="link.jpg", objects=""), "a link that leaves"),
        (VOC.format(name="folder.jpg", objects=""), "no plain file"),
        (VOC.format(name="none.jpg", objects=""), "no such file"),
    ],
)
def test_xml_that_means_harm_or_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    voc = tmp_path / "voc"
    voc.mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (voc / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (voc / "folder.jpg").mkdir()
    (voc / "1.xml").write_text(text)
    run("voc", voc, tmp_path / "out", code=1)
    said = capsys.readouterr().err
    assert "not one image can be used. For example: " in said and reason in said
    assert sorted(one.name for one in tmp_path.iterdir()) == ["secret.jpg", "voc"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not JSON"),
        ("[1]", "a JSON object with images"),
        ("[" * 100_000, "nested too deeply"),
        ('{"images": {}}', "'categories' must be a list of objects"),
        ('{"images": [1], "categories": [], "annotations": []}', "'images' must be a list of objects"),
        ('{"images": [], "categories": [], "annotations": []}', "not one image can be used"),
        ('{"images": [{"id": 1}], "categories": [], "annotations": []}', "no file_name, width or height"),
        (
            '{"images": [{"id": 1, "file_name": "a/../../x", "width": 1e999, "height": 1}], "categories": [],'
            ' "annotations": []}',
            "no file_name, width or height",
        ),
    ],
)
def test_json_that_is_no_coco(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    source = tmp_path / "x.json"
    source.write_text(text)
    run("coco", source, tmp_path / "out", code=1)
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]


def test_what_is_there_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(tmp_path / "1.jpg")
    source = coco(tmp_path / "x.json", [])
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("out", "link", "1.jpg"):
        run("coco", source, tmp_path / name, code=1)
        assert f"{tmp_path / name} is there already" in capsys.readouterr().err
    run("coco", source, tmp_path / "new", "--image-url", "https://example.org/x", code=1)
    assert "--image-url: 'https://example.org/x'" in capsys.readouterr().err
    run("coco", source, tmp_path / "new", "--images", tmp_path / "nowhere", code=1)
    run("coco", tmp_path / "y.json", tmp_path / "new", code=1)
    assert not (tmp_path / "new").exists()


def test_rows_become_coco_with_areas_and_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(tmp_path / "images/a.jpg", (100, 50))
    polygon = {"label": "tri", "polygon": [[0, 0, 1, 0, 0, 1]], "isCrowd": True}
    box = {"label": "box", "topX": "0.1", "topY": 0, "bottomX": 0.5, "bottomY": 1}
    far = "azureml://datastores/d/paths/b/far.jpg"
    lines: list[Any] = [
        {"image_url": "images/a.jpg", "label": [polygon, box, {**box, "topX": 0.9}]},
        {"image_url": far, "image_details": {"width": 640, "height": "480px"}, "label": []},
        {"image_url": "azureml://datastores/d/paths/b/unknown.jpg", "label": []},
        {"image_url": "../../outside.jpg", "label": []},
        {"image_url": "images/a.jpg", "label": "cat"},
        {"label": []},
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n")
    run("jsonl", source, tmp_path / "coco.json")
    found = json.loads((tmp_path / "coco.json").read_text())
    assert found["images"] == [
        {"id": 1, "file_name": "images/a.jpg", "width": 100, "height": 50},
        {"id": 2, "file_name": "b/far.jpg", "width": 640, "height": 480},
    ]
    assert found["categories"] == [{"id": 1, "name": "box"}, {"id": 2, "name": "tri"}]
    first, second = found["annotations"]
    assert (first["category_id"], first["bbox"], first["area"], first["iscrowd"]) == (
        2,
        [0, 0, 100, 50],
        2500,
        1,
    )
    assert first["segmentation"] == [[0, 0, 100, 0, 0, 50]]
    assert (second["bbox"], second["area"], second["segmentation"]) == ([10, 0, 40, 50], 2000, [])
    said = capsys.readouterr().err
    for part in (
        "rows.jsonl:1: object 2 (box): the box is reversed",
        "rows.jsonl:3: its size is not known",
        "rows.jsonl:4: '../../outside.jpg': ",
        "rows.jsonl:5: label is 'cat'; a list of objects is needed",
        "rows.jsonl:6: image_url is None",
        "rows.jsonl:7: not JSON",
    ):
        assert part in said
