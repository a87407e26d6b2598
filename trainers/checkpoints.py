"""What a killed trial needs to go on: one folder per finished epoch, renamed into place, the older ones
removed.

checkpoint/epoch-0003/ holds model.safetensors, optimizer.safetensors (with the random generators' states),
best.safetensors (a second name of the best epoch's weights), for networks whose weights are averaged
averaged.safetensors (whose best epoch is then meant), and state.json with everything else: the epoch,
the early-stopping counter and the metrics so far.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amlocal.trainers import files
from amlocal.trainers.errors import TrainingError

_MODEL, _BEST, _AVERAGED, _OPTIMIZER, _STATE = (
    "model.safetensors",
    "best.safetensors",
    "averaged.safetensors",
    "optimizer.safetensors",
    "state.json",
)
_PREFIX = "epoch-"
_RANDOM_CPU, _RANDOM_CUDA = "random.cpu", "random.cuda"


@dataclass(frozen=True)
class Checkpoint:
    """A finished epoch (from 0) on disk."""

    folder: Path
    epoch: int
    state: Mapping[str, Any]

    @property
    def best(self) -> Path:
        """The best epoch's weights."""
        return self.folder / _BEST

    def averaged(self) -> dict[str, Tensor]:
        """The running average of the weights. Raises TrainingError where there is none."""
        try:
            return load_file(self.folder / _AVERAGED)
        except OSError as error:
            raise TrainingError(f"the checkpoint {self.folder} has no averaged weights: {error}") from error


class Checkpoints:
    """The checkpoints of one trial, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def clear(self) -> None:
        """Forget everything: a first attempt starts at epoch 0."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def latest(self) -> Checkpoint | None:
        """The newest finished epoch, or None."""
        for folder in sorted(self._folder.glob(f"{_PREFIX}*"), reverse=True):
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            return Checkpoint(folder, state["epoch"], state)
        return None

    def save(
        self,
        epoch: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any],
        *,
        best: bool,
        averaged: Mapping[str, Tensor] | None = None,
    ) -> Checkpoint:
        """Write epoch `epoch`; `best` says that these weights, or their averages where there are some, are
        now the best ones."""
        target = self._folder / f"{_PREFIX}{epoch:06d}"
        temporary = self._folder / f".{target.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(plain(model), temporary / _MODEL)
        if averaged is not None:
            save_file(dict(averaged), temporary / _AVERAGED)
        previous = self.latest()
        own = temporary / (_MODEL if averaged is None else _AVERAGED)
        source = own if best or previous is None else previous.best
        _second_name(source, temporary / _BEST)
        tensors, numbers = _flatten(optimizer)
        tensors[_RANDOM_CPU] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors[_RANDOM_CUDA] = torch.cuda.get_rng_state()
        save_file(tensors, temporary / _OPTIMIZER)
        files.write_json(temporary / _STATE, {**state, "epoch": epoch, "optimizer": numbers})
        files.replace_folder(temporary, target)
        for older in self._folder.glob(f"{_PREFIX}*"):
            if older.name < target.name:
                shutil.rmtree(older, ignore_errors=True)
        return Checkpoint(target, epoch, state)

    def restore(self, checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put weights, optimizer and random generators back. Raises TrainingError when they do not fit."""
        try:
            model.load_state_dict(load_file(checkpoint.folder / _MODEL))
            tensors = load_file(checkpoint.folder / _OPTIMIZER)
            torch.set_rng_state(tensors.pop(_RANDOM_CPU))
            if (cuda := tensors.pop(_RANDOM_CUDA, None)) is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(cuda)
            _unflatten(optimizer, tensors, checkpoint.state["optimizer"])
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(f"the checkpoint {checkpoint.folder} cannot be resumed: {error}") from error


def plain(model: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU, as safetensors and other readers expect it: every tensor contiguous, and in
    memory of its own, also where a network uses one tensor under several names."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, given in model.state_dict().items():
        tensor = given.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def _second_name(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
            elif value is not None:
                numbers[f"{index}.{name}"] = value
    return tensors, numbers


def _unflatten(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *numbers.items()]:
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # Fused optimizers walk through memory: a weight and what belongs to it must lie alike.
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
