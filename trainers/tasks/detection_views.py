"""How images go through a detector when they are scored, and how alike two of its answers are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.samples import Region
from amlocal.trainers.models.detector import Detections, Detector

_COMPARED = 20
"""Boxes of each view, the best: further down they come and go with the last digit."""


@dataclass(frozen=True)
class View:
    """What the network sees of an image: pixels (height, width, 3), and of which region; None = the whole."""

    pixels: Pixels
    region: Region | None = None


@dataclass(frozen=True)
class Prepared:
    """An image as it goes to the network: the whole first, then its tiles."""

    views: tuple[View, ...]


@dataclass(frozen=True)
class Group:
    """Views that are equally large once padded, so that each is answered as if it were alone: which they are,
    their pixels (n, 3, height, width), and height and width before padding."""

    which: tuple[int, ...]
    images: Tensor
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Inputs:
    """What `Seeing` takes: images in order, their views in groups."""

    prepared: tuple[Prepared, ...]
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        return len(self.prepared)

    def contiguous(self, *, memory_format: torch.memory_format = torch.contiguous_format) -> Inputs:
        """The same with pixels in this order in memory."""
        groups = (replace(g, images=g.images.contiguous(memory_format=memory_format)) for g in self.groups)
        return replace(self, groups=tuple(groups))


@dataclass(frozen=True)
class Seen:
    """What was detected in each view of each image, on the CPU, in pixels of the view."""

    prepared: tuple[Prepared, ...]
    detections: tuple[tuple[Detections, ...], ...]


class Seeing(nn.Module):
    """A detector that takes `Inputs`."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, inputs: Inputs) -> Seen:
        found: dict[int, Detections] = {}
        for group in inputs.groups:
            for position, one in zip(group.which, self.detector(group.images, group.sizes), strict=True):
                found[position] = one.cpu()
        each = iter(found[position] for position in range(len(found)))
        return Seen(inputs.prepared, tuple(tuple(next(each) for _ in one.views) for one in inputs.prepared))


def difference(outputs: Seen, reference: Seen) -> float:
    """How far two outputs for the same images are apart: for each of the best boxes, the largest difference
    of its score or of a coordinate (as a share of the image's side) to the box of the same label that is most
    like it; infinite where there is none, or it is no number."""
    apart = 0.0
    for prepared, ours, theirs in zip(
        reference.prepared, outputs.detections, reference.detections, strict=True
    ):
        for view, one, other in zip(prepared.views, ours, theirs, strict=True):
            height, width = view.pixels.shape[:2]
            side = torch.tensor([width, height, width, height], dtype=torch.float64)
            apart = max(apart, _farthest(one, other, side), _farthest(other, one, side))
    return apart


def _farthest(some: Detections, others: Detections, side: Tensor) -> float:
    best = some.pick(some.scores.argsort(descending=True, stable=True)[:_COMPARED])
    if not len(best):
        return 0.0
    if not len(others):
        return float("inf")
    boxes = (best.boxes.double()[:, None] - others.boxes.double()[None]).abs() / side
    scores = (best.scores.double()[:, None] - others.scores.double()[None]).abs()
    both = torch.maximum(boxes.amax(2), scores)
    both[best.labels[:, None] != others.labels[None]] = float("inf")
    nearest = both.amin(1).amax().item()
    return nearest if nearest == nearest else float("inf")
