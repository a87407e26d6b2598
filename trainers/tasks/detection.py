"""Object detection and instance segmentation: batches, losses, evaluation. They differ by masks only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amlocal.compat import names
from amlocal.trainers import distributed
from amlocal.trainers.data import batches
from amlocal.trainers.data.detection_batches import Batch, collate
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.export import detector_artifact
from amlocal.trainers.layouts import Layout
from amlocal.trainers.metrics import detection as metrics
from amlocal.trainers.models.detector import Detector
from amlocal.trainers.models.network import Network, building
from amlocal.trainers.spec import Spec
from amlocal.trainers.task import Evaluation
from amlocal.trainers.tasks import detection_data, detection_report, detection_training
from amlocal.trainers.tasks.detection_data import SEGMENTATION, Half
from amlocal.trainers.tasks.detection_evaluation import Evaluator, Outcome

_TRAINED = ("mean_average_precision", "precision", "recall")
"""What log_training_metrics adds, each as NAME_train."""
_SETTINGS = (
    "min_size",
    "max_size",
    "image_size",
    "model_size",
    "box_score_threshold",
    "nms_iou_threshold",
    "box_detections_per_image",
)
_TILES = ("tile_grid_size", "tile_overlap_ratio", "tile_predictions_nms_threshold")
_DIGITS = 5


class Detection:
    """What the training loop needs to know about detectors.

    `batch_size` is the number of images of one batch of one process; it may be lowered between epochs.
    """

    higher_is_better = True

    def __init__(self, spec: Spec, seed: int) -> None:
        self._spec = spec
        self._seed = seed
        self._parameters = p = spec.parameters
        self._masks = spec.task == SEGMENTATION
        self._metric_type = p["validation_metric_type"]
        self._iou_threshold = p["validation_iou_threshold"]
        row = spec.model
        self.manner = detection_training.manner(row, scored=self._metric_type != "none")
        self.batch_size: int = p["training_batch_size"]
        geometry = detection_training.geometry(row, p)
        data = detection_data.read(spec, geometry, detection_training.shared(spec))
        self.labels, self._train, self._validation = data.labels, data.train, data.validation
        self._tiled = detection_data.grid_of(spec) is not None
        self._made = detection_training.augmented(row, p, spec.advanced)
        self._parts = detection_training.Parts()
        self._collate: Callable[[Sequence[tuple[Pixels, Objects]]], Batch] | None = None
        self._evaluator: Evaluator | None = None
        self._device = torch.device("cpu")

    @property
    def classes(self) -> int:
        return len(self.labels)

    @property
    def train_images(self) -> int:
        """Of one epoch; with tiles these count too."""
        return len(self._train)

    @property
    def train_files(self) -> int:
        """Without tiles."""
        return len(self._train.images)

    @property
    def validation_images(self) -> int:
        return len(self._validation.images)

    @property
    def batches_per_epoch(self) -> int:
        """Of one process; all processes have as many."""
        return len(detection_training.order(self._train, self.batch_size, self._seed, 0))

    def place(self, device: torch.device, layout: Layout, network: Network) -> None:
        """Where batches have to go, and which network they are for. Raises TypeError for a classifier."""
        detector = network.module
        if not isinstance(detector, Detector):
            raise TypeError(f"{self._spec.model.name} is no detector")

        def collated(items: Sequence[tuple[Pixels, Objects]]) -> Batch:
            return collate(
                items,
                stride=detector.stride,
                fill=detector.fill,
                mean=network.mean,
                std=network.std,
                device=device,
                channels_last=layout.channels_last,
                masks=self._masks,
            )

        self._device = device
        self._collate = collated
        p = self._parameters
        self._evaluator = Evaluator(
            p["validation_batch_size"],
            masks=self._masks,
            overlap=p["tile_predictions_nms_threshold"] if self._tiled else 0.0,
            sizes=self.manner.sizes,
            collate=collated,
            device=device,
            layout=layout,
        )

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """This process's batches of one epoch; the same for the same seed and epoch."""
        self._parts.clear()
        collated = self._collate
        if collated is None:
            raise RuntimeError("place() must be called before batches are made")
        which = detection_training.order(self._train, self.batch_size, self._seed, epoch)
        source = batches.generator(self._seed, epoch, 1 + distributed.current().rank)

        def make() -> Iterator[Batch]:
            return map(collated, detection_training.stepwise(self._train, self._made, which, source))

        return batches.prepared(make, self._device)

    def forward(self, model: Callable[..., Any], batch: Batch) -> Any:
        """The losses of a batch by name."""
        return model(batch.images, batch.sizes, batch.targets)

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The sum of the losses; each is a mean over the images."""
        return self._parts.add(outputs, len(batch.images))

    def parts(self) -> dict[str, float]:
        """The mean of each loss of the epoch that was trained last."""
        return self._parts.means()

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Metrics on the validation images, and on the training images where log_training_metrics asks for
        them. Raises TrainingError when no image can be read."""
        wanted = self._parameters["log_validation_loss"] == "Enable"
        seen = self._look(model, self._validation, "validation", losses=wanted)
        trained = None
        # Azure's rule: training metrics and tiles exclude each other.
        if self._parameters["log_training_metrics"] == "Enable" and self.manner.scored and not self._tiled:
            trained = self._look(model, self._train, "training", losses=False)
        if distributed.current().rank > 0:
            # Rank 0 decides; the others only took part in looking.
            return Evaluation({self._spec.primary_metric: 0.0}, lambda folder: None)
        result = self._compared(seen)
        values = dict(result.scalars)
        if seen.loss is not None:
            values["log_loss"] = round(seen.loss, _DIGITS)
        more = None if trained is None else self._compared(trained)
        if more is not None:
            scalars = more.scalars
            values |= {f"{name}_train": scalars[name] for name in _TRAINED if name in scalars}

        def write_charts(folder: Path) -> None:
            # Made here, since of many evaluations only the last is written down.
            documents = dict(result.documents())
            if more is not None:
                documents |= {f"{name}_train": document for name, document in more.documents().items()}
            detection_report.write_documents(folder, documents, result.per_label)
            detection_report.draw_predictions(folder, self._validation, seen, self.labels)

        return Evaluation(values, write_charts)

    def write_onnx(self, network: Network, folder: Path) -> str | None:
        """Write the trained network below the artifacts' `folder`; returns where, None where that is not
        possible."""
        p = self._parameters
        normalised = p["enable_onnx_normalization"]
        options = building(self._spec.model, p)
        assert not isinstance(options, int)
        return detector_artifact.write(network, options, folder, masks=self._masks, normalised=normalised)

    def settings(self) -> dict[str, Any]:
        """settings.json of the model: what a user may edit, under Azure's names."""
        rows = names.hyperparameters(self._spec.task)
        keys = [*_SETTINGS, *(_TILES if self._tiled else ())]
        used = [key for key in keys if key in rows and not rows[key].note_for(self._spec.model.name)]
        return {rows[key].trainer: self._parameters[key] for key in used}

    def _look(self, model: nn.Module, half: Half, noun: str, *, losses: bool) -> Outcome:
        if self._evaluator is None:
            raise RuntimeError("place() must be called before the network is evaluated")
        return self._evaluator.look(model, half, noun, losses=losses)

    def _compared(self, seen: Outcome) -> metrics.Result:
        return metrics.evaluate(
            seen.truths,
            seen.found,
            self.labels,
            kind="segm" if self._masks else "bbox",
            metric_type=self._metric_type,
            iou_threshold=self._iou_threshold,
        )
