"""What is measured of the trainers: end to end, the network alone, and the data alone."""

from __future__ import annotations

import contextlib
import io
import itertools
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from amlocal.trainers import beginning, optim, registry
from amlocal.trainers import device as devices
from amlocal.trainers.bench.measuring import WARM_UP, Window, settle, window
from amlocal.trainers.checkpoints import Checkpoint, Checkpoints
from amlocal.trainers.data import annotated, batches, cache, samples
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.layouts import Layout
from amlocal.trainers.loop import Loop
from amlocal.trainers.models.network import building
from amlocal.trainers.spec import Spec
from amlocal.trainers.tasks import detection_training

_SEED = 1
_READY = 8
"""Batches of a detector that training steps are measured on."""
_DECODED = 512
"""Images that are decoded to measure what that costs."""


class Session:
    """One network and its data, put together as a trial does it."""

    def __init__(self, spec: Spec, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        with silent():
            self.task: Any = registry.task(spec.task)(spec, _SEED)
            torch.manual_seed(_SEED)
            self.network = registry.builder(spec.model.builder)(
                spec.model, self.task.classes, None, building(spec.model, spec.parameters)
            )
            self.layout = self._layout()
        self.model = self.network.module.to(memory_format=self.layout.memory_format).to(device)
        self.task.place(device, self.layout, self.network)

    def _layout(self) -> Layout:
        """As for a trial without random_seed."""
        if not self.task.manner.compilable:
            return beginning.layout(self.spec, self.network.module, self.task, self.device)
        return devices.layout(
            self.network.module,
            self.spec.model.architecture,
            self.task.input_shape,
            self.device,
            self.spec.cache_dir,
            seeded=False,
        )

    def ready(self) -> Sequence[Any]:
        """Batches that lie on the device already: one of a classifier, whose content takes no part; of a
        detector some real ones, since their shapes and their objects do."""
        if not self.task.manner.compilable:
            with contextlib.closing(endless(self.task)) as source:
                return list(itertools.islice(source, _READY))
        shape = self.task.input_shape
        images = torch.randn(shape, device=self.device)
        targets = torch.arange(shape[0], device=self.device) % self.task.classes
        return [batches.Batch(images.contiguous(memory_format=self.layout.memory_format), targets)]


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Swallow the lines of a trial; they show again if it fails."""
    lines = io.StringIO()
    try:
        with contextlib.redirect_stdout(lines):
            yield
    except BaseException:
        print(lines.getvalue(), end="", flush=True)
        raise


class EndToEnd:
    """From image files, decoded once before, through the real task and the real loop."""

    name = "end to end"

    def __init__(self, session: Session) -> None:
        self._session = session

    def window(self, seconds: float) -> Window:
        s = self._session
        timed = _TimedTask(s.task, s.spec.primary_metric, seconds, s.device)
        size = s.task.batch_size
        with silent(), tempfile.TemporaryDirectory(prefix="amlocal-bench-") as folder:
            Loop(
                timed,
                s.model,
                s.spec.parameters,
                primary_metric=s.spec.primary_metric,
                gradient_clip=s.spec.model.gradient_clip,
                device=s.device,
                layout=s.layout,
                checkpoints=_NoCheckpoints(Path(folder)),
                record=lambda _: None,
                keep=lambda _, __: None,
            ).fit(None)
        if s.task.batch_size != size:
            raise TrainingError(f"batches of {size} do not fit into memory; give a smaller --batch")
        if timed.measured is None:
            raise TrainingError("the loop left off before the end of the measured time")
        return timed.measured


class _NoCheckpoints(Checkpoints):
    """Says that it saved: writing to the disk is no part of what is measured."""

    _saved: Checkpoint | None = None

    def save(self, epoch: int, *_: Any, **__: Any) -> Checkpoint:
        self._saved = Checkpoint(Path("unsaved"), epoch, {})
        return self._saved

    def latest(self) -> Checkpoint | None:
        return self._saved


class _NoEvaluation:
    def __init__(self, primary: str) -> None:
        self.metrics = {primary: 0.0, "log_loss": 0.0, "accuracy": 0.0}


class _TimedTask:
    """A task whose epoch goes on, through its images again and again, until the measured time is over."""

    batches_per_epoch = 10**9

    def __init__(self, task: Any, primary_metric: str, seconds: float, device: torch.device) -> None:
        self._task = task
        self._primary = primary_metric
        self._seconds = seconds
        self._device = device
        self.measured: Window | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    @property
    def batch_size(self) -> int:
        return int(self._task.batch_size)

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._task.batch_size = size

    def evaluate(self, model: object) -> _NoEvaluation:
        return _NoEvaluation(self._primary)

    def train_batches(self, epoch: int) -> Iterator[Any]:
        """The loop asks for the next batch when it has given out the step of the last one."""
        with contextlib.closing(endless(self._task)) as source:
            for _ in range(WARM_UP):
                yield next(source)
            begin = settle(self._device)
            images = 0
            while time.perf_counter() - begin < self._seconds or not images:
                batch = next(source)
                images += len(batch.images)
                yield batch
            self.measured = Window(images, settle(self._device) - begin)


def endless(task: Any) -> Generator[Any, None, None]:
    """The task's batches, epoch after epoch."""
    epoch = 0
    while True:
        source = task.train_batches(epoch)
        try:
            yield from source
        finally:
            # Where nothing is prepared ahead it may be any iterator.
            getattr(source, "close", lambda: None)()
        epoch += 1


class ModelOnly:
    """Training steps of the same network on batches that lie on the device already, in turns."""

    name = "model only"

    def __init__(self, session: Session) -> None:
        self._session = session
        self._batches = session.ready()

    def window(self, seconds: float) -> Window:
        s = self._session
        optimizer = optim.optimizer(s.model, s.spec.parameters)
        scaler = s.layout.scaler(s.device)
        weights = [p for p in s.model.parameters() if p.requires_grad]
        s.model.train()

        def step(batch: Any) -> int:
            with s.layout.autocast(s.device):
                outputs = s.task.forward(s.model, batch)
            scaler.scale(s.task.loss(outputs, batch)).backward()
            scaler.unscale_(optimizer)
            optim.clip(weights, s.spec.model.gradient_clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            return len(batch.images)

        return window(itertools.cycle(self._batches), step, seconds, s.device)


class DataOnly:
    """Batches from the decoded images, augmented and ready on the device, without a network."""

    name = "data only"

    def __init__(self, session: Session) -> None:
        self._session = session

    def window(self, seconds: float) -> Window:
        s = self._session
        with contextlib.closing(endless(s.task)) as source:
            return window(source, lambda batch: len(batch.images), seconds, s.device)


def decode_seconds(spec: Spec, folder: Path) -> float:
    """Seconds per image of decoding training images for the first time, on all CPUs; `folder` is used for it
    and removed."""
    rows: Sequence[samples.Sample]
    geometry: cache.Geometry
    if "training_crop_size" in spec.parameters:
        rows = samples.read_manifest(spec.train_manifest, multilabel=False)[:_DECODED]
        geometry = cache.Training(2 * spec.parameters["training_crop_size"])
    else:
        rows = annotated.read_manifest(spec.train_manifest)[:_DECODED]
        geometry = detection_training.geometry(spec.model, spec.parameters)
    try:
        begin = time.perf_counter()
        with silent():
            cache.open_store(rows, geometry, folder, "training")
        return (time.perf_counter() - begin) / len(rows)
    finally:
        shutil.rmtree(folder)
