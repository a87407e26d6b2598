"""Parameters and models of detection and segmentation: defaults, extras, what has no effect."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from amlocal.compat import extras, names, tile_grid, weights

BOXES, POLYGONS = "image-object-detection", "image-instance-segmentation"
DEFAULTS = {
    "number_of_epochs": 15,
    "training_batch_size": 2,
    "validation_batch_size": 1,
    "gradient_accumulation_step": 1,
    "early_stopping": True,
    "early_stopping_patience": 5,
    "early_stopping_delay": 5,
    "learning_rate": 0.005,
    "learning_rate_scheduler": "warmup_cosine",
    "step_lr_gamma": 0.5,
    "step_lr_step_size": 5,
    "warmup_cosine_lr_cycles": 0.45,
    "warmup_cosine_lr_warmup_epochs": 2,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "nesterov": True,
    "beta1": 0.9,
    "beta2": 0.999,
    "ams_gradient": False,
    "evaluation_frequency": 1,
    "checkpoint_frequency": None,
    "checkpoint_run_id": None,
    "checkpoint_model": None,
    "layers_to_freeze": None,
    "random_seed": None,
    "number_of_workers": 4,
    "distributed": True,
    "enable_onnx_normalization": False,
    "augmentations": None,
    "advanced_settings": None,
    "min_size": 600,
    "max_size": 1333,
    "box_score_threshold": 0.3,
    "nms_iou_threshold": 0.5,
    "box_detections_per_image": 100,
    "validation_metric_type": "voc",
    "validation_iou_threshold": 0.5,
    "tile_grid_size": None,
    "tile_overlap_ratio": 0.25,
    "tile_predictions_nms_threshold": 0.25,
    "log_training_metrics": "Disable",
    "log_validation_loss": "Enable",
    "image_size": 640,
    "model_size": "medium",
    "multi_scale": False,
}
YOLO = {
    "number_of_epochs": 30,
    "training_batch_size": 16,
    "validation_batch_size": 16,
    "learning_rate": 0.01,
    "random_seed": 1,
    "number_of_workers": 8,
    "box_score_threshold": 0.1,
}
MMDETECTION = {
    "number_of_epochs": 10,
    "early_stopping": False,
    "early_stopping_patience": 1,
    "optimizer": "adamw",
    "warmup_cosine_lr_cycles": 0.5,
    "warmup_cosine_lr_warmup_epochs": 0,
}


@pytest.mark.parametrize(
    ("task", "model", "changed"),
    [
        (BOXES, "fasterrcnn_resnet50_fpn", {}),
        (BOXES, "retinanet_resnet50_fpn", {}),
        (BOXES, "yolov5", YOLO),
        (POLYGONS, "maskrcnn_resnet50_fpn", {}),
        (
            BOXES,
            "atss_r50_fpn_1x_coco",
            {**MMDETECTION, "learning_rate": 1e-5, "weight_decay": 1.47e-5, "validation_batch_size": 2},
        ),
        (
            POLYGONS,
            "mask-rcnn_r50_fpn_1x_coco",
            {**MMDETECTION, "learning_rate": 9.67e-5, "weight_decay": 6.34e-6, "training_batch_size": 1},
        ),
    ],
)
def test_every_documented_parameter_has_the_default_of_its_model(
    task: str, model: str, changed: dict[str, Any]
) -> None:
    assert names.effective(task, model, {}) == {**DEFAULTS, **changed, "model_name": model}


@pytest.mark.parametrize("task", [BOXES, POLYGONS])
def test_names_of_the_tasks_and_their_metric(task: str) -> None:
    row = names.task(task)
    assert {names.task(spelling).name for spelling in (row.yaml, row.rest, row.name)} == {task}
    for spelling in ("mean_average_precision", "MeanAveragePrecision"):
        assert names.primary_metric(task, spelling).logged == row.default_primary_metric
    with pytest.raises(names.BadParameter, match="mean_average_precision"):
        names.primary_metric(task, "accuracy")


def test_the_default_model_is_azures_where_its_software_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert names.default_model(POLYGONS) == "maskrcnn_resnet50_fpn"
    assert names.fallback_notice(POLYGONS) == ""
    monkeypatch.setattr(extras, "find_spec", lambda name: object())
    assert (names.default_model(BOXES), names.fallback_notice(BOXES)) == ("yolov5", "")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    assert names.default_model(BOXES) == "fasterrcnn_resnet50_fpn"
    assert names.fallback_notice(BOXES) == (
        "the default model yolov5 needs ultralytics, under the AGPL-3.0, which is not installed here; "
        "pip install 'amlocal[yolo]' gets it: fasterrcnn_resnet50_fpn is trained in its place"
    )


def test_a_model_whose_software_is_missing_is_refused_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(names.BadParameter) as caught:
        names.model(BOXES, "yolov5")
    assert caught.value.parameter == "model_name"
    assert "yolov5 needs ultralytics, under the AGPL-3.0, which is not installed" in str(caught.value)
    assert "pip install 'amlocal[yolo]'" in str(caught.value)
    assert caught.value.allowed.startswith("one of fasterrcnn_resnet18_fpn, ")
    assert "yolov5" not in caught.value.allowed.partition(";")[0]


@pytest.mark.parametrize(
    ("task", "name", "near"),
    [
        (BOXES, "yolov8", "yolov5"),
        (BOXES, "fasterrcnn_resnet50", "fasterrcnn_resnet50_fpn"),
        (BOXES, "maskrcnn_resnet50_fpn", ""),
        (POLYGONS, "fasterrcnn_resnet50_fpn", ""),
        (BOXES, "google/vit-base-patch16-224", ""),
        (POLYGONS, "../maskrcnn", ""),
    ],
)
def test_models_of_another_task_and_unknown_ones_are_refused(task: str, name: str, near: str) -> None:
    with pytest.raises(names.BadParameter) as caught:
        names.model(task, name)
    assert caught.value.parameter == "model_name"
    assert near in str(caught.value)


def test_what_changes_nothing_for_a_model_is_told() -> None:
    def told(task: str, model: str, *given: str) -> list[str]:
        return names.without_effect(task, model, given)

    assert told(BOXES, "yolov5", "min_size", "image_size", "model_size", "tile_grid_size") == [
        "min_size has no effect here: yolov5 does not use it"
    ]
    assert told(BOXES, "fasterrcnn_resnet50_fpn", "min_size", "image_size", "multi_scale") == [
        "image_size has no effect here: it is for yolov5 only",
        "multi_scale has no effect here: it is for yolov5 only",
    ]
    tiles = ("tile_grid_size", "tile_overlap_ratio", "tile_predictions_nms_threshold")
    assert told(POLYGONS, "maskrcnn_resnet50_fpn", *tiles) == [
        f"{name} has no effect here: tiles are for object detection only, as the reference says"
        for name in tiles
    ]
    assert told(BOXES, "fasterrcnn_resnet50_fpn", *tiles) == []
    assert told(BOXES, "yolov5", "number_of_workers")[0].startswith("number_of_workers has no effect here: ")


def test_sizes_and_thresholds_become_what_the_network_takes() -> None:
    yolo = names.models(BOXES)["yolov5"]
    values = names.effective(BOXES, "yolov5", {"image_size": 130, "validation_iou_threshold": 0.01})
    assert names.apply_size_rules(yolo, values) == [
        "validation_iou_threshold 0.01 is below the least that counts: 0.1 is taken",
        "yolov5 takes multiples of 32: image_size 160 (instead of image_size 130)",
    ]
    assert (values["image_size"], values["validation_iou_threshold"]) == (160, 0.1)
    assert names.apply_size_rules(yolo, values) == []
    row = names.models(BOXES)["fasterrcnn_resnet50_fpn"]
    assert names.apply_size_rules(row, names.effective(BOXES, row.name, {"image_size": 130})) == []


def test_tiles_are_columns_and_rows() -> None:
    assert tile_grid.parse("3x2") == tile_grid.parse("(3, 2)") == (3, 2)
    with pytest.raises(ValueError, match="two whole numbers from 1 to 100, not 1x1"):
        tile_grid.parse("1x1")


def test_the_weights_of_detectors_are_looked_for_under_their_own_names(tmp_path: Path) -> None:
    for task in (BOXES, POLYGONS):
        for name in names.models(task):
            for given in weights.variants(name):
                assert weights.find(name, tmp_path, {"HF_HOME": str(tmp_path)}, given) is None
                file = weights.sized(weights.row_of(name).weights, given)
                assert "{" not in file and file.endswith(".safetensors")
    assert [one["model_size"] for one in weights.variants("yolov5")] == [
        *("small", "medium", "large", "extra_large")
    ]
    large = tmp_path / weights.sized(names.models(BOXES)["yolov5"].weights, {"model_size": "large"})
    large.write_bytes(b"weights")
    assert weights.find("yolov5", tmp_path, parameters={"model_size": "large"}) == large
    assert weights.find("yolov5", tmp_path) is None
    text = weights.where_to_put("yolov5", tmp_path, "", {"model_size": "small"})
    assert "yolov5_small.safetensors" in text and "pull yolov5 --model-size small --from FILE" in text
    own = tmp_path / "retinanet_resnet50_fpn.safetensors"
    own.write_bytes(b"weights")
    assert weights.find("retinanet_resnet50_fpn", tmp_path) == own
    text = weights.where_to_put("maskrcnn_resnet50_fpn", tmp_path, "they are on no hub")
    assert str(tmp_path / "maskrcnn_resnet50_fpn.safetensors") in text
    assert "torchvision's tensor names" in text and "amlocal weights pull maskrcnn_resnet50_fpn" in text
    assert weights.sized("y-{model_size}", {"model_size": "large"}) == "y-large"
    assert weights.sized("y-{model_size}", {}) == weights.sized("y-{model_size}") == "y-medium"
