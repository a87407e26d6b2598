"""Real detectors trained from nothing through the command line. Slow: a step takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from painted_objects import scenes, spec_file

pytestmark = pytest.mark.slow
MAP = "mean_average_precision"


@pytest.mark.parametrize(
    ("model", "task", "epochs", "rate"),
    [
        ("fasterrcnn_resnet18_fpn", "image-object-detection", 10, 0.01),
        ("maskrcnn_resnet18_fpn", "image-instance-segmentation", 2, 0.0005),
        ("retinanet_resnet50_fpn", "image-object-detection", 2, 0.002),
    ],
)
def test_a_network_of_torchvision_trains(
    tmp_path: Path,
    metrics_of: Callable[[Path], dict[str, dict[int, float]]],
    model: str,
    task: str,
    epochs: int,
    rate: float,
) -> None:
    # Validated on some of the training images: what was learnt, not how well it generalises.
    sets = {
        half: scenes(tmp_path, half, number, 0, polygons=True)
        for half, number in (("train", 8), ("validation", 4))
    }
    given: dict[str, Any] = {"model_name": model, "number_of_epochs": epochs, "training_batch_size": 2}
    path = spec_file(tmp_path, "real", sets, given | {"learning_rate": rate}, task=task)
    done = subprocess.run(
        [sys.executable, "-m", "amlocal.trainers", "train", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = metrics_of(tmp_path / "real/state")
    assert set(found["log_loss_train"]) == set(range(epochs))
    assert found["log_loss_train"][epochs - 1] < found["log_loss_train"][0]
    if epochs == 10:
        assert max(found[MAP].values()) > 0.7 > found[MAP][0]
    artifacts = tmp_path / "real/artifacts"
    assert (artifacts / "train_artifacts/model.onnx").stat().st_size > 10_000_000
    tensors = torch.load(artifacts / "outputs/model.pt", weights_only=True)
    assert "backbone.body.conv1.weight" in tensors
    result = json.loads((tmp_path / "real/state/result.json").read_text())
    assert result["artifacts"]["onnx"] == "train_artifacts/model.onnx"
