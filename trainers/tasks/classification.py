"""Image classification, multi-class and multi-label: batches, loss, evaluation and charts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amlocal.compat import names
from amlocal.compat.model_rows import HUGGINGFACE
from amlocal.trainers import device as devices
from amlocal.trainers import distributed, files, heartbeat, termination
from amlocal.trainers.data import augment, batches, cache
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.export import onnx_artifact
from amlocal.trainers.layouts import Layout
from amlocal.trainers.manner import Manner
from amlocal.trainers.models.network import Network
from amlocal.trainers.progress import say, warn
from amlocal.trainers.spec import Spec
from amlocal.trainers.task import Evaluation
from amlocal.trainers.tasks import classification_data
from amlocal.trainers.tasks.targets import imbalance, targets


class Classification:
    """What the training loop needs to know about image classification.

    `batch_size` is the number of images of one batch of one process; it may be lowered between epochs.
    `validation_batch_size` is lowered when memory is short.
    """

    higher_is_better = True
    manner = Manner()

    def __init__(self, spec: Spec, seed: int) -> None:
        self._spec = spec
        self._seed = seed
        self._parameters = spec.parameters
        self._augmented = spec.advanced.get("apply_automl_train_augmentations", True) is not False
        self._targets = targets(spec.multilabel)
        self.batch_size: int = self._parameters["training_batch_size"]
        self.validation_batch_size: int = self._parameters["validation_batch_size"]
        data = classification_data.read(
            spec, self._targets, self._training_geometry(), self._validation_geometry()
        )
        self.labels, self._train, self._validation = data.labels, data.train, data.validation
        self._weights = self._class_weights()
        self._normalise: augment.Normalise | None = None
        self._device = torch.device("cpu")
        self._layout: Layout | None = None
        self._augmentation = augment.Augmentation(self._parameters["training_crop_size"], self._device)

    @property
    def classes(self) -> int:
        return len(self.labels)

    @property
    def train_images(self) -> int:
        return len(self._train)

    @property
    def train_files(self) -> int:
        """Images are never cut into tiles."""
        return self.train_images

    @property
    def validation_images(self) -> int:
        return len(self._validation)

    def parts(self) -> dict[str, float]:
        """The loss is a single one."""
        return {}

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of a training batch."""
        crop = self._parameters["training_crop_size"]
        return min(self.batch_size, self.train_images), 3, crop, crop

    @property
    def batches_per_epoch(self) -> int:
        """Of one process; all processes have as many."""
        return len(batches.shard(self._order(0), distributed.current()))

    def place(self, device: torch.device, layout: Layout, network: Network) -> None:
        """Where batches have to go, and which network they are for."""
        self._device = device
        self._layout = layout
        self._augmentation = augment.Augmentation(self._parameters["training_crop_size"], device)
        self._normalise = augment.Normalise(network.mean, network.std, device)
        if self._weights is not None:
            self._weights = self._weights.to(device)

    def train_batches(self, epoch: int) -> Iterator[batches.Batch]:
        """This process's batches of one epoch; the same for the same seed and epoch."""
        world = distributed.current()
        order = batches.shard(self._order(epoch), world)
        source = batches.generator(self._seed, epoch, 1 + world.rank)

        def make() -> Iterator[batches.Batch]:
            for which in order:
                batch = self._train_batch(which, source)
                if batch is not None:
                    yield batch

        return batches.prepared(make, self._device)

    def forward(self, model: Callable[..., Any], batch: batches.Batch) -> Tensor:
        """The network's raw outputs (images, classes)."""
        return torch.as_tensor(model(batch.images))

    def loss(self, outputs: Tensor, batch: batches.Batch) -> Tensor:
        """Mean loss, weighted by class where weighted_loss asks for it."""
        return self._targets.loss(outputs.float(), batch.targets, self._weights)

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> Evaluation:
        """Metrics on the validation images. Raises TrainingError when the primary metric is not defined
        there."""
        logits, which = self._outputs(model)
        if not bool(torch.isfinite(logits).all()):
            raise TrainingError("the network's outputs are not finite numbers; reduce learning_rate")
        goal = self._validation.targets[which]
        loss = self._targets.loss(logits, goal).item()
        truth, probabilities = goal.numpy(), self._targets.probabilities(logits).numpy()
        primary = self._spec.primary_metric
        values = self._targets.scalars(truth, probabilities, loss, primary)
        if primary not in values:
            seen = "fewer than two labels have validation images"
            if not self._spec.multilabel:
                seen = f"the validation images have one class only ({self.labels[int(truth[0])]})"
            raise TrainingError(
                f"{primary} is not defined: {seen}. Use another primary metric or add validation images."
            )

        def write_charts(folder: Path) -> None:
            from amlocal.trainers import charts
            from amlocal.trainers.metrics import documents

            found = documents.final_documents(truth, probabilities, self.labels, self._spec.multilabel)
            for name, document in found.items():
                files.write_json(folder / name, document)
            try:
                charts.draw(found, folder)
            except charts.ChartError as error:
                warn(str(error))

        return Evaluation(values, write_charts)

    def write_onnx(self, network: Network, folder: Path) -> str | None:
        """Write the trained network below the artifacts' `folder`; returns where, None where that is not
        possible."""
        p = self._parameters
        return onnx_artifact.write(
            network, p["validation_crop_size"], folder, normalised=p["enable_onnx_normalization"]
        )

    def settings(self) -> dict[str, Any]:
        """settings.json of the model: what a user may edit, under Azure's names."""
        rows = names.hyperparameters(self._spec.task)
        keys = ("validation_resize_size", "validation_crop_size", "training_crop_size")
        return {rows[key].trainer: self._parameters[key] for key in keys}

    def _order(self, epoch: int) -> list[list[int]]:
        return batches.shuffled(self.train_images, self.batch_size, batches.generator(self._seed, epoch))

    def _outputs(self, model: nn.Module) -> tuple[Tensor, list[int]]:
        """Raw outputs of the validation images that can be read, in their order."""
        model.eval()
        world = distributed.current()
        left: Sequence[int] = range(world.rank, self.validation_images, world.size)
        outputs, seen = [torch.empty(0, self.classes)], []
        while left:
            heartbeat.beat("evaluating")
            termination.check_alone()
            some, left = left[: self.validation_batch_size], left[self.validation_batch_size :]
            pixels, kept = self._validation.stacked(some)
            if kept:
                outputs.append(self._forward(model, pixels))
                seen += kept
        whole = distributed.gather(
            torch.cat([torch.tensor(seen).double()[:, None], torch.cat(outputs).double()], 1)
        )
        if not len(whole):
            raise TrainingError("none of the validation images can be read")
        whole = whole[whole[:, 0].argsort()]
        return whole[:, 1:], whole[:, 0].long().tolist()

    def _forward(self, model: nn.Module, pixels: Tensor) -> Tensor:
        """Raw outputs of a batch; those that do not fit into memory are halved, and so are all after them."""
        try:
            with self._placed.autocast(self._device):
                return torch.as_tensor(model(self._to_network(pixels.to(self._device))).float().cpu())
        except (MemoryError, RuntimeError) as error:
            reason = devices.short_of_memory(error)
            if not reason:
                raise
        # Out of the except block, so that the failed pass's tensors are free.
        half = devices.halved(len(pixels), self.manner.sizes, reason)
        self.validation_batch_size = min(self.validation_batch_size, half)
        return torch.cat([self._forward(model, some) for some in pixels.split(half)])

    def _validation_geometry(self) -> cache.Validation:
        p = self._parameters
        return cache.Validation(p["validation_resize_size"], p["validation_crop_size"], self._whole)

    @property
    def _whole(self) -> bool:
        """Hugging Face models see whole images, squeezed into their size (Azure's rule)."""
        return self._spec.model.builder == HUGGINGFACE

    def _training_geometry(self) -> cache.Geometry:
        p = self._parameters
        crop = p["training_crop_size"]
        if self._augmented:
            # One cache for all trials of a sweep; crops are cut from images of any size.
            return cache.Training(2 * self._spec.cached()["training_crop_size"])
        # Without augmentation the validation geometry at the training crop's scale.
        resize = round(crop * p["validation_resize_size"] / p["validation_crop_size"])
        return cache.Validation(resize, crop, self._whole)

    def _class_weights(self) -> Tensor | None:
        power = self._parameters["weighted_loss"]
        rate = imbalance(self._targets.counts(self._train.targets, self.classes))
        weights = self._targets.weights(self._train.targets, self.classes, power)
        if weights is not None:
            say(f"weighted_loss {power}: classes count by rarity; the largest has {rate} x the smallest")
        return None if weights is None else weights.float()

    def _train_batch(self, which: list[int], source: torch.Generator) -> batches.Batch | None:
        if self._augmented:
            pixels, kept = self._train.pixels(which)
            if not kept:
                return None
            ready = self._to_network(self._augmentation(pixels, source))
        else:
            plain, kept = self._train.stacked(which)
            if not kept:
                return None
            ready = self._to_network(batches.to_device(plain, self._device))
        return batches.Batch(ready, batches.to_device(self._train.targets[kept], self._device))

    def _to_network(self, pixels: Tensor) -> Tensor:
        if self._normalise is None:
            raise RuntimeError("place() must be called before batches are made")
        return self._normalise(pixels).contiguous(memory_format=self._placed.memory_format)

    @property
    def _placed(self) -> Layout:
        if self._layout is None:
            raise RuntimeError("place() must be called before batches are made")
        return self._layout
