"""Multi-class image classification: data, loss, evaluation and charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amlocal.compat import names
from amlocal.trainers import files
from amlocal.trainers.data import augment, batches, cache, images, samples
from amlocal.trainers.device import Layout
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.progress import say
from amlocal.trainers.spec import Spec

_IMBALANCE = 2


@dataclass
class Evaluation:
    """Scalars of one evaluation, and how to write the charts that belong to it."""

    metrics: dict[str, float]
    write_charts: Callable[[Path], None]


@dataclass
class Split:
    """One half of the data: class number of each usable image, and its pixels by `positions` in the store."""

    store: cache.Store
    positions: list[int]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def pixels(self, which: Sequence[int]) -> list[images.Pixels]:
        return [self.store[self.positions[i]] for i in which]


class Classification:
    """What the training loop needs to know about multi-class classification."""

    higher_is_better = True

    def __init__(self, spec: Spec, seed: int) -> None:
        self._spec = spec
        self._seed = seed
        self._parameters = spec.parameters
        self._augmented = spec.advanced.get("apply_automl_train_augmentations", True) is not False
        train, validation = self._read()
        self.labels = sorted({row.label for row in (*train, *validation)})
        samples.write_split(spec.artifacts_dir / "train_artifacts", train, validation)
        files.write_json(spec.artifacts_dir / "train_artifacts" / "labels.json", self.labels)
        self._train, bad_train = self._open(train, self._training_geometry(), "training")
        self._validation, bad_validation = self._open(validation, self._validation_geometry(), "validation")
        dropped = [*bad_train, *bad_validation]
        samples.report(spec.artifacts_dir / "outputs" / "data_report.json", spec.data_report, dropped)
        for half, noun in ((self._train, "training"), (self._validation, "validation")):
            if not len(half):
                first = f"; the first of them: {dropped[0].source}, {dropped[0].reason}" if dropped else ""
                raise TrainingError(f"no {noun} image is left, {len(dropped)} were left out{first}")
        self._weights = self._class_weights()
        self._normalise: augment.Normalise | None = None
        self._device = torch.device("cpu")
        self._layout = Layout(channels_last=False, bf16=False)

    # What the loop reads

    @property
    def classes(self) -> int:
        return len(self.labels)

    @property
    def train_images(self) -> int:
        return len(self._train)

    @property
    def validation_images(self) -> int:
        return len(self._validation)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of a training batch."""
        crop = self._parameters["training_crop_size"]
        return min(self._parameters["training_batch_size"], self.train_images), 3, crop, crop

    @property
    def batches_per_epoch(self) -> int:
        size = self._parameters["training_batch_size"]
        return len(batches.chunks(range(self.train_images), size))

    def place(
        self, device: torch.device, layout: Layout, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """Where batches have to go, and how the network wants its inputs."""
        self._device = device
        self._layout = layout
        self._normalise = augment.Normalise(mean, std, device)

    def train_batches(self, epoch: int) -> Iterator[batches.Batch]:
        """The batches of one epoch; the same for the same seed and epoch."""
        order = batches.shuffled(
            self.train_images, self._parameters["training_batch_size"], batches.generator(self._seed, epoch)
        )
        source = batches.generator(self._seed, epoch, 1)

        def make() -> Iterator[batches.Batch]:
            for which in order:
                yield self._train_batch(which, source)

        return batches.ahead(make) if self._device.type == "cuda" else make()

    def loss(self, outputs: Tensor, batch: batches.Batch) -> Tensor:
        """Mean cross entropy, weighted by class where weighted_loss asks for it."""
        weights = None if self._weights is None else self._weights.to(outputs.device)
        return F.cross_entropy(outputs.float(), batch.targets, weight=weights)

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> Evaluation:
        """Metrics on the validation images. Raises TrainingError when the primary metric is not defined
        there."""
        model.eval()
        outputs = []
        size = self._parameters["validation_batch_size"]
        for start in range(0, self.validation_images, size):
            which = range(start, min(start + size, self.validation_images))
            pixels = torch.from_numpy(np.stack(self._validation.pixels(which))).permute(0, 3, 1, 2)
            with self._layout.autocast(self._device):
                outputs.append(model(self._to_network(pixels.to(self._device))).float().cpu())
        logits = torch.cat(outputs).double()
        loss = F.cross_entropy(logits, self._validation.targets).item()
        if not bool(torch.isfinite(logits).all()):
            raise TrainingError("the network's outputs are not finite numbers; reduce learning_rate")
        from amlocal.trainers.metrics import classification as metrics

        truth, probabilities = self._validation.targets.numpy(), logits.softmax(1).numpy()
        values = metrics.scalars(truth, probabilities, loss, self._spec.primary_metric)
        if self._spec.primary_metric not in values:
            raise TrainingError(
                f"{self._spec.primary_metric} is not defined: the validation images have one class only "
                f"({self.labels[int(truth[0])]}). Use primary metric accuracy or add validation images."
            )

        def write_charts(folder: Path) -> None:
            matrix = metrics.confusion_matrix(truth, probabilities.argmax(1), self.labels)
            files.write_json(folder / "confusion_matrix", matrix)
            table = metrics.accuracy_table(truth, probabilities, self.labels)
            files.write_json(folder / "accuracy_table", table)

        return Evaluation(values, write_charts)

    def settings(self) -> dict[str, Any]:
        """settings.json of the model: what a user may edit, under Azure's names."""
        rows = names.hyperparameters(self._spec.task)
        keys = ("validation_resize_size", "validation_crop_size", "training_crop_size")
        return {rows[key].trainer: self._parameters[key] for key in keys}

    # Inside

    def _read(self) -> tuple[list[samples.Sample], list[samples.Sample]]:
        train = samples.read_manifest(self._spec.train_manifest)
        if self._spec.validation_manifest is not None:
            return train, samples.read_manifest(self._spec.validation_manifest)
        return samples.split(train, self._spec.validation_data_size, self._seed)

    def _validation_geometry(self) -> cache.Validation:
        p = self._parameters
        return cache.Validation(p["validation_resize_size"], p["validation_crop_size"])

    def _training_geometry(self) -> cache.Geometry:
        p = self._parameters
        crop = p["training_crop_size"]
        if self._augmented:
            return cache.Training(2 * crop)
        # Without augmentation the validation geometry at the training crop's scale.
        return cache.Validation(round(crop * p["validation_resize_size"] / p["validation_crop_size"]), crop)

    def _open(
        self, rows: list[samples.Sample], geometry: cache.Geometry, noun: str
    ) -> tuple[Split, list[samples.Dropped]]:
        store, dropped = cache.open_store(rows, geometry, self._spec.cache_dir / "images", noun)
        positions = [i for i in range(len(rows)) if i not in store.dropped]
        number = {label: i for i, label in enumerate(self.labels)}
        targets = torch.tensor([number[rows[i].label] for i in positions], dtype=torch.int64)
        return Split(store, positions, targets), dropped

    def _class_weights(self) -> Tensor | None:
        power = self._parameters["weighted_loss"]
        weights = class_weights(Counter(self._train.targets.tolist()), self.classes, power)
        if weights is not None:
            say(f"weighted_loss {power}: each class counts by its rarity")
        return weights

    def _train_batch(self, which: list[int], source: torch.Generator) -> batches.Batch:
        pixels = self._train.pixels(which)
        if self._augmented:
            crops = augment.random_resized_crops(pixels, self._parameters["training_crop_size"], source)
            floats = crops.to(self._device).float().div_(255)
            ready = self._to_network(augment.flip_and_jitter(floats, source))
        else:
            ready = self._to_network(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(self._device))
        return batches.Batch(ready, self._train.targets[which].to(self._device))

    def _to_network(self, pixels: Tensor) -> Tensor:
        if self._normalise is None:
            raise RuntimeError("place() must be called before batches are made")
        return self._normalise(pixels).contiguous(memory_format=self._layout.memory_format)


def class_weights(counts: Mapping[int, int], classes: int, power: int) -> Tensor | None:
    """Loss weight per class: sqrt(1 / count) to the `power` (1 or 2), 0 for a class without images.

    None when `power` is 0 or the largest class has at most twice the images of the smallest (Azure's rule).
    """
    present = [counts.get(c, 0) for c in range(classes)]
    if power not in (1, 2) or max(present) // max(1, min(present)) <= _IMBALANCE:
        return None
    return torch.tensor([(1.0 / n) ** (power / 2) if n else 0.0 for n in present])
