"""Jobs for detection and segmentation: what is refused at submit, and what the trial is told."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from amlocal.compat import extras
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import records
from amlocal.emulator.jobs.runners.automl_request import TASKS
from amlocal.trainers import registry

D = "taskDetails"
S = f"{D}.modelSettings"
BOX = {"label": "cat", "topX": 0.1, "topY": 0.2, "bottomX": 0.5, "bottomY": 0.75, "isCrowd": "true"}
POLYGON = {"label": "cat", "isCrowd": 0, "polygon": [[0.1, 0.2, 0.6, 0.2, 0.3, 0.9]]}
RANDOM = '{"pretrained": false}'


def body(desk: Any, task: str = "ImageObjectDetection", **changes: Any) -> dict[str, Any]:
    model = "fasterrcnn_resnet18_fpn" if task == "ImageObjectDetection" else "maskrcnn_resnet18_fpn"
    start = {f"{D}.taskType": task, f"{D}.primaryMetric": "MeanAveragePrecision", f"{S}.modelName": model}
    return desk.body(**start | changes)


def test_every_task_that_is_accepted_has_a_trainer() -> None:
    assert set(TASKS) == set(registry.TASKS)


# (task, changes to a good body, target, what the message holds)
CASES: list[tuple[str, dict[str, Any], str, tuple[str, ...]]] = [
    (
        "ImageObjectDetection",
        {f"{D}.primaryMetric": "Accuracy"},
        f"{D}.primaryMetric",
        ("primary_metric: 'Accuracy'", "one of mean_average_precision"),
    ),
    (
        "ImageObjectDetection",
        {f"{S}.modelName": "maskrcnn_resnet50_fpn"},
        f"{S}.modelName",
        ("maskrcnn_resnet50_fpn is for image-instance-segmentation", "retinanet_resnet50_fpn"),
    ),
    (
        "ImageInstanceSegmentation",
        {f"{S}.modelName": "maskrcnn_resnet50"},
        f"{S}.modelName",
        ("did you mean maskrcnn_resnet50_fpn",),
    ),
    (
        "ImageInstanceSegmentation",
        {f"{S}.modelName": "resnet18"},
        f"{S}.modelName",
        ("resnet18 is for image-classification and image-classification-multilabel",),
    ),
    (
        "ImageObjectDetection",
        {f"{S}.tileGridSize": "1x1"},
        f"{S}.tileGridSize",
        ("tile_grid_size: '1x1'", '"3x2" (columns x rows)', "not 1x1"),
    ),
    ("ImageObjectDetection", {f"{S}.tileOverlapRatio": 1}, f"{S}.tileOverlapRatio", ("less than 1",)),
    (
        "ImageObjectDetection",
        {f"{S}.validationMetricType": "cocovoc2"},
        f"{S}.validationMetricType",
        ("one of none, coco, voc, coco_voc",),
    ),
    ("ImageObjectDetection", {f"{S}.modelSize": "tiny"}, f"{S}.modelSize", ("small, medium, large",)),
    ("ImageObjectDetection", {f"{S}.boxScoreThreshold": 1.5}, f"{S}.boxScoreThreshold", ("from 0 to 1",)),
    ("ImageObjectDetection", {f"{S}.minSize": 8}, f"{S}.minSize", ("min_size: 8", "from 32 to")),
    (
        "ImageObjectDetection",
        {f"{S}.advancedSettings": '{"apply_mosaic_for_yolo": "no"}'},
        f"{S}.advancedSettings",
        ("advanced_settings.apply_mosaic_for_yolo is 'no'", "true or false"),
    ),
    (
        "ImageObjectDetection",
        {f"{S}.advancedSettings": None, f"{S}.modelName": "retinanet_resnet50_fpn"},
        f"{S}.modelName",
        (
            "Pretrained weights of retinanet_resnet50_fpn were not found",
            "weights/retinanet_resnet50_fpn.safe",
        ),
    ),
    (
        "ImageObjectDetection",
        {f"{D}.searchSpace": [{"modelName": "choice('fasterrcnn_resnet18_fpn','resnet18')"}]},
        f"{D}.searchSpace[0].modelName",
        ("resnet18 is for image-classification",),
    ),
    (
        "ImageObjectDetection",
        {f"{D}.searchSpace": [{"tileGridSize": "choice('3x2','2')"}]},
        f"{D}.searchSpace[0].tileGridSize",
        ("tile_grid_size: '2'",),
    ),
]


@pytest.mark.parametrize(("task", "changes", "target", "parts"), CASES, ids=[str(c[1])[:60] for c in CASES])
def test_refused(desk: Any, task: str, changes: dict[str, Any], target: str, parts: tuple[str, ...]) -> None:
    desk.data(labels=([POLYGON],))
    service = desk.service(start=False)
    with pytest.raises(AzureError) as caught:
        service.submit(desk.workspace, "job1", body(desk, task, **changes))
    error = caught.value
    assert (error.status, error.target) == (400, target), error.message
    for part in parts:
        assert part in error.message
    assert desk.store.read(records.roots) == []
    assert list(desk.folder.jobs.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "labels", "part"),
    [
        ("ImageObjectDetection", ("a", "b"), "label is 'a'; a list of objects is needed"),
        ("ImageObjectDetection", ([],), "not one of 12 images has an object: all are background"),
        ("ImageInstanceSegmentation", ([BOX],), "no polygon; instance segmentation needs one"),
        ("ImageObjectDetection", ([{**BOX, "topX": 0.9}],), "topX 0.9 is not less than bottomX 0.5"),
        ("ImageObjectDetection", ([{"label": "cat"}],), "object 0 has no polygon, and topX, topY"),
    ],
)
def test_data_that_cannot_be_used(desk: Any, task: str, labels: tuple[Any, ...], part: str) -> None:
    desk.data(labels=labels)
    service = desk.service(start=False)
    with pytest.raises(AzureError) as caught:
        service.submit(desk.workspace, "job1", body(desk, task))
    assert (caught.value.status, caught.value.target) == (400, f"{D}.trainingData")
    assert part in caught.value.message
    assert desk.store.read(records.roots) == []


def test_yolo_without_its_software_is_refused_with_the_extra(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.data(labels=([BOX],))
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    service = desk.service(start=False)
    for changes in (
        {f"{S}.modelName": "yolov5"},
        {f"{S}.modelName": None, f"{D}.searchSpace": [{"modelName": "yolov5"}]},
    ):
        with pytest.raises(AzureError) as caught:
            service.submit(desk.workspace, "job1", body(desk, **changes))
        assert caught.value.status == 400
        assert "pip install 'amlocal[yolo]'" in caught.value.message and "AGPL-3.0" in caught.value.message
    assert desk.store.read(records.roots) == []


def test_networks_of_mmdetections_zoo_are_named_by_it(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.data(labels=([BOX],))
    desk.engine.on_submit = helpers.train
    service = desk.service()
    named = {f"{S}.modelName": "mmd-3x-yolof_r50_c5_8x8_1x_coco"}
    monkeypatch.setitem(sys.modules, "mmdet", None)
    with pytest.raises(AzureError, match=r"pip install 'amlocal\[mmdet\]'"):
        service.submit(desk.workspace, "job1", body(desk, **named))
    monkeypatch.undo()
    monkeypatch.setattr(extras, "missing", lambda builder: "")
    with pytest.raises(AzureError, match=r"yolof_r50_c5_8x8_1x_coco\.safetensors"):
        service.submit(desk.workspace, "job1", body(desk, **named, **{f"{S}.advancedSettings": None}))
    with pytest.raises(AzureError, match="is for image_instance_segmentation"):
        service.submit(desk.workspace, "job1", body(desk, **{f"{S}.modelName": "mask-rcnn_r50_fpn_1x_coco"}))
    service.submit(desk.workspace, "job1", body(desk, **named))
    service.wait_idle()
    assert desk.record("job1_HD_0").body["model_name"] == "mmd-3x-yolof_r50_c5_8x8_1x_coco"


def test_without_that_software_the_default_is_another_model_and_says_so(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.data(labels=([BOX],))
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "job1", body(desk, **{f"{S}.modelName": None}))
    service.wait_idle()
    assert desk.record("job1").state == "Completed", desk.record("job1").error
    said = "the default model yolov5 needs ultralytics"
    assert desk.record("job1").tags["amlocal.model"].startswith(said)
    assert desk.record("job1_HD_0").body["model_name"] == "fasterrcnn_resnet50_fpn"
    log = (desk.artifacts("job1_HD_0") / "user_logs/std_log.txt").read_text()
    assert f"WARNING: {said}" in log and "amlocal[yolo]" in log


def test_what_the_trial_is_told(desk: Any, helpers: Any) -> None:
    """Manifests with every object, the spec with the parameters in YAML's names, the report and the log."""
    reversed_box = {**BOX, "topX": 0.9}
    labels = ([BOX, reversed_box], [POLYGON], [], BOX)
    desk.data(labels=labels)
    desk.data("held", rows=2, labels=([POLYGON],))
    desk.engine.on_submit = helpers.train
    service = desk.service()
    settings = {
        f"{S}.minSize": "64.0",
        f"{S}.maxSize": 128,
        f"{S}.validationMetricType": "CocoVoc",
        f"{S}.tileGridSize": "(3, 2)",
        f"{S}.logTrainingMetrics": "Enable",
        f"{S}.weightedLoss": 1,
        f"{D}.searchSpace": [{"boxScoreThreshold": "choice(0.1,0.2)", "modelSize": "choice('ExtraLarge')"}],
        f"{D}.validationData": {
            "jobInputType": "mltable",
            "uri": "azureml://datastores/workspaceblobstore/paths/held",
        },
    }
    service.submit(desk.workspace, "job1", body(desk, **settings))
    service.wait_idle()
    assert desk.record("job1").state == "Completed", desk.record("job1").error
    job_dir = desk.job_dir("job1_HD_0")
    spec = json.loads((job_dir / "spec.json").read_text())
    assert (spec["task"], spec["primary_metric"]) == ("image-object-detection", "mean_average_precision")
    assert spec["parameters"].pop("box_score_threshold") in (0.1, 0.2)
    assert spec["parameters"] == {
        "model_name": "fasterrcnn_resnet18_fpn",
        "number_of_epochs": 2,
        "min_size": 64,
        "max_size": 128,
        "validation_metric_type": "coco_voc",
        "tile_grid_size": "3x2",
        "log_training_metrics": "Enable",
        "model_size": "extra_large",
    }
    assert spec["ignored"] == ["'modelSettings.weightedLoss'"]
    rows = [
        json.loads(line) for line in (desk.job_dir("job1") / "train_manifest.jsonl").read_text().splitlines()
    ]
    box = {"label": "cat", "box": [0.1, 0.2, 0.5, 0.75], "crowd": True}
    shape = {"label": "cat", "box": [0.1, 0.2, 0.6, 0.9], "crowd": False, "polygon": POLYGON["polygon"]}
    assert [row["label"] for row in rows[:4]] == [[box], [shape], [], [box]]
    assert len((desk.job_dir("job1") / "validation_manifest.jsonl").read_text().splitlines()) == 2
    report = json.loads((desk.artifacts("job1") / "outputs/data_report.json").read_text())
    assert report["training_data"]["left_out_count"] == 3
    assert report["training_data"]["objects"] == {"cat": 9}
    log = (desk.artifacts("job1_HD_0") / "user_logs/std_log.txt").read_text()
    assert "training_data: 12 images, 9 objects, 1 labels, 0 rows dropped" in log
    assert "left out train.jsonl:1: object 1 (cat): the box is reversed or empty" in log
    assert "3 of 12 images have no objects; they are trained on as background." in log
    assert "3 of 12 labels are no list" in log


def test_an_earlier_trial_of_the_same_task_is_gone_on_with(desk: Any, helpers: Any) -> None:
    desk.data(labels=([BOX],))
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "first", body(desk))
    service.wait_idle()
    for name, content in (("outputs/model.pt", b"weights"), ("train_artifacts/labels.json", b"[]")):
        path = desk.artifacts("first_HD_0") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    service.submit(
        desk.workspace, "second", body(desk, **{f"{S}.checkpointRunId": "first", f"{S}.modelName": None})
    )
    service.wait_idle()
    spec = json.loads((desk.job_dir("second_HD_0") / "spec.json").read_text())
    assert spec["start"]["run_id"] == "first_HD_0"
    assert spec["parameters"]["model_name"] == "fasterrcnn_resnet18_fpn"
    assert "amlocal.model" not in desk.record("second").tags
    with pytest.raises(AzureError, match=r"first_HD_0.*holds a fasterrcnn_resnet18_fpn"):
        service.submit(
            desk.workspace,
            "third",
            body(desk, **{f"{S}.checkpointRunId": "first", f"{S}.modelName": "retinanet_resnet50_fpn"}),
        )
    desk.data("shapes", labels=([POLYGON],))
    other = body(
        desk,
        "ImageInstanceSegmentation",
        **{
            f"{S}.checkpointRunId": "first",
            f"{S}.modelName": None,
            f"{D}.trainingData.uri": "azureml://datastores/workspaceblobstore/paths/shapes",
        },
    )
    with pytest.raises(AzureError, match="fasterrcnn_resnet18_fpn is for image-object-detection"):
        service.submit(desk.workspace, "fourth", other)
