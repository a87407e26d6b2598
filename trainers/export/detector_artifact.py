"""train_artifacts/model.onnx of a trial that trained a detector.

Source of the size: "Make predictions with ONNX on computer vision models from AutoML" in Azure Machine
Learning's documentation, where clients take height and width from the file: 600 x 800 for networks of
torchvision's kind, a square for yolov5. Here both are rounded up to whole cells of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amlocal.trainers.data.letterbox import network_side
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.export import detector_onnx, onnx, yolo_onnx
from amlocal.trainers.export.onnx_artifact import PLACE
from amlocal.trainers.models.detector import Detections, Detector, Sizes
from amlocal.trainers.models.network import Network
from amlocal.trainers.models.yolo import YoloDetector
from amlocal.trainers.progress import warn


def write(
    network: Network, options: Mapping[str, Any], folder: Path, *, masks: bool, normalised: bool
) -> str | None:
    """Write the detector below the artifacts' `folder`; `options`, its builder's, say how large it sees
    images.

    `normalised` puts the normalisation into the file, which then takes pixels in [0, 1]. Returns where in
    `folder` the file is; None, with a warning, when ONNX cannot express the network: that costs no trial.
    """
    detector = network.module
    if not isinstance(detector, Detector):
        raise TypeError("only detectors have boxes")
    if detector.no_onnx is not None:
        warn(f"no {PLACE}: {detector.no_onnx}")
        return None
    metadata = {}
    # yolov5 takes pixels in [0, 1] in any case.
    if normalised and not isinstance(detector, YoloDetector):
        network = replace(network, module=_Scaled(detector, network), mean=(0.0,) * 3, std=(1.0,) * 3)
        metadata = {onnx.INPUT: "RGB, pixels / 255; the network normalises them"}
    try:
        if isinstance(detector, YoloDetector):
            yolo_onnx.write(network, network_side(options["image_size"]), folder / PLACE)
        else:
            shape = size(options, detector.stride)
            detector_onnx.write(network, shape, folder / PLACE, masks=masks, metadata=metadata)
    except onnx.ExportError as error:
        warn(f"no {PLACE}: {error}")
        return None
    return PLACE


def size(options: Mapping[str, Any], stride: int) -> tuple[int, int]:
    """Height and width of the file's images."""
    if "image_size" in options:
        sides = options["image_size"], options["image_size"]
    else:
        sides = options["min_size"], min(options["min_size"] * 4 // 3, options["max_size"])
    height, width = (-(-side // stride) * stride for side in sides)
    return height, width


class _Scaled(Detector):
    """A detector that takes pixels / 255, whatever it was trained with."""

    def __init__(self, module: Detector, network: Network) -> None:
        super().__init__()
        self.module = module
        self.stride, self.fill = module.stride, module.fill
        self.register_buffer("mean", torch.tensor(network.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(network.std).view(1, 3, 1, 1))
        self.to(next(module.parameters()).device)
        self.train(module.training)

    def losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Objects]) -> dict[str, Tensor]:
        return self.module.losses((images - self.mean) / self.std, sizes, targets)

    def detect(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        return self.module.detect((images - self.mean) / self.std, sizes)
