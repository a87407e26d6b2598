"""Detectors as ONNX: onnxruntime finds what PyTorch finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from framed import frames
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision_desk import NO_THRESHOLD, QUICK, ROWS, built, shaken

from amlocal.trainers.export import detector_onnx, onnx
from amlocal.trainers.models.detector import Detections, Detector
from amlocal.trainers.models.network import Network

CLOSE = 1e-3


def answers(path: Path, images: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["input1"]
    return list(session.run(None, {"input1": images.numpy()}))


def settled(module: Any) -> Any:
    """The same network with the statistics of its images: with others a deep one says 1.0 for everything."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        module.train().backbone(frames(2, 128)[0])
    return module


def paired(found: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """For each box of `goal` the position of the one in `found` that is the same."""
    apart = np.abs(goal[:, None] - found[None]).max(-1)
    return np.asarray(linear_sum_assignment(apart)[1])


def check(name: str, folder: Path, size: tuple[int, int]) -> None:
    network = built(name, 3, **NO_THRESHOLD)
    module = settled(shaken(network.module)).train()
    path = folder / "train_artifacts" / "model.onnx"
    detector_onnx.write(network, size, path, masks=module.has_masks, metadata={"of": "é"})
    assert module.training and module.backbone.training
    assert [one.name for one in path.parent.iterdir()] == ["model.onnx"]
    module.eval()
    height, width = size
    counts = []
    for number in range(2):
        images = frames(2, 128)[0][number : number + 1, :, :height, :width].contiguous()
        padded = torch.zeros(1, 3, 128, 128)[:, :, : -(-height // 32) * 32, : -(-width // 32) * 32].clone()
        padded[:, :, :height, :width] = images
        with torch.inference_mode():
            goal = module.detect(padded, [size])[0]
        boxes, labels, scores, *masks = answers(path, images)
        assert boxes.shape == (len(goal), 4) and labels.dtype == np.int64
        assert np.abs(scores - goal.scores.numpy()).max() < CLOSE
        # Objects of (nearly) the same score may stand in either order.
        order = paired(boxes, goal.boxes.numpy())
        boxes, labels, scores, *masks = (one[order] for one in (boxes, labels, scores, *masks))
        assert np.array_equal(labels, goal.labels.numpy())
        assert np.abs(scores - goal.scores.numpy()).max() < CLOSE
        assert np.abs(boxes - goal.boxes.numpy()).max() < CLOSE * 128
        if goal.masks is None:
            assert masks == []
        else:
            # Pasting cuts boxes to whole pixels: of 9.999 and 10.001 it makes masks that lie one apart.
            whole = paste_masks_in_image(goal.masks[:, None], torch.tensor(boxes), size).numpy()
            assert masks[0].shape == (len(goal), 1, height, width)
            assert np.abs(masks[0] - whole).max() < 10 * CLOSE
        counts.append((len(goal), goal.boxes.sum().item()))
    assert counts[0] != counts[1], "the network does not look at its input"


@pytest.mark.parametrize("name", QUICK)
def test_a_model_of_each_family_finds_the_same(name: str, tmp_path: Path) -> None:
    # No multiple of 32, so that the padding is seen.
    check(name, tmp_path, (96, 120))


@pytest.mark.slow
@pytest.mark.parametrize("name", [row.name for row in ROWS if row.name not in QUICK])
def test_every_other_model_finds_the_same(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, (128, 96))


@pytest.mark.parametrize("name", QUICK)
def test_nothing_found_is_an_answer(name: str, tmp_path: Path) -> None:
    network = built(name, 3, box_score_threshold=0.999)
    detector_onnx.write(network, (96, 96), tmp_path / "m.onnx", masks=network.module.has_masks)
    found = answers(tmp_path / "m.onnx", torch.zeros(1, 3, 96, 96))
    shapes = [(0, 4), (0,), (0,), (0, 1, 96, 96)]
    assert [one.shape for one in found] == shapes[: len(found)]
    assert len(found) == (4 if network.module.has_masks else 3)


class Fixed(Detector):
    """Finds the whole image, with a mask that is its brightness."""

    stride = 16
    fill = (114.0, 114.0, 114.0)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def losses(self, images: Tensor, sizes: Any, targets: Any) -> dict[str, Tensor]:
        raise NotImplementedError

    def detect(self, images: Tensor, sizes: Any) -> list[Detections]:
        height, width = sizes[0]
        box = torch.tensor([[0.0, 0.0, width, height]]) * self.scale
        # What was padded is seen through the score.
        score = images[:, 0, -1, -1]
        masks = images[:, 0, :height, :width] * self.scale
        return [Detections(box, torch.zeros(1, dtype=torch.int64), score, masks, whole=True)]


def test_another_fill_and_whole_masks(tmp_path: Path) -> None:
    network = Network(Fixed(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), ())
    detector_onnx.write(network, (24, 40), tmp_path / "m.onnx", masks=True)
    image = torch.rand(1, 3, 24, 40)
    boxes, _, scores, masks = answers(tmp_path / "m.onnx", image)
    assert boxes.tolist() == [[0.0, 0.0, 40.0, 24.0]]
    assert scores.tolist() == [pytest.approx(114 / 255)]
    assert np.array_equal(masks[0, 0], image[0, 0].numpy())


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    odd = Network(Fixed(), (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), ())
    with pytest.raises(onnx.ExportError, match=r"multiples of 16, not \(24, 40\)"):
        detector_onnx.write(odd, (24, 40), tmp_path / "m.onnx")
    with pytest.raises(onnx.ExportError, match="finds no masks"):
        detector_onnx.write(built("fasterrcnn_resnet18_fpn"), (64, 64), tmp_path / "m.onnx", masks=True)
    assert list(tmp_path.iterdir()) == []
