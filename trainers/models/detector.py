"""What every detector looks like to the loop, whoever built it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from amlocal.trainers.data.objects import Objects

Sizes = Sequence[tuple[int, int]]
"""Height and width of each image of a batch before it was padded at its right and bottom."""


@dataclass(frozen=True)
class Detections:
    """What a detector sees in one image, best first, in pixels of the padded batch.

    `boxes` (n, 4) float32: left, top, right, bottom, inside the image. `labels` (n,) int64 from 0. `scores`
    (n,) float32 in [0, 1]. `masks` in instance segmentation: (n, m, m) float32 in [0, 1], each stretched over
    its box; or (n, height, width) of the image where `whole` is set.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | None = None
    whole: bool = False

    def __len__(self) -> int:
        return len(self.boxes)

    def pick(self, which: Tensor) -> Detections:
        """Those at `which`, a bool mask (n,) or positions."""
        masks = None if self.masks is None else self.masks[which]
        return Detections(self.boxes[which], self.labels[which], self.scores[which], masks, self.whole)

    def cpu(self) -> Detections:
        """On the CPU."""
        masks = None if self.masks is None else self.masks.cpu()
        return Detections(self.boxes.cpu(), self.labels.cpu(), self.scores.cpu(), masks, self.whole)


class Detector(nn.Module, ABC):
    """A network that finds objects. In training mode `forward` gives losses, in evaluation mode detections.

    `stride`: a batch's height and width are multiples of it. `fill`: the colour (0 to 255) that pads images.
    `mean` and `std` (of pixels / 255) are what its inputs want; a network may have (0, 0, 0) and (1, 1, 1).
    `no_onnx`: why it is not written as an ONNX file; None where it is.
    """

    no_onnx: str | None = None
    stride: int = 32
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def forward(self, images: Tensor, sizes: Sizes, targets: Sequence[Objects] | None = None) -> Any:
        """`images` (n, 3, height, width), normalised and padded: `losses` in training mode, else `detect`."""
        if not self.training:
            return self.detect(images, sizes)
        if targets is None:
            raise ValueError("a detector in training mode needs targets")
        return self.losses(images, sizes, targets)

    @abstractmethod
    def losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Objects]) -> dict[str, Tensor]:
        """Each loss by name, a mean over the images; their sum is what is trained. Works in both modes (in
        evaluation mode normalisation layers do not learn). Targets have masks where the task needs them."""

    def examine(
        self, images: Tensor, sizes: Sizes, targets: Sequence[Objects]
    ) -> tuple[dict[str, Tensor], list[Detections]]:
        """`losses` and `detect` of the same images."""
        return self.losses(images, sizes, targets), self.detect(images, sizes)

    @abstractmethod
    def detect(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        """One answer per image; score threshold, NMS and the most per image already applied."""
