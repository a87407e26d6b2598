"""Real detectors answer from a model's folder what their network says of the same pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from painted_detector import DETECTION, SEGMENTATION, as_mask
from safetensors.torch import save_file

from amlocal.compat import names
from amlocal.trainers.checkpoints import plain
from amlocal.trainers.data import images
from amlocal.trainers.data.detection_batches import collate
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.models.network import Network, rebuild
from amlocal.trainers.serving import starting
from amlocal.trainers.serving.starting import picture
from amlocal.trainers.tasks import detection_training
from amlocal.trainers.tasks.detection_scoring import Predictor

LABELS = ["can", "carton", "milk"]
SIZES = {"min_size": 64, "max_size": 96, "box_score_threshold": 0.05, "box_detections_per_image": 12}
YOLO_SIZES = {"image_size": 64, "model_size": "small", "box_score_threshold": 0.001}
NOTHING = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_model(folder: Path, task: str, name: str, parameters: dict[str, Any], **building: Any) -> Network:
    torch.manual_seed(3)
    network = rebuild(task, name, len(LABELS), parameters | building, None)
    folder.mkdir()
    save_file(plain(network.module), folder / "model.safetensors")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    rows = names.hyperparameters(task)
    settings = {rows[key].trainer: value for key, value in parameters.items()}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model.json").write_text(json.dumps({"schema": 1, "task": task, "model_name": name}))
    return network


@torch.inference_mode()
def directly(network: Network, task: str, name: str, parameters: dict[str, Any], encoded: bytes) -> Any:
    """Detections by the steps of validation, and height and width as seen."""
    row = names.restored(task, name, None)
    geometry = detection_training.geometry(row, names.effective(task, name, parameters))
    with images.open_header(encoded) as image:
        pixels = geometry.pixels(image)
    module: Any = network.module.eval()
    batch = collate(
        [(pixels, NOTHING)],
        stride=module.stride,
        fill=module.fill,
        mean=network.mean,
        std=network.std,
        device=torch.device("cpu"),
        channels_last=False,
        masks=False,
    )
    return module(batch.images, batch.sizes)[0], pixels.shape[:2]


def checked(folder: Path, network: Network, task: str, name: str, parameters: dict[str, Any]) -> None:
    description = json.loads((folder / "model.json").read_text())
    predictor = Predictor(folder, description)
    encoded = picture(3)
    (found,) = predictor.predict([encoded])
    expected, (height, width) = directly(network, task, name, parameters, encoded)
    assert len(found["boxes"]) == len(expected) > 0
    sides = np.array([width, height, width, height])
    for one, box, label, score in zip(
        found["boxes"],
        expected.boxes.numpy(),
        expected.labels.tolist(),
        expected.scores.tolist(),
        strict=True,
    ):
        assert list(one["box"].values()) == pytest.approx(box / sides, abs=1e-5)
        assert (one["label"], one["score"]) == (LABELS[label], pytest.approx(score, abs=1e-6))
        assert ("polygon" in one) == (task == SEGMENTATION)
        for part in one.get("polygon", []):
            assert 6 <= len(part) <= 200
            assert as_mask([part], 64, 64).any() or max(box[2:] - box[:2]) < 8
    lines: list[str] = []
    served = starting.start(folder, most=2, log=lines.append, environment={"AMLOCAL_SCORING_THREADS": "1"})
    (answer,) = served.score([encoded])
    served.close()
    assert [one["label"] for one in answer["boxes"]] == [one["label"] for one in found["boxes"]]
    for one, other in zip(answer["boxes"], found["boxes"], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-2)
    assert "folded_channels_last" in lines[1]
    assert "left out" not in lines[1]


@pytest.mark.parametrize("trained", [pytest.param(False, marks=pytest.mark.slow), True])
def test_mask_rcnn(tmp_path: Path, trained: bool) -> None:
    name = "maskrcnn_resnet18_fpn"
    network = write_model(tmp_path / "m", SEGMENTATION, name, SIZES, trained=trained)
    checked(tmp_path / "m", network, SEGMENTATION, name, SIZES)


def test_yolo(tmp_path: Path) -> None:
    network = write_model(tmp_path / "m", DETECTION, "yolov5", YOLO_SIZES)
    checked(tmp_path / "m", network, DETECTION, "yolov5", YOLO_SIZES)
    settings = json.loads((tmp_path / "m" / "settings.json").read_text())
    (tmp_path / "m" / "settings.json").write_text(json.dumps(settings | {"model_size": "large"}))
    with pytest.raises(ValueError, match=r"does not fit yolov5 of model_size large"):
        Predictor(tmp_path / "m", json.loads((tmp_path / "m" / "model.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fasterrcnn_resnet18_fpn", "retinanet_resnet50_fpn"])
def test_other_detectors(tmp_path: Path, name: str) -> None:
    network = write_model(tmp_path / "m", DETECTION, name, SIZES | {"box_score_threshold": 0.005})
    checked(tmp_path / "m", network, DETECTION, name, SIZES | {"box_score_threshold": 0.005})
