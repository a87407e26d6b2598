"""Scoring in steps that others can take one by one: prepare each image, compute, answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from amlocal.trainers.data import images


class Stepwise(ABC):
    """A finished model. `predict` takes all steps on the CPU; whoever batches and computes elsewhere
    `prepare`s each image, runs `module` on their `inputs`, and `finish`es its outputs."""

    module: nn.Module
    limit: int
    """Most images of one batch."""

    @abstractmethod
    def prepare(self, row: bytes) -> Any:
        """What `inputs` takes of one encoded image. Raises ImageError, a ValueError."""

    @abstractmethod
    def inputs(self, prepared: Sequence[Any], device: torch.device) -> Any:
        """What the network takes for prepared images, on `device`."""

    @abstractmethod
    def finish(self, outputs: Any) -> list[dict[str, Any]]:
        """The answers, one for each image."""

    @torch.inference_mode()
    def predict(self, rows: Sequence[bytes]) -> list[dict[str, Any]]:
        """Score encoded images. Raises ValueError naming the row that is no image."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(rows), self.limit):
            some = rows[start : start + self.limit]
            prepared = [self._prepared(start + i, row) for i, row in enumerate(some)]
            found += self.finish(self.module(self.inputs(prepared, torch.device("cpu"))))
        return found

    def _prepared(self, number: int, row: bytes) -> Any:
        try:
            return self.prepare(row)
        except images.ImageError as error:
            raise ValueError(f"row {number}: {error}") from error
