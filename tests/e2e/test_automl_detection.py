"""Detection and segmentation by SDK and YAML: refused with the reason, or trained to the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

from amlocal.fixtures.datasets import write_mltable
from amlocal.fixtures.shapes import Shapes, write_shapes

RANDOM = '{"pretrained": false}'
SMALL: dict[str, Any] = {
    "number_of_epochs": 1,
    "training_batch_size": 4,
    "validation_batch_size": 4,
    "min_size": 64,
    "max_size": 96,
    "learning_rate": 0.001,
    "random_seed": 1,
    "advanced_settings": RANDOM,
}
YAML = """\
$schema: https://azuremlsdk2.blob.core.windows.net/preview/0.0.1/autoMLJob.schema.json
type: automl
name: {name}
experiment_name: shapes
compute: azureml:cpu-cluster
task: image_instance_segmentation
log_verbosity: debug
primary_metric: mean_average_precision
target_column_name: label
training_data:
  path: {data}
  type: mltable
validation_data_size: 0.25
limits:
  timeout_minutes: 30
training_parameters:
  model_name: {model}
  number_of_epochs: 1
  training_batch_size: 4
  min_size: 64
  max_size: 96
  log_training_metrics: Enable
  log_validation_loss: Enable
  validation_metric_type: coco_voc
  advanced_settings: '{settings}'
"""


def detection(data: Path, held: Path | None = None, **more: Any) -> Any:
    """A job of the SDK, not submitted yet."""
    from azure.ai.ml import Input, automl

    job = automl.image_object_detection(
        training_data=Input(type="mltable", path=str(data)),
        validation_data=Input(type="mltable", path=str(held)) if held else None,
        target_column_name="label",
        primary_metric="mean_average_precision",
        compute="cpu-cluster",
        experiment_name="shapes",
    )
    job.set_limits(timeout_minutes=30)
    job.set_training_parameters(**{"model_name": "fasterrcnn_resnet18_fpn", **SMALL, **more})
    return job


def ended(client: Any, name: str) -> Any:
    def done() -> Any:
        job = client.jobs.get(name)
        return job if job.status in ("Completed", "Failed", "Canceled") else None

    return wait_for(done, 240, f"the end of {name}")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    folder = tmp_path_factory.mktemp("shapes")
    return write_shapes(folder, train=10, validation=4, size=(96, 64), background=1)


@pytest.fixture(scope="module")
def artifacts(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The downloaded files of a job's only trial."""

    def download(job: str) -> Path:
        folder = tmp_path_factory.mktemp("artifacts")
        ml_client.jobs.download(f"{job}_HD_0", download_path=str(folder))
        return folder / "artifacts"

    return download


def why(job: Any, files: Path) -> str:
    log = files / "user_logs" / "std_log.txt"
    return f"{job.status}: {log.read_text()[-3000:] if log.exists() else 'no log'}"


@pytest.mark.parametrize(
    ("parameters", "parts"),
    [
        ({"tile_grid_size": "1x1"}, ("tile_grid_size: '1x1'", "not 1x1")),
        ({"tile_overlap_ratio": 1.0}, ("tile_overlap_ratio: 1.0", "less than 1")),
        ({"box_score_threshold": 1.5}, ("box_score_threshold: 1.5", "from 0 to 1")),
        ({"min_size": 5}, ("min_size: 5", "from 32 to")),
        ({"model_name": "maskrcnn_resnet50_fpn"}, ("is for image-instance-segmentation", "retinanet")),
        ({"model_name": "fasterrcnn_resnet50"}, ("did you mean fasterrcnn_resnet50_fpn",)),
        (
            {"model_name": "retinanet_resnet50_fpn", "advanced_settings": None},
            ("Pretrained weights of retinanet_resnet50_fpn were not found", "amlocal weights pull"),
        ),
    ],
)
def test_parameters_that_cannot_be_used_are_refused_at_submit(
    ml_client: Any, shapes: Shapes, parameters: dict[str, Any], parts: tuple[str, ...]
) -> None:
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as caught:
        ml_client.jobs.create_or_update(detection(shapes.train, **parameters))
    assert caught.value.status_code == 400
    for part in parts:
        assert part in str(caught.value)


def test_data_that_cannot_be_used_is_refused_at_submit(
    ml_client: Any, tmp_path: Path, shapes: Shapes
) -> None:
    from azure.core.exceptions import HttpResponseError

    (tmp_path / "images").mkdir()
    for number in range(12):
        image = shapes.train / "images" / f"{number % 10:04d}.jpg"
        (tmp_path / "images" / f"{number}.jpg").write_bytes(image.read_bytes())
    box = {"label": "cat", "topX": "1", "topY": "0", "bottomX": "0", "bottomY": "1", "isCrowd": "true"}
    for label, part in (
        (box, "no valid annotations: object 0 (cat): the box is reversed or empty: topX 1 is not less"),
        ([], "not one of 12 images has an object: all are background"),
        ("cat", "label is 'cat'; a list of objects is needed"),
    ):
        rows: list[dict[str, object]] = [
            {"image_url": f"images/{number}.jpg", "label": label} for number in range(12)
        ]
        write_mltable(tmp_path, rows)
        with pytest.raises(HttpResponseError) as caught:
            ml_client.jobs.create_or_update(detection(tmp_path))
        assert caught.value.status_code == 400 and part in str(caught.value)


def test_yaml_is_read_by_the_sdk_and_checked_by_the_server(
    ml_client: Any, tmp_path: Path, shapes: Shapes
) -> None:
    from azure.ai.ml import load_job
    from azure.core.exceptions import HttpResponseError

    polygons = write_shapes(tmp_path / "polygons", train=10, validation=1, polygons=True, size=(48, 40)).train
    path = tmp_path / "job.yml"
    for model, data, settings, part in (
        (
            "fasterrcnn_resnet18_fpn",
            polygons,
            RANDOM,
            "fasterrcnn_resnet18_fpn is for image-object-detection",
        ),
        ("maskrcnn_resnet50_fpn", shapes.train, "{}", "no polygon; instance segmentation needs one"),
        (
            "maskrcnn_resnet50_fpn",
            polygons,
            "{}",
            "Pretrained weights of maskrcnn_resnet50_fpn were not found",
        ),
    ):
        path.write_text(YAML.format(name="shapes_refused", data=data, model=model, settings=settings))
        with pytest.raises(HttpResponseError) as caught:
            ml_client.jobs.create_or_update(load_job(path))
        assert caught.value.status_code == 400 and part in str(caught.value)


def test_a_detection_job_from_the_sdk(ml_client: Any, shapes: Shapes, artifacts: Any) -> None:
    import mlflow

    job = detection(shapes.train, shapes.validation, image_size=320, validation_iou_threshold=0.5)
    job.name = "shapes_sdk"
    ml_client.jobs.create_or_update(job)
    done = ended(ml_client, "shapes_sdk")
    files = artifacts("shapes_sdk")
    assert done.status == "Completed", why(done, files)
    assert done.training_parameters.model_name == "fasterrcnn_resnet18_fpn"
    assert done.tags["automl_best_child_run_id"] == "shapes_sdk_HD_0"
    tracking = mlflow.MlflowClient(
        tracking_uri=ml_client.workspaces.get(ml_client.workspace_name).mlflow_tracking_uri
    )
    found = tracking.get_run("shapes_sdk_HD_0").data.metrics
    assert set(found) >= {"mean_average_precision", "precision", "recall", "log_loss_train"}
    assert -1 <= found["mean_average_precision"] <= 1
    score = float(ml_client.jobs.get("shapes_sdk_HD_0").properties["score"])
    assert score == pytest.approx(found["mean_average_precision"], abs=1e-5)
    report = json.loads((files / "outputs/data_report.json").read_text())["training_data"]
    assert (report["rows"], report["unlabelled"], report["left_out_count"]) == (10, 1, 0)
    assert json.loads((files / "train_artifacts/labels.json").read_text()) == sorted(report["labels"])
    log = (files / "user_logs/std_log.txt").read_text()
    assert "image_size has no effect here: it is for yolov5 only" in log
    assert "starting from random weights" in log
    for name in ("outputs/model.pt", "outputs/mlflow-model/MLmodel", "train_artifacts/labels.json"):
        assert (files / name).stat().st_size > 0


@pytest.mark.slow
def test_a_segmentation_job_from_yaml(ml_client: Any, tmp_path: Path, artifacts: Any) -> None:
    from azure.ai.ml import load_job

    shapes = write_shapes(tmp_path / "shapes", train=12, validation=1, size=(96, 64), polygons=True)
    path = tmp_path / "job.yml"
    text = YAML.format(name="shapes_yaml", data=shapes.train, model="maskrcnn_resnet18_fpn", settings=RANDOM)
    path.write_text(text)
    ml_client.jobs.create_or_update(load_job(path))
    done = ended(ml_client, "shapes_yaml")
    files = artifacts("shapes_yaml")
    assert done.status == "Completed", why(done, files)
    assert (files / "outputs/mlflow-model/MLmodel").is_file()
