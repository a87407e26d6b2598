"""Weights in a pickle (.pt, .pth, .bin) made into safetensors, in a process of their own.

Only `torch.load(weights_only=True)` reads the file: it knows tensors and plain containers, and runs nothing.
Files of ultralytics and MMDetection hold more; of these the tensors are taken and nothing is run either.
"""

from __future__ import annotations

import os
import re
import resource
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from amlocal.trainers import files
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import inert

_INNER = ("state_dict", "model_state_dict", "model_state", "model")
"""Where a checkpoint keeps the network's tensors beside other things, the likeliest first."""
_PREFIX = "module."
"""What DataParallel writes before every name."""
_GROWTH = 4
_SMALL = 16 << 20
_CPU_SECONDS = 900
_MEMORY = 2 << 30
_GLOBAL = re.compile(r"(?:GLOBAL|global) ([\w.]+)")
_PYTORCH_FORMAT = {"format": "pt"}
"""Without it transformers refuses the file."""


def convert(source: Path, target: Path) -> int:
    """Write the tensors of `source` to `target`, whole or not at all; returns how many there are.

    Tensors that share memory, as tied layers do, are written once for each name. Raises TrainingError when
    the file is none of PyTorch's, needs code to be run, or holds no tensors by name.
    """
    if not source.is_file():
        raise TrainingError(f"{source} is no file")
    named = _named(_load(source), source)
    _check_size(named, source)
    tensors = _own_memory(named)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata=_PYTORCH_FORMAT)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except (OSError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{source} cannot be written as safetensors: {_first_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)
    files.sync_folder(target.parent)
    return len(tensors)


def limit(source: Path) -> None:
    """Keep this process from taking the machine down, whatever the file says: memory, processor time, files
    written and core dumps."""
    size = source.stat().st_size if source.is_file() else 0
    for what, most in (
        (resource.RLIMIT_AS, _address_space() + _MEMORY + 6 * size),
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_FSIZE, (64 << 20) + 4 * size),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def _load(source: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(source, map_location="cpu", weights_only=True)
    except MemoryError as error:
        raise TrainingError(f"{source} needs more memory than a file of its size should") from error
    except Exception as error:
        # A file made by anybody can break PyTorch's reader in any way; each means the same to the user.
        alien = _GLOBAL.search(str(error))
        if alien is None:
            raise TrainingError(f"{source} is no file of PyTorch's: {_first_line(error)}") from error
        if alien[1].startswith(inert.FROM):
            return _load_inert(source)
        raise TrainingError(
            f"{source} holds more than tensors ({alien[1]}): opening it could run any code, so it is "
            "refused. Where you trust it, save only the tensors: torch.save(model.state_dict(), FILE)"
        ) from error


def _load_inert(source: Path) -> Any:
    try:
        return inert.read(source)
    except MemoryError as error:
        raise TrainingError(f"{source} needs more memory than a file of its size should") from error
    except Exception as error:  # as above
        raise TrainingError(f"{source} cannot be read: {_first_line(error)}") from error


def _named(loaded: Any, source: Path) -> dict[str, Tensor]:
    found = loaded
    if isinstance(loaded, Mapping):
        inner = (loaded.get(key) for key in _INNER)
        found = next((value for value in inner if isinstance(value, Mapping)), loaded)
    if not isinstance(found, Mapping) or not found:
        raise TrainingError(f"{source} holds no tensors by name (a state dict)")
    for name, value in found.items():
        if not isinstance(name, str):
            raise TrainingError(f"{source} is no state dict: the name of a tensor is {name!r}, not a text")
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise TrainingError(f"{source} is no state dict: {name[:100]!r} is of type {kind}, not a tensor")
        if value.layout is not torch.strided or value.is_quantized:
            raise TrainingError(f"{source}: {name[:100]!r} is sparse or quantized, which safetensors has not")
    if all(name.startswith(_PREFIX) for name in found):
        found = {name[len(_PREFIX) :]: value for name, value in found.items()}
    return dict(found)


def _check_size(tensors: Mapping[str, Tensor], source: Path) -> None:
    """A tensor may be one number that counts as a billion; written out it would fill the disk."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > _GROWTH * source.stat().st_size + _SMALL:
        raise TrainingError(f"{source} would become {size / 1e6:.0f} MB, far more than it is")


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    own = {}
    for name, given in tensors.items():
        tensor = given.detach().contiguous()
        storage = tensor.untyped_storage()
        whole = storage.nbytes() == tensor.numel() * tensor.element_size()
        if not whole or storage.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(storage.data_ptr())
        own[name] = tensor
    return own


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    # PyTorch's own text advises to run the code; its last paragraphs say what is wrong.
    said = [line for line in lines if "weights_only" not in line]
    return (said or lines or [type(error).__name__])[0].strip()[:300]
