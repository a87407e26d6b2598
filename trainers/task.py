"""What a task brings to the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from amlocal.trainers.stepper import Losses


@dataclass
class Evaluation:
    """Scalars of one evaluation by their logged names, and how to write its documents and pictures into a
    folder."""

    metrics: dict[str, float]
    write_charts: Callable[[Path], None]


class Task(Losses, Protocol):
    """What a task brings. `batch_size` is lowered when memory is short; `batches_per_epoch` follows it."""

    higher_is_better: bool

    def parts(self) -> Mapping[str, float]:
        """Means of the losses that this epoch's loss is the sum of, where there are several; every process
        asks once an epoch."""

    @property
    def train_images(self) -> int:
        """Of one epoch; tiles count too."""

    @property
    def train_files(self) -> int:
        """Image files that are trained on; tiles of one are one."""

    def train_batches(self, epoch: int) -> Iterator[Any]: ...

    def evaluate(self, model: nn.Module) -> Evaluation: ...
