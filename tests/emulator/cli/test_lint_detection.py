"""`amlocal lint` on detection and segmentation: data alone, and jobs with their data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lint_desk import job, write_data

from amlocal.compat import extras

BOX = {"label": "can", "topX": 0.1, "topY": 0.2, "bottomX": 0.5, "bottomY": 0.75, "isCrowd": 0}
POLYGON = {"label": "can", "isCrowd": 0, "polygon": [[0.1, 0.2, 0.6, 0.2, 0.3, 0.9]]}
Lint = Callable[..., list[str]]


def test_objects_that_are_left_out_are_told_by_their_lines(lint: Lint, tmp_path: Path) -> None:
    pixels = {**BOX, "bottomX": 640}
    write_data(
        tmp_path / "data",
        12,
        labels=[[BOX]],
        row_2={"label": [BOX, pixels]},
        row_3={"label": [pixels]},
        row_4={"label": "can"},
    )
    lines = lint("--task", "image-object-detection", "data")
    assert lines[:3] == [
        "data/rows.jsonl:4: warning: the row is dropped: no valid annotations: object 0 (can): the box has "
        "the coordinate 640, which looks like pixels; coordinates are shares of the image's size, from 0 to "
        "1",
        "data/rows.jsonl:5: warning: the row is dropped: label is 'can'; a list of objects is needed",
        "data/rows.jsonl:3: warning: left out: object 1 (can): the box has the coordinate 640, which looks "
        "like pixels; coordinates are shares of the image's size, from 0 to 1",
    ]
    assert "1 boxes or polygons cannot be used and are left out: " in lines[3]
    # Without the task a list is none of classification's labels.
    assert "is for object detection or segmentation data" in lint("data", code=1)[0]


def test_many_are_counted(lint: Lint, tmp_path: Path) -> None:
    bad = {**BOX, "topX": 0.9}
    write_data(tmp_path / "data", 10, labels=[[BOX, *[bad] * 30]])
    lines = lint("--task", "image-object-detection", "data/rows.jsonl")
    assert len([line for line in lines if "left out: object" in line]) == 100
    assert "data/rows.jsonl:1: warning: 200 more boxes or polygons are left out" in lines


@pytest.mark.parametrize("task", ["image_object_detection", "image_instance_segmentation"])
def test_a_job_without_a_fault(lint: Lint, tmp_path: Path, task: str) -> None:
    write_data(tmp_path / "data/train", 20, labels=[[POLYGON], [{**POLYGON, "label": "milk"}]])
    settings = "training_parameters: {min_size: 600, validation_metric_type: coco_voc}\n"
    model = "fasterrcnn_resnet50_fpn" if task == "image_object_detection" else "maskrcnn_resnet50_fpn"
    settings = settings.replace("{min", f"{{model_name: {model}, min")
    (tmp_path / "job.yml").write_text(job(task, settings=settings))
    assert lint("job.yml") == []


def test_faults_stand_at_their_lines(lint: Lint, tmp_path: Path) -> None:
    write_data(tmp_path / "data/train", 12, labels=[[BOX]])
    settings = """\
training_parameters:
  model_name: maskrcnn_resnet18_fpn
  min_size: 3
  tile_grid_size: 1x1
  tile_overlap_ratio: 1
  box_score_treshold: 0.2
"""
    text = job("image_object_detection", settings=settings)
    (tmp_path / "job.yml").write_text(text)
    lines = lint("job.yml", code=1)
    number = text.splitlines().index("training_parameters:") + 1
    for step, part in enumerate(
        (
            "maskrcnn_resnet18_fpn is for image-instance-segmentation",
            "min_size: 3 is not allowed; it must be a whole number from 32",
            "tile_grid_size: '1x1' is not allowed",
            "tile_overlap_ratio: 1.0 is not allowed; it must be a number of at least 0 and less than 1",
            "did you mean box_score_threshold",
        ),
        1,
    ):
        (line,) = [line for line in lines if line.startswith(f"job.yml:{number + step}: ")]
        assert part in line, line
    assert not any("data/train" in line for line in lines if "error" in line)


def test_the_default_model_without_its_software(
    lint: Lint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path / "data/train", 12, labels=[[BOX]])
    (tmp_path / "job.yml").write_text(job("image_object_detection"))
    monkeypatch.setattr(extras, "missing", lambda builder: "")
    lines = lint("job.yml")
    assert not any("yolov5" in line for line in lines)
    monkeypatch.setattr(extras, "missing", lambda builder: "a part" if builder == "yolo" else "")
    assert lint("job.yml")[: -len(lines)] == [
        "job.yml:1: warning: the default model yolov5 needs a part: fasterrcnn_resnet50_fpn is trained in "
        "its place"
    ]
