"""Detectors as ONNX files: one image of one size, answered with boxes, labels, scores and masks.

Source of the form: "Make predictions with ONNX on computer vision models from AutoML" in Azure Machine
Learning's documentation: a batch of 1 with a fixed height and width, normalised as in training; boxes in
pixels of that size, and masks as large as the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from amlocal.trainers.export import onnx
from amlocal.trainers.models.detector import Detector
from amlocal.trainers.models.network import Network

OUTPUTS = ("boxes", "labels", "scores")
MASKS = "masks"


def write(
    network: Network,
    size: tuple[int, int],
    path: Path,
    *,
    masks: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a detector for images of `size` (height, width in pixels) as one ONNX file.

    `input1` is (1, 3, height, width), normalised as the network wants it. Of n objects, best first, `boxes`
    is (n, 4): left, top, right, bottom in pixels; `labels` (n,) int64 from 0, positions in labels.json;
    `scores` (n,); with `masks`, `masks` (n, 1, height, width) in [0, 1]. Thresholds are those that the
    network was built with. `metadata` goes into the file's properties. The file is there whole or not at all;
    the network stays as it is. Raises ExportError.
    """
    own = next(network.module.parameters())
    example = torch.zeros(1, 3, *size, dtype=own.dtype, device=own.device)
    outputs = (*OUTPUTS, MASKS) if masks else OUTPUTS
    axes = {name: {0: "objects"} for name in outputs}
    module = _OneImage(network, size, masks)
    onnx.save(module, example, path, outputs=outputs, axes=axes, metadata=metadata)


class _OneImage(nn.Module):
    """A detector of one image, padded here as batches are."""

    def __init__(self, network: Network, size: tuple[int, int], masks: bool) -> None:
        super().__init__()
        module = network.module
        assert isinstance(module, Detector)
        self.module = module
        self._size = size
        self._masks = masks
        # Right and bottom.
        self._beside = (0, -size[1] % module.stride, 0, -size[0] % module.stride)
        colours = zip(module.fill, network.mean, network.std, strict=True)
        self._fill = {round((fill / 255 - mean) / std, 6) for fill, mean, std in colours}
        if len(self._fill) > 1 and any(self._beside):
            raise onnx.ExportError(f"height and width must be multiples of {module.stride}, not {size}")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        padded = F.pad(images, self._beside, value=min(self._fill)) if any(self._beside) else images
        found = self.module.detect(padded, [self._size])[0]
        answers = (found.boxes, found.labels, found.scores)
        if not self._masks:
            return answers
        if found.masks is None:
            raise onnx.ExportError("the network finds no masks")
        if found.whole:
            return (*answers, found.masks[:, None])
        return (*answers, paste_masks_in_image(found.masks[:, None], found.boxes, self._size))
