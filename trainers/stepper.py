"""One training step: forward, loss, backward, and, when enough images were seen, clip and optimize.

Nothing here waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from amlocal.trainers import compiling, distributed, optim
from amlocal.trainers.layouts import Layout
from amlocal.trainers.manner import Manner


class Batch(Protocol):
    """What `Task.train_batches` yields."""

    @property
    def images(self) -> Tensor: ...


class Losses(Protocol):
    """The part of a task that a step needs."""

    batch_size: int
    manner: Manner

    @property
    def batches_per_epoch(self) -> int: ...

    def forward(self, model: Callable[..., Any], batch: Any) -> Any: ...

    def loss(self, outputs: Any, batch: Any) -> Tensor: ...


class Stepper:
    """The optimizer and everything that leads to it; `stepped` is called after each of its steps.

    A window of gradient accumulation counts each image alike, so that its gradient is that of one large
    batch; the last window of an epoch may have fewer batches. The learning rate follows the schedule at every
    batch, also within a window, and is multiplied by the number of processes (Azure's rules).
    """

    def __init__(
        self,
        task: Losses,
        model: nn.Module,
        parameters: Mapping[str, Any],
        *,
        gradient_clip: str,
        device: torch.device,
        layout: Layout,
        fast: bool = True,
        stepped: Callable[[], None] = lambda: None,
    ) -> None:
        self._task = task
        self._model = model
        self._parameters = parameters
        self._gradient_clip = gradient_clip
        self._device = device
        self._layout = layout
        self._stepped = stepped
        # None: where PyTorch has it.
        self._fused = None if fast else False
        self._world = distributed.current()
        self._trainable = [p for p in model.parameters() if p.requires_grad]
        self._ddp: DistributedDataParallel | None = None
        seeded = parameters["random_seed"] is not None
        possible = compiling.possible(device, self._world.size, seeded=seeded)
        allowed = fast and task.manner.compilable and possible
        self.forward = compiling.Forward(model, allowed=allowed)
        self.accumulation = max(1, parameters["gradient_accumulation_step"])
        self.reset()

    def reset(self) -> None:
        """A new optimizer and schedule, for the task's batch size as it is now."""
        self.optimizer = optim.optimizer(self._model, self._parameters, fused=self._fused)
        self.scaler = self._layout.scaler(self._device)
        self.plan()

    def plan(self) -> None:
        """Fit schedule and accumulation to the task's batch size as it is now."""
        self._batches = self._task.batches_per_epoch
        self._schedule = optim.Schedule(self._parameters, self._batches, scale=self._world.size)
        self._window = min(self.accumulation, max(1, self._batches))
        self.begin()

    def begin(self) -> None:
        """Forget gradients: an epoch starts."""
        self._seen = 0
        self.optimizer.zero_grad(set_to_none=True)

    def connect(self, *, find_unused: bool) -> None:
        """From now on gradients are the means over all processes."""
        self._ddp = DistributedDataParallel(
            self._model,
            device_ids=[self._device] if self._device.type == "cuda" else None,
            find_unused_parameters=find_unused,
            gradient_as_bucket_view=True,
        )

    def rehearse(self, batch: Any, forward: Callable[..., Any] | None = None) -> bool:
        """Forward and backward of this process alone, of which nothing stays. True when some trainable weight
        has no part in the loss."""
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        self._model.train()
        try:
            with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
                with self._layout.autocast(self._device):
                    outputs = self._task.forward(forward or self._model, batch)
                loss = self._task.loss(outputs, batch)
                gradients = torch.autograd.grad(loss, self._trainable, allow_unused=True)
        finally:
            for buffer, kept in buffers:
                buffer.copy_(kept)
        return any(gradient is None for gradient in gradients)

    def step(self, epoch: int, number: int, batch: Any, *, counts: bool = True) -> Tensor:
        """Take batch `number` (from 0) of `epoch`; returns its mean loss, still on the device.

        A batch that does not count keeps this process in step with the others when it has none of its own
        left.
        """
        self._schedule.apply(self.optimizer, epoch, number)
        last = number + 1 == self._batches
        closes = last or (number + 1) % self._window == 0
        with self._gradients(exchanged=closes):
            with self._layout.autocast(self._device):
                outputs = self._task.forward(self._ddp or self.forward, batch)
            loss = self._task.loss(outputs, batch)
            images = len(batch.images) if counts else 0
            self.scaler.scale(loss * self._weight(images)).backward()
        self._seen += images
        if closes:
            self.close(last=last)
        return loss.detach()

    def _gradients(self, *, exchanged: bool) -> AbstractContextManager[object]:
        return nullcontext() if self._ddp is None or exchanged else self._ddp.no_sync()

    def _weight(self, images: int) -> float:
        if self._window == 1:
            return 1.0 if images else 0.0
        return float(images / (self._window * self._task.batch_size))

    def close(self, *, last: bool) -> None:
        """Let the optimizer use what was gathered since the window began."""
        if self._window > 1 and (last or self._world.size == 1):
            self._even_out()
        self.scaler.unscale_(self.optimizer)
        optim.clip(self._trainable, self._gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._stepped()
        self.begin()

    def _even_out(self) -> None:
        """Each batch was weighed as a part of a full window; make it one of the images really seen."""
        seen, processes = distributed.total(self._seen, 1)
        full = self._window * self._task.batch_size * processes
        if seen not in (0, full):
            for parameter in self._trainable:
                if parameter.grad is not None:
                    parameter.grad.mul_(full / seen)

    @property
    def pending(self) -> bool:
        """Whether a window has begun and is not closed."""
        return self._seen > 0
