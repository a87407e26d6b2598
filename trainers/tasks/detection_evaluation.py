"""A detector's look at one half of the data: what it finds in every image, and its losses there."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from amlocal.trainers import device as devices
from amlocal.trainers import distributed, heartbeat, termination
from amlocal.trainers.data import aspect, tiling
from amlocal.trainers.data.detection_batches import Batch
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.layouts import Layout
from amlocal.trainers.metrics import objects as compared
from amlocal.trainers.metrics.objects import Found, Truth
from amlocal.trainers.models.detector import Detections
from amlocal.trainers.tasks.detection_data import Half
from amlocal.trainers.tasks.detection_exchange import Compared, gathered

Collate = Callable[[Sequence[tuple[Pixels, Objects]]], Batch]
_SEED = 47
"""Some losses draw which boxes count; with the same draw every time, epochs can be compared."""


@dataclass(frozen=True)
class Outcome:
    """What all processes saw together. `images`: positions in the half. `loss`: the mean over the images,
    None where it was not asked for."""

    images: list[int]
    truths: list[Truth]
    found: list[Found]
    loss: float | None


class Evaluator:
    """Looks at images in batches of `batch_size`, which becomes smaller when memory is short. `overlap`: from
    which IoU on two boxes of different tiles are one. `sizes`: what to reduce when one image is too large, in
    words."""

    def __init__(
        self,
        batch_size: int,
        *,
        masks: bool,
        overlap: float,
        sizes: str,
        collate: Collate,
        device: torch.device,
        layout: Layout,
    ) -> None:
        self.batch_size = batch_size
        self._masks = masks
        self._overlap = overlap
        self._sizes = sizes
        self._collate = collate
        self._device = device
        self._layout = layout

    @torch.no_grad()
    def look(self, model: nn.Module, half: Half, noun: str, *, losses: bool) -> Outcome:
        """The images of `half` (the `noun` images) that can be read; every process looks at its share, and
        all get the whole.

        Raises TrainingError when none can be read, or the network gives no numbers.
        """
        model.eval()
        world = distributed.current()
        look = _Look(half, self._masks, self._overlap)
        mine = half.images[world.rank :: world.size]
        positions = [position for views in mine for position in views]
        left = aspect.batches(half.sizes, positions, self.batch_size)
        loss_sum, images = 0.0, 0
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            while left:
                heartbeat.beat("evaluating")
                termination.check_alone()
                some, left = left[0], left[1:]
                items = half.get(some)
                if not items:
                    continue
                torch.manual_seed(_SEED)
                answer = self._forward(model, items, losses)
                if isinstance(answer, str):
                    kept = [position for position, _, _ in items]
                    left = self._halved(kept, left, answer)
                    continue
                detections, loss = answer
                loss_sum, images = loss_sum + loss * len(items), images + len(items)
                for (position, pixels, objects), detected in zip(items, detections, strict=True):
                    look.take(position, (pixels.shape[0], pixels.shape[1]), objects, detected)
        rows = gathered(look.rows())
        if not rows:
            raise TrainingError(f"none of the {noun} images can be read")
        loss_sum, images = distributed.total(loss_sum, images)
        return Outcome(
            [row.image for row in rows],
            [row.truth for row in rows],
            [row.found for row in rows],
            loss_sum / images if losses else None,
        )

    def _forward(
        self, model: Any, items: Sequence[tuple[int, Pixels, Objects]], losses: bool
    ) -> tuple[list[Detections], float] | str:
        """Detections and loss; or why there is no memory for them, so that the failed pass's tensors are free
        when something is done about it."""
        try:
            batch = self._collate([(pixels, objects) for _, pixels, objects in items])
            with self._layout.autocast(self._device):
                if losses:
                    parts, found = model.examine(batch.images, batch.sizes, batch.targets)
                else:
                    parts, found = {}, model(batch.images, batch.sizes)
            answers = [one.cpu() for one in found]
            loss = sum(float(part) for part in parts.values())
        except (MemoryError, RuntimeError) as error:
            if reason := devices.short_of_memory(error):
                return reason
            raise
        finite = [bool(torch.isfinite(part).all()) for one in answers for part in (one.scores, one.boxes)]
        if not math.isfinite(loss) or not all(finite):
            raise TrainingError("the network's outputs are not finite numbers; reduce learning_rate")
        return answers, loss

    def _halved(self, failed: list[int], left: list[list[int]], reason: str) -> list[list[int]]:
        half = devices.halved(len(failed), self._sizes, reason)
        self.batch_size = min(self.batch_size, half)
        return [some[start : start + half] for some in (failed, *left) for start in range(0, len(some), half)]


class _Look:
    """Gathers what is seen in the views of each image: the whole alone, or the whole and its tiles."""

    def __init__(self, half: Half, masks: bool, overlap: float) -> None:
        self._masks = masks
        self._overlap = overlap
        self._regions = half.regions
        self._image = {view: number for number, views in enumerate(half.images) for view in views}
        self._tiled = any(len(views) > 1 for views in half.images)
        self._rows: list[Compared] = []
        self._truths: dict[int, Truth] = {}
        self._parts: dict[int, list[tiling.Part]] = defaultdict(list)

    def take(self, position: int, size: tuple[int, int], objects: Objects, detected: Detections) -> None:
        """What was detected in one view of `size` (height, width)."""
        image = self._image[position]
        if self._regions[position] is None:
            self._truths[image] = compared.truth(objects, *size, masks=self._masks)
        if self._tiled:
            self._parts[image].append(tiling.Part(detected, size, self._regions[position]))
        else:
            self._add(image, detected)

    def _add(self, image: int, detected: Detections) -> None:
        truth = self._truths.pop(image)
        found = compared.found(detected, truth.height, truth.width, masks=self._masks)
        self._rows.append(Compared(image, truth, found))

    def rows(self) -> list[Compared]:
        """One for each image that could be read as a whole."""
        for image, parts in self._parts.items():
            if image in self._truths:
                self._add(image, tiling.merged(parts, self._overlap))
        return self._rows
