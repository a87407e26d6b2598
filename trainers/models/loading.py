"""Putting tensors from files into a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from amlocal.trainers.errors import TrainingError


@dataclass(frozen=True)
class Loaded:
    """How many of a network's tensors were set, and which of the file's had no place or another shape."""

    loaded: int
    skipped: list[str]


def read(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, on the CPU. Raises TrainingError when it is none."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} is not a readable safetensors file: {error}") from error


def state_dict(path: Path) -> dict[str, Tensor]:
    """Every tensor of a model.pt, on the CPU, mapped and not yet read. Nothing but tensors is unpickled.

    Raises ValueError for a file that is no state dict.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler fails in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path.name} cannot be read as weights: {reason}") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in found.items()
    ):
        raise ValueError(f"{path.name} holds no state dict, a mapping of names to tensors")
    return found


def load_intersecting(module: nn.Module, tensors: Mapping[str, Tensor]) -> Loaded:
    """Set every tensor whose name and shape fit, as Azure's trainer goes on from an earlier run: with another
    number of classes the head is skipped and stays as it is. Raises TrainingError when no weight fits."""
    own = module.state_dict()
    fitting = {name: t for name, t in tensors.items() if name in own and own[name].shape == t.shape}
    # Counters of batches fit any network that has such a counter, so they prove nothing.
    if not any(tensor.ndim for tensor in fitting.values()):
        raise TrainingError(
            f"none of the {len(tensors)} tensors of the earlier model fits this network; model_name must be "
            "the same as in the run that checkpoint_run_id names"
        )
    with torch.no_grad():
        module.load_state_dict(fitting, strict=False)
    return Loaded(len(fitting), [name for name in tensors if name not in fitting])
