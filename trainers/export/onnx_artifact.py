"""train_artifacts/model.onnx: the trained network for those who score without PyTorch.

Source of the input's form: "Make predictions with ONNX on computer vision models from AutoML" in Azure
Machine Learning's documentation, which normalises pixels in [0, 1] with ImageNet's mean and deviation for
every model, and applies softmax or sigmoid to what comes out.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from amlocal.trainers.export import onnx
from amlocal.trainers.models.network import Network
from amlocal.trainers.progress import warn

PLACE = "train_artifacts/model.onnx"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def write(network: Network, size: int, folder: Path) -> str | None:
    """Write the network for images of `size` x `size` below the artifacts' `folder`.

    Returns where in it; None, with a warning, when ONNX cannot express the network: that costs no trial.
    """
    module = network.module
    usual = (network.mean, network.std) == (IMAGENET_MEAN, IMAGENET_STD)
    wanted = module if usual else _FromImageNet(network).to(next(module.parameters()).device)
    try:
        onnx.write(wanted, (3, size, size), folder / PLACE, probabilities=False)
    except onnx.ExportError as error:
        warn(f"no {PLACE}: {error}")
        return None
    return PLACE


class _FromImageNet(nn.Module):
    """Takes inputs with ImageNet's normalisation to a network that was trained with another."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = network.module
        mean, std, own_mean, own_std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (IMAGENET_MEAN, IMAGENET_STD, network.mean, network.std)
        )
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.module(images * self.scale + self.shift)
        return found
