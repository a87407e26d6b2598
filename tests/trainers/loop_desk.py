"""The loop on a toy task and a network of a few weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amlocal.compat import names
from amlocal.trainers.checkpoints import Checkpoints
from amlocal.trainers.data import batches
from amlocal.trainers.layouts import Layout
from amlocal.trainers.loop import Fit, Loop
from amlocal.trainers.manner import Manner

CPU = torch.device("cpu")
FLAT = {"learning_rate_scheduler": "step", "step_lr_step_size": 1000, "learning_rate": 0.1}


class Toy:
    """Random pictures of 3 x 2 x 2 and what a network should say of them."""

    higher_is_better = True
    manner = Manner()

    def __init__(self, images: int = 26, batch_size: int = 8, scores: list[float] | None = None) -> None:
        source = torch.Generator().manual_seed(1)
        self.images = torch.randn(images, 3, 2, 2, generator=source)
        self.targets = torch.randint(0, 3, (images,), generator=source)
        self.batch_size = batch_size
        self.scores = scores
        self.evaluated: list[int] = []
        self.epoch = -1
        self.seen: list[list[int]] = []
        self.on_loss: Callable[[], None] = lambda: None
        self.lost: set[int] = set()

    @property
    def train_images(self) -> int:
        return len(self.images)

    @property
    def batches_per_epoch(self) -> int:
        return len(batches.chunks(range(self.train_images), self.batch_size))

    def train_batches(self, epoch: int) -> Iterator[batches.Batch]:
        self.epoch = epoch
        order = batches.shuffled(self.train_images, self.batch_size, batches.generator(5, epoch))
        for number, which in enumerate(order):
            if number not in self.lost:
                self.seen.append(which)
                yield batches.Batch(self.images[which], self.targets[which])

    def parts(self) -> dict[str, float]:
        return {}

    def forward(self, model: Callable[..., Any], batch: batches.Batch) -> Any:
        return model(batch.images)

    def loss(self, outputs: Tensor, batch: batches.Batch) -> Tensor:
        self.on_loss()
        return F.cross_entropy(outputs.float(), batch.targets)

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> SimpleNamespace:
        model.eval()
        self.evaluated.append(self.epoch)
        right = (model(self.images).argmax(1) == self.targets).double().mean().item()
        accuracy = right if self.scores is None else self.scores[self.epoch]
        return SimpleNamespace(metrics={"accuracy": accuracy, "log_loss": 0.5})


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 3))


def make(folder: Path, task: Toy, model: nn.Module, layout: Layout | None = None, **given: Any) -> Loop:
    quick = {"number_of_epochs": 2, "random_seed": 7, "early_stopping": False}
    return Loop(
        task,
        model,
        names.effective("image-classification", "resnet18", quick | given),
        primary_metric="accuracy",
        gradient_clip="value",
        device=CPU,
        layout=layout or Layout(False, "fp32"),
        checkpoints=Checkpoints(folder),
        record=lambda metrics: None,
        keep=lambda epoch, trained: None,
        clock=lambda: 0.0,
    )


def weights(model: nn.Module) -> Tensor:
    """All of them in one row."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train(folder: Path, task: Toy, model: nn.Module | None = None, **given: Any) -> tuple[Tensor, Fit]:
    """The weights at the end, and how it ended."""
    trained = model or network()
    fit = make(folder, task, trained, **given).fit(None)
    return weights(trained), fit
