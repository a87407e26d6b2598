"""The two halves of a classification data set: which images, with which labels, and their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from amlocal.trainers import distributed, files
from amlocal.trainers.data import balance, cache, images, reading, samples
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.progress import warn
from amlocal.trainers.spec import Spec
from amlocal.trainers.tasks.targets import Targets


@dataclass
class Half:
    """One half of the data: the targets of each usable image, and its pixels by `positions` in the store."""

    store: cache.Store
    positions: list[int]
    targets: Tensor
    sources: list[str]
    told: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.positions)

    def pixels(self, which: Sequence[int]) -> tuple[list[images.Pixels], list[int]]:
        """Pixels of those that can be read, and which they are; others are named once in the log."""
        found, kept = [], []
        answers = reading.read(self.store, [self.positions[index] for index in which])
        for index, answer in zip(which, answers, strict=True):
            if not isinstance(answer, images.ImageError):
                found.append(answer)
                kept.append(index)
            elif index not in self.told:
                self.told.add(index)
                warn(f"{self.sources[index]} is left out: {answer}")
        return found, kept

    def stacked(self, which: Sequence[int]) -> tuple[Tensor, list[int]]:
        """As `pixels`, for images of one size: (images, 3, height, width) uint8."""
        found, kept = self.pixels(which)
        if not found:
            return torch.empty(0, 3, 1, 1, dtype=torch.uint8), kept
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2), kept


@dataclass(frozen=True)
class Data:
    """Both halves and the class names in the order of the network's outputs."""

    labels: list[str]
    train: Half
    validation: Half


def read(spec: Spec, targets: Targets, training: cache.Geometry, validation: cache.Geometry) -> Data:
    """Read the manifests, split if need be, open the pixels, and write down what was used and what was not.

    Raises TrainingError when one half has no image left.
    """
    train, held_out = _manifests(spec)
    labels = sorted({label for half in (train, held_out) for row in half for label in row.labels})
    first_process = distributed.current().rank == 0
    if first_process:
        folder = spec.artifacts_dir / "train_artifacts"
        samples.write_split(folder, train, held_out, multilabel=spec.multilabel)
        files.write_json(folder / "labels.json", labels)
    for text in balance.notices(train, held_out):
        warn(text)
    limit = None if spec.cache_max_gb is None else int(spec.cache_max_gb * 1e9)
    halves, dropped = [], []
    # Validation first: where room is short, training must not take all of it.
    for half, geometry, noun in ((held_out, validation, "validation"), (train, training, "training")):
        store, bad = cache.open_store(
            half, geometry, spec.cache_dir / "images", noun, max_bytes=limit, stream=spec.stream
        )
        positions = [i for i in range(len(half)) if i not in store.dropped]
        truth = targets.tensor([half[i].labels for i in positions], labels)
        halves.append(Half(store, positions, truth, [half[i].source for i in positions]))
        dropped += bad
    if first_process:
        samples.report(spec.artifacts_dir / "outputs" / "data_report.json", spec.data_report, dropped)
    for one, noun in zip(halves, ("validation", "training"), strict=True):
        if not len(one):
            first = f"; the first of them: {dropped[0].source}, {dropped[0].reason}" if dropped else ""
            raise TrainingError(f"no {noun} image is left, {len(dropped)} were left out{first}")
    return Data(labels, train=halves[1], validation=halves[0])


def _manifests(spec: Spec) -> tuple[list[samples.Sample], list[samples.Sample]]:
    train = samples.read_manifest(spec.train_manifest, multilabel=spec.multilabel)
    if spec.validation_manifest is not None:
        return train, samples.read_manifest(spec.validation_manifest, multilabel=spec.multilabel)
    return samples.split(train, spec.validation_data_size, spec.parameters["random_seed"])
