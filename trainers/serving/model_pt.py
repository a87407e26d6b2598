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
    from safetensors.torch import save_file

    from amlocal.trainers.models import loading

    found = loading.state_dict(weights)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / "model.safetensors")
    files.write_json(folder / "labels.json", list(labels))
    files.write_json(folder / "settings.json", dict(settings))
    files.write_json(folder / "model.json", dict(model))
