"""The training loop: the same for every task; the task brings batches, loss and evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from amlocal.trainers import optim
from amlocal.trainers.checkpoints import Checkpoint, Checkpoints
from amlocal.trainers.device import Layout
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.metric_log import Metric
from amlocal.trainers.progress import EpochLines, say
from amlocal.trainers.shipping import now_ms

_EXPLODED = 100.0
_DIGITS = 5


class Evaluation(Protocol):
    """Scalars of one evaluation by their logged names."""

    metrics: dict[str, float]


class Batch(Protocol):
    """What `Task.train_batches` yields."""

    @property
    def images(self) -> Tensor: ...


class Task(Protocol):
    """What a task brings."""

    higher_is_better: bool

    @property
    def train_images(self) -> int: ...

    @property
    def batches_per_epoch(self) -> int: ...

    def train_batches(self, epoch: int) -> Iterator[Any]: ...

    def loss(self, outputs: Any, batch: Any) -> Tensor: ...

    def evaluate(self, model: nn.Module) -> Any: ...


@dataclass
class Fit:
    """How training ended."""

    epochs: int
    best_epoch: int
    score: float
    best: Path


class Loop:
    """Trains one network. `record` is called with the metrics of each epoch once its checkpoint is on
    disk."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        parameters: Mapping[str, Any],
        *,
        primary_metric: str,
        gradient_clip: str,
        device: torch.device,
        layout: Layout,
        checkpoints: Checkpoints,
        record: Callable[[list[Metric]], None],
        keep: Callable[[int, nn.Module], None],
    ) -> None:
        self._task = task
        self._model = model
        self._parameters = parameters
        self._primary = primary_metric
        self._gradient_clip = gradient_clip
        self._device = device
        self._layout = layout
        self._checkpoints = checkpoints
        self._record = record
        self._keep = keep
        self._optimizer = optim.optimizer(model, parameters)
        self._schedule = optim.Schedule(parameters, task.batches_per_epoch)
        self._trainable = [p for p in model.parameters() if p.requires_grad]
        self._stopping = optim.EarlyStopping(
            enabled=parameters["early_stopping"],
            patience=parameters["early_stopping_patience"],
            delay=parameters["early_stopping_delay"],
        )
        self._history: list[Metric] = []

    def fit(self, resume: Checkpoint | None) -> Fit:
        """Train to the last epoch or until early stopping, after `resume` when given.

        Raises TrainingError when the loss explodes.
        """
        epochs = self._parameters["number_of_epochs"]
        last = self._restore(resume) if resume is not None else None
        lines = EpochLines(epochs, self._task.train_images)
        first = last.epoch + 1 if last is not None else 0
        for epoch in range(first, epochs):
            if self._stopping.stop:
                break
            last = self._epoch(epoch, epochs, lines)
            if self._stopping.stop and epoch + 1 < epochs:
                say(
                    f"no progress of {self._primary} in {self._stopping.count} evaluations: stopped early, "
                    f"best epoch {self._stopping.best_epoch + 1}"
                )
        if last is None or self._stopping.best is None:
            raise TrainingError("no epoch was trained")
        score = self._stopping.best if self._task.higher_is_better else -self._stopping.best
        return Fit(last.epoch + 1, self._stopping.best_epoch, score, last.best)

    def _restore(self, checkpoint: Checkpoint) -> Checkpoint:
        self._checkpoints.restore(checkpoint, self._model, self._optimizer)
        self._stopping.restore(checkpoint.state["stopping"])
        self._history = list(checkpoint.state["history"])
        # The checkpoint is written before the metrics are; a kill between the two must not lose them.
        self._record(self._history)
        say(f"resuming from the checkpoint of epoch {checkpoint.epoch + 1}")
        return checkpoint

    def _epoch(self, epoch: int, epochs: int, lines: EpochLines) -> Checkpoint:
        lines.begin(epoch)
        started = time.monotonic()
        train_loss = self._train(epoch, lines)
        train_seconds = time.monotonic() - started
        values: dict[str, float] = {}
        best = False
        if epoch % self._parameters["evaluation_frequency"] == 0 or epoch + 1 == epochs:
            values = dict(self._task.evaluate(self._model).metrics)
            score = values[self._primary]
            best = self._stopping.update(epoch, score if self._task.higher_is_better else -score)
        shown = {
            "loss": train_loss,
            "validation loss": values.get("log_loss"),
            self._primary: values.get(self._primary),
        }
        if self._primary != "accuracy":
            shown["accuracy"] = values.get("accuracy")
        values["log_loss_train"] = round(train_loss, _DIGITS)
        now = now_ms()
        metrics = [Metric(key=k, value=v, step=epoch, timestamp=now) for k, v in values.items()]
        self._history += metrics
        checkpoint = self._checkpoints.save(
            epoch,
            self._model,
            self._optimizer,
            {"stopping": self._stopping.state(), "history": self._history},
            best=best,
        )
        self._record(metrics)
        self._keep(epoch, self._model)
        lines.end(train_seconds, shown, best)
        return checkpoint

    def _train(self, epoch: int, lines: EpochLines) -> float:
        self._model.train()
        total = self._task.batches_per_epoch
        accumulate = min(max(1, self._parameters["gradient_accumulation_step"]), total)
        loss_sum = torch.zeros((), device=self._device, dtype=torch.float64)
        done, running = 0, 0.0
        self._optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(self._task.train_batches(epoch)):
            self._schedule.apply(self._optimizer, epoch, number)
            with self._layout.autocast(self._device):
                outputs = self._model(batch.images)
            loss = self._task.loss(outputs, batch)
            (loss / accumulate).backward()
            if (number + 1) % accumulate == 0 or number + 1 == total:
                optim.clip(self._trainable, self._gradient_clip)
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
            done += len(batch.images)
            loss_sum += loss.detach().double() * len(batch.images)
            # Reading the number makes the host wait for the GPU, so not at every batch there.
            if self._device.type == "cpu" or number % 10 == 0 or number + 1 == total:
                running = loss_sum.item() / done
                self._check(running, loss.item())
            lines.step(done, running)
        return running

    def _check(self, running: float, latest: float) -> None:
        if not math.isfinite(running) or latest > _EXPLODED:
            raise TrainingError(
                f"the loss explodes ({latest:.4g}) with optimizer {self._parameters['optimizer']} and "
                f"learning_rate {self._parameters['learning_rate']}; reduce learning_rate, e.g. to 0.0001"
            )
