"""train_artifacts/model.onnx: the trained network for those who score without PyTorch.

Source of the input's form: "Make predictions with ONNX on computer vision models from AutoML" in Azure
Machine Learning's documentation, which normalises pixels in [0, 1] with ImageNet's mean and deviation for
every model, and applies softmax or sigmoid to what comes out. What a file with the normalisation in it takes
is not documented; here its pixels are in [0, 1], so that a client leaves out that one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from amlocal.trainers.export import onnx
from amlocal.trainers.models.network import Network
from amlocal.trainers.progress import warn

PLACE = "train_artifacts/model.onnx"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def write(network: Network, size: int, folder: Path, *, normalised: bool = False) -> str | None:
    """Write the network for images of `size` x `size` below the artifacts' `folder`.

    `normalised` puts the normalisation into the file (enable_onnx_normalization), which then takes pixels in
    [0, 1]. Returns where in `folder` the file is; None, with a warning, when ONNX cannot express the network:
    that costs no trial.
    """
    module = network.module
    metadata = {}
    if normalised:
        module = _Scaled(network, (0.0,) * 3, (1.0,) * 3)
        metadata = {onnx.INPUT: "RGB, pixels / 255; the network normalises them"}
    elif (network.mean, network.std) != (IMAGENET_MEAN, IMAGENET_STD):
        module = _Scaled(network, IMAGENET_MEAN, IMAGENET_STD)
    try:
        onnx.write(module, (3, size, size), folder / PLACE, probabilities=False, metadata=metadata)
    except onnx.ExportError as error:
        warn(f"no {PLACE}: {error}")
        return None
    return PLACE


class _Scaled(nn.Module):
    """A network that takes pixels / 255 less `mean`, divided by `std`, whatever it was trained with."""

    def __init__(self, network: Network, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.module = network.module
        given_mean, given_std, own_mean, own_std = (
            torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std, network.mean, network.std)
        )
        self.register_buffer("scale", given_std / own_std)
        self.register_buffer("shift", (given_mean - own_mean) / own_std)
        self.to(next(network.module.parameters()).device)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.module(images * self.scale + self.shift)
        return found
