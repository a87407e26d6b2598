"""The training loop: the same for every task; the task brings batches, loss and evaluation."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amlocal.trainers import device as devices
from amlocal.trainers import distributed, heartbeat, optim, termination
from amlocal.trainers.checkpoints import Checkpoint, Checkpoints
from amlocal.trainers.compiling import StepTimer
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.kept import Kept
from amlocal.trainers.layouts import Layout
from amlocal.trainers.metric_log import Metric
from amlocal.trainers.progress import EpochLines, say, warn
from amlocal.trainers.shipping import now_ms
from amlocal.trainers.stepper import Stepper
from amlocal.trainers.task import Evaluation, Task

_DIGITS = 5
_TRAIN_LOSS = "log_loss_train"
_NO_IMAGE = "none of the training images of this epoch can be read"
_READ_EVERY = 50
"""Steps between two readings of the loss, and in several processes between two questions whether to end. Each
makes the host wait for the GPU."""


@dataclass
class Fit:
    """How training ended. `evaluation`: that of the best epoch; None where an earlier process made it."""

    epochs: int
    best_epoch: int
    score: float
    best: Path
    evaluation: Evaluation | None = None


class Loop:
    """Trains one network, in each process of the trial. Rank 0 alone writes checkpoints and calls `keep` and
    `record`, this one with the metrics of each epoch once its checkpoint is on disk."""

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
        fast: bool = True,
        checkpoints: Checkpoints,
        record: Callable[[list[Metric]], None],
        keep: Callable[[int, nn.Module], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task = task
        self._model = model
        self._parameters = parameters
        self._primary = primary_metric
        self._device = device
        self._checkpoints = checkpoints
        self._record = record
        self._keep = keep
        self._clock = clock
        self._timer = StepTimer(clock)
        self._world = distributed.current()
        self._kept = Kept(model)
        self._stepper = Stepper(
            task,
            model,
            parameters,
            gradient_clip=gradient_clip,
            device=device,
            layout=layout,
            fast=fast,
            stepped=self._kept.stepped,
        )
        self._stopping = optim.EarlyStopping(
            enabled=parameters["early_stopping"] and task.manner.scored,
            patience=parameters["early_stopping_patience"],
            delay=parameters["early_stopping_delay"],
            beyond=task.manner.beyond_patience,
        )
        self._history: list[Metric] = []
        self._evaluated: dict[str, float] = {}
        """The metrics of the last evaluation."""
        self._best: Evaluation | None = None
        self._start: dict[str, Tensor] | None = None
        self._last: Checkpoint | None = None
        self._seed = torch.initial_seed()
        self._wanted = task.batch_size * self._stepper.accumulation
        self._lines = EpochLines(
            parameters["number_of_epochs"],
            task.train_images,
            clock=clock,
            memory=lambda: devices.memory(device),
        )

    def fit(self, resume: Checkpoint | None) -> Fit:
        """Train to the last epoch or until early stopping, after `resume` when given.

        Raises TrainingError when the loss explodes, or when not even single images fit into memory, and
        Terminated; then `so_far` has what there is.
        """
        epochs = self._parameters["number_of_epochs"]
        if resume is not None:
            self._restore(resume)
        else:
            self._start = _copy(self._model)
        first = resume.epoch + 1 if resume is not None else 0
        if self._world.size > 1 and first < epochs and not self._stopping.stop:
            self._connect(first)
        for epoch in range(first, epochs):
            if self._stopping.stop:
                break
            self._last = self._epoch(epoch, epochs, self._lines)
            self._start = None
            if self._stopping.stop and epoch + 1 < epochs:
                say(
                    f"no progress of {self._primary} in {self._stopping.count} evaluations: stopped early, "
                    f"best epoch {self._stopping.best_epoch + 1}"
                )
        return self.so_far()

    def so_far(self) -> Fit:
        """The best of the epochs that are done. Raises TrainingError when there is none."""
        if self._last is None or self._stopping.best is None:
            raise TrainingError("no epoch was trained")
        score = self._stopping.best if self._task.higher_is_better else -self._stopping.best
        return Fit(self._last.epoch + 1, self._stopping.best_epoch, score, self._last.best, self._best)

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        if "batch_size" in state:
            self._task.batch_size = state["batch_size"]
            self._stepper.accumulation = state["accumulation"]
            self._stepper.plan()
        self._put_back(checkpoint)
        self._stopping.restore(state["stopping"])
        self._history = list(state["history"])
        latest = [metric for metric in self._history if metric["step"] == checkpoint.epoch]
        self._evaluated = {m["key"]: m["value"] for m in latest if m["key"] != _TRAIN_LOSS}
        # The checkpoint is written before the metrics are; a kill between the two must not lose them.
        if self._world.rank == 0:
            self._record(self._history)
        self._last = checkpoint
        say(f"resuming from the checkpoint of epoch {checkpoint.epoch + 1}")

    def _put_back(self, checkpoint: Checkpoint) -> None:
        self._checkpoints.restore(checkpoint, self._model, self._stepper.optimizer)
        self._kept.restore(checkpoint)
        if scaler := checkpoint.state.get("scaler"):
            self._stepper.scaler.load_state_dict(dict(scaler))

    def _connect(self, epoch: int) -> None:
        """Find a batch that fits in every process, then average gradients from now on."""
        say(
            f"{self._world.size} processes with batches of {self._task.batch_size} each; learning_rate x "
            f"{self._world.size}"
        )
        while True:
            unused, reason = False, ""
            batches = self._task.train_batches(epoch)
            try:
                batch = next(batches, None)
                if batch is None:
                    raise TrainingError(_NO_IMAGE)
                unused = self._stepper.rehearse(batch)
            except (MemoryError, RuntimeError) as error:
                reason = devices.short_of_memory(error)
                if not reason:
                    raise
            finally:
                _close(batches)
            # Nothing of the rehearsal may take up room any more.
            batch = None
            if distributed.everywhere(not reason):
                break
            self._shrink(epoch, reason or "in another process")
        steady = self._task.manner.steady and not unused
        self._stepper.connect(find_unused=not distributed.everywhere(steady))

    def _epoch(self, epoch: int, epochs: int, lines: EpochLines) -> Checkpoint:
        if self._world.size > 1:
            # Dropout differs from process to process; a checkpoint knows the generators of rank 0 only.
            torch.manual_seed((self._seed + 1_000_003 * epoch + self._world.rank) & 0x7FFFFFFFFFFFFFFF)
        train_loss, train_seconds = self._train_what_fits(epoch)
        parts = self._task.parts()
        values: dict[str, float] = {}
        best = False
        if epoch % self._parameters["evaluation_frequency"] == 0 or epoch + 1 == epochs:
            evaluation = self._evaluate()
            values = dict(evaluation.metrics)
            score = distributed.first(values[self._primary]) if self._task.manner.scored else 0.0
            best = self._stopping.update(epoch, score if self._task.higher_is_better else -score)
            self._evaluated = dict(values)
            self._best = evaluation if best else self._best
        elif self._task.manner.repeated:
            values = dict(self._evaluated)
        shown = {
            "loss": train_loss,
            "validation loss": values.get("log_loss"),
            self._primary: values.get(self._primary),
        }
        if self._primary != "accuracy":
            shown["accuracy"] = values.get("accuracy")
        values[_TRAIN_LOSS] = round(train_loss, _DIGITS)
        checkpoint = self._write(epoch, values, best)
        lines.end(train_seconds, shown, best)
        if parts:
            say("    " + "  ".join(f"{name} {value:.4f}" for name, value in parts.items()))
        return checkpoint

    def _evaluate(self) -> Evaluation:
        distributed.share_buffers(self._model)
        with self._kept.exchanged():
            if self._kept.averaged:
                distributed.share_buffers(self._model)
            return self._task.evaluate(self._model)

    def _write(self, epoch: int, values: Mapping[str, float], best: bool) -> Checkpoint:
        if self._world.rank == 0:
            now = now_ms()
            metrics = [Metric(key=k, value=v, step=epoch, timestamp=now) for k, v in values.items()]
            self._history += metrics
            state = {
                "stopping": self._stopping.state(),
                "history": self._history,
                "batch_size": self._task.batch_size,
                "accumulation": self._stepper.accumulation,
                "scaler": self._stepper.scaler.state_dict(),
                "averaged": self._kept.steps,
            }
            averages = self._kept.tensors()
            self._checkpoints.save(
                epoch, self._model, self._stepper.optimizer, state, best=best, averaged=averages
            )
            self._record(metrics)
            with self._kept.exchanged():
                self._keep(epoch, self._model)
        distributed.barrier()
        found = self._checkpoints.latest()
        if found is None:
            raise TrainingError("the checkpoint that was just written is gone")
        return found

    def _train_what_fits(self, epoch: int) -> tuple[float, float]:
        """Mean loss and seconds of one epoch, with smaller batches if these do not fit into memory."""
        while True:
            random = torch.get_rng_state(), _cuda_random(self._device)
            self._lines.begin(epoch, self._task.batches_per_epoch)
            started = self._clock()
            try:
                return self._train(epoch), self._clock() - started
            except (MemoryError, RuntimeError) as error:
                reason = devices.short_of_memory(error)
                if not reason:
                    raise
                if self._world.size > 1:
                    raise TrainingError(
                        f"there is not enough memory for batches of {self._task.batch_size}; reduce "
                        f"training_batch_size or {self._task.manner.sizes} ({reason})"
                    ) from error
            # Out of the except block, so that the failed step's tensors are free.
            self._shrink(epoch, reason)
            torch.set_rng_state(random[0])
            if random[1] is not None:
                torch.cuda.set_rng_state(random[1], self._device)

    def _shrink(self, epoch: int, reason: str) -> None:
        """Halve the batch, accumulate more of them, and go back to where the epoch began."""
        size = min(self._task.batch_size, -(-self._task.train_images // self._world.size))
        if size <= 1:
            raise TrainingError(
                f"there is not enough memory to train on a single image; reduce {self._task.manner.sizes} or "
                f"take a smaller model ({reason})"
            )
        self._task.batch_size = (size + 1) // 2
        wanted = min(self._wanted, size * self._stepper.accumulation)
        self._stepper.accumulation = max(1, round(wanted / self._task.batch_size))
        warn(
            f"a batch of {size} does not fit into memory ({reason}); going on with {self._task.batch_size} "
            f"and the gradients of {self._stepper.accumulation} batches together; epoch {epoch + 1} starts "
            "again"
        )
        self._stepper.reset()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self._last is not None:
            self._put_back(self._last)
        elif self._start is not None:
            self._model.load_state_dict(self._start)
            self._kept.restart()

    def _train(self, epoch: int) -> float:
        self._model.train()
        self._stepper.begin()
        batches = self._task.train_batches(epoch)
        try:
            return self._steps(epoch, batches)
        finally:
            _close(batches)

    def _steps(self, epoch: int, batches: Iterator[Any]) -> float:
        total = self._task.batches_per_epoch
        loss_sum = torch.zeros((), device=self._device, dtype=torch.float64)
        done, running = 0, 0.0
        self._timer.start()
        batch: Any = None
        for number in range(total):
            heartbeat.beat("training")
            # Several processes have to agree on it, which makes their hosts wait for the devices too.
            if self._world.size == 1 or number % _READ_EVERY == 0:
                termination.check()
            fresh = self._timer.waiting(lambda: next(batches, None))
            if fresh is None and (self._world.size == 1 or batch is None):
                break
            counts = fresh is not None
            batch = fresh if counts else batch
            loss = self._stepper.step(epoch, number, batch, counts=counts)
            if counts:
                done += len(batch.images)
                loss_sum += loss.double() * len(batch.images)
            if (number + 1) % _READ_EVERY == 0 or number + 1 == total or self._lines.due:
                running = self._read(loss_sum, loss, done)
                if self._lines.due:
                    self._lines.step(number + 1, done * self._world.size, running)
                self._timer.mark(number + 1)
            if self._stepper.forward.undecided:
                self._consider_compiling(epoch, number, batch)
        else:
            return self._mean(running, done)
        if not done:
            raise TrainingError(_NO_IMAGE)
        if self._stepper.pending:
            self._stepper.close(last=True)
        return self._mean(self._read(loss_sum, loss_sum / done, done), done)

    def _read(self, loss_sum: Tensor, loss: Tensor, done: int) -> float:
        """Mean loss so far; here, and only here, the host waits for the device."""
        summed, latest = torch.stack((loss_sum, loss.double())).tolist()
        running = summed / done
        if not math.isfinite(running) or latest > self._task.manner.exploded:
            raise TrainingError(
                f"the loss explodes ({latest:.4g}) with optimizer {self._parameters['optimizer']} and "
                f"learning_rate {self._parameters['learning_rate']}; reduce learning_rate, e.g. to 0.0001"
            )
        return float(running)

    def _mean(self, running: float, done: int) -> float:
        summed, images = distributed.total(running * done, done)
        return running if self._world.size == 1 else summed / images

    def _consider_compiling(self, epoch: int, number: int, batch: Any) -> None:
        # The last batch of an epoch may be smaller than those that would run compiled.
        if self._timer.seconds is None or len(batch.images) != self._task.batch_size:
            return
        left = (self._parameters["number_of_epochs"] - epoch) * self._task.batches_per_epoch - number - 1
        self._stepper.forward.decide(
            left,
            self._timer.seconds,
            batch.images.shape,
            lambda compiled: self._stepper.rehearse(batch, compiled),
        )


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def _cuda_random(device: torch.device) -> Tensor | None:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _close(batches: Iterator[Any]) -> None:
    """End a thread that prepares batches which nobody wants any more."""
    close = getattr(batches, "close", None)
    if close is not None:
        close()
