"""yolov5 as an ONNX file: one square image, answered with every candidate.

Source of the form: "Make predictions with ONNX on computer vision models from AutoML" in Azure Machine
Learning's documentation, whose sample takes the first output, multiplies objectness and class scores and
removes overlapping boxes itself. YOLOv5u has no objectness, so that is always 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from amlocal.trainers.export import onnx
from amlocal.trainers.models.network import Network
from amlocal.trainers.models.yolo import YoloDetector

OUTPUT = "output"


def write(network: Network, side: int, path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a yolov5 for square images with sides of `side` pixels, a multiple of 32, as one ONNX file.

    `input1` is (1, 3, side, side): RGB pixels / 255, what is beside the image 114 / 255. `output` is (1, a, 5
    + classes): of each candidate the middle's x and y, width and height in pixels, 1, and the score of each
    class, in the order of labels.json. No threshold is applied. `metadata` goes into the file's properties.
    The file is there whole or not at all; the network stays as it is. Raises ExportError.
    """
    detector = network.module
    assert isinstance(detector, YoloDetector)
    own = next(detector.parameters())
    example = torch.zeros(1, 3, side, side, dtype=own.dtype, device=own.device)
    onnx.save(_Candidates(detector), example, path, outputs=(OUTPUT,), axes={}, metadata=metadata)


class _Candidates(nn.Module):
    def __init__(self, detector: YoloDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        boxes, scores = self.detector.decoded(images)
        near, far = boxes[..., :2], boxes[..., 2:]
        return torch.cat(((near + far) / 2, far - near, torch.ones_like(scores[..., :1]), scores), 2)
