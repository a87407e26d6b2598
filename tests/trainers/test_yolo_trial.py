"""Whole trials of yolov5 on painted images, and of a network of MMDetection."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from painted_objects import scenes, spec_file
from safetensors.torch import load_file

from amlocal.trainers import registry, spec, trial
from amlocal.trainers.models.network import rebuild

MetricsOf = Callable[[Path], dict[str, dict[int, float]]]
MAP = "mean_average_precision"
YOLO = {
    "model_name": "yolov5",
    "model_size": "small",
    "image_size": 64,
    "training_batch_size": 4,
    "validation_batch_size": 4,
}


def run(folder: Path, parameters: dict[str, Any], n: int, **fields: Any) -> tuple[Path, Path]:
    """Train; the artifacts and state folders."""
    manifests = {
        "train": scenes(folder / "data", "train", n, 0, polygons=False, background=1),
        "validation": scenes(folder / "data", "validation", 4, 100, polygons=False),
    }
    found = spec.load(spec_file(folder, "yolo", manifests, YOLO | parameters, **fields))
    trial.run(found)
    return found.artifacts_dir, found.state_dir


def test_a_trial_leaves_a_model_that_answers_and_an_onnx_file(tmp_path: Path, metrics_of: MetricsOf) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    given = {"number_of_epochs": 2, "multi_scale": True, "box_score_threshold": 0.0001}
    artifacts, state = run(tmp_path, given, 5)
    found = metrics_of(state)
    assert sorted(found[MAP]) == [0, 1] and sorted(found["log_loss_train"]) == [0, 1]
    model = artifacts / "outputs/mlflow-model"
    settings = json.loads((model / "artifacts/settings.json").read_text())
    assert settings == {
        "img_size": 64, "model_size": "small", "box_score_thresh": 0.0001, "nms_iou_thresh": 0.5
    }  # fmt: skip
    assert "ultralytics==" in (model / "requirements.txt").read_text()
    description = json.loads((model / "artifacts/model.json").read_text())
    network = rebuild("image-object-detection", "yolov5", 2, description["options"], description["facts"])
    network.module.load_state_dict(load_file(model / "artifacts/model.safetensors"), strict=True)
    # Its file for ONNX is the one of Azure's sample: every candidate, 8 x 8 + 4 x 4 + 2 x 2 of them.
    session = onnxruntime.InferenceSession(
        artifacts / "train_artifacts/model.onnx", providers=["CPUExecutionProvider"]
    )
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    (candidates,) = session.run(None, {"input1": image})
    assert candidates.shape == (1, 84, 5 + 2)
    with torch.no_grad():
        boxes, scores = network.module.eval().decoded(torch.from_numpy(image))
    assert np.allclose(candidates[..., 5:], scores.numpy(), atol=1e-4)
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2
    assert np.allclose(candidates[..., :2], middles.numpy(), atol=1e-3)
    predictor = registry.restored(model / "artifacts")
    assert predictor is not None


@pytest.mark.slow
def test_a_trial_learns_small_objects_from_mosaics(tmp_path: Path, metrics_of: MetricsOf) -> None:
    given = {"number_of_epochs": 40, "optimizer": "adamw", "learning_rate": 0.001, "early_stopping": False}
    _, state = run(tmp_path, given, 24)
    found = metrics_of(state)
    assert max(found[MAP].values()) > 0.7


@pytest.mark.slow
def test_a_network_of_mmdetection_is_trained_like_the_others(tmp_path: Path, metrics_of: MetricsOf) -> None:
    pytest.importorskip("mmdet")
    name = "rtmdet_tiny_8xb32-300e_coco"
    given = {"model_name": name, "number_of_epochs": 2, "min_size": 96, "max_size": 128}
    artifacts, state = run(tmp_path, given, 5)
    found = metrics_of(state)
    assert sorted(found[MAP]) == sorted(found["log_loss"]) == [0, 1]
    model = artifacts / "outputs/mlflow-model"
    description = json.loads((model / "artifacts/model.json").read_text())
    network = rebuild("image-object-detection", name, 2, description["options"], description["facts"])
    network.module.load_state_dict(load_file(model / "artifacts/model.safetensors"), strict=True)
    assert "mmdet==" in (model / "requirements.txt").read_text()
