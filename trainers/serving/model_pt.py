"""model.pt, the weights alone, brought back into the folder that a model is loaded from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amlocal.trainers import files

NAME = "model.pt"
_SHOWN = 20


def find(root: Path) -> Path:
    """The file model.pt below `root`, AZUREML_MODEL_DIR of a registered file or folder; of several, the one
    nearest to the top.

    Raises FileNotFoundError, and ValueError where several are equally near.
    """
    found: list[Path] = []
    others: list[str] = []
    for folder, _, names in os.walk(root):
        found += [Path(folder, NAME)] if NAME in names else []
        others += [str(Path(folder, name).relative_to(root)) for name in names]
    if not found:
        there = ", ".join(sorted(others)[:_SHOWN]) or "nothing"
        raise FileNotFoundError(
            f"the model has no file {NAME}, which this script loads; it has: {there}. Register the trial's "
            f"outputs/{NAME}, or the folder outputs, as a custom_model."
        )
    depth = min(len(path.parts) for path in found)
    nearest = sorted(path for path in found if len(path.parts) == depth)
    if len(nearest) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in nearest[:_SHOWN])
        raise ValueError(f"the model has several files {NAME}: {names}; register one of them alone")
    return nearest[0]


def unpack(
    weights: Path,
    folder: Path,
    *,
    model: Mapping[str, Any],
    labels: Sequence[str],
    settings: Mapping[str, Any],
) -> None:
    """Write the artifacts of an MLflow model into `folder` from the state dict `weights`.

    `model`, `labels` and `settings` are what model.json, labels.json and settings.json hold. Nothing but
    tensors is unpickled. Raises ValueError for a file that is no state dict.
    """
    import torch
    from safetensors.torch import save_file

    try:
        # Mapped: the tensors need not be in memory twice.
        found = torch.load(weights, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler fails in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{weights.name} cannot be read as weights: {reason}") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items()
    ):
        raise ValueError(f"{weights.name} holds no state dict, a mapping of names to tensors")
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / "model.safetensors")
    files.write_json(folder / "labels.json", list(labels))
    files.write_json(folder / "settings.json", dict(settings))
    files.write_json(folder / "model.json", dict(model))
