"""outputs/mlflow-model: a python_function model that loads without pickle.

MLmodel, conda.yaml, python_env.yaml, requirements.txt
artifacts/   model.safetensors, labels.json, model.json, settings.json (the one a user may edit)
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from amlocal.trainers import files
from amlocal.trainers.models.network import Building
from amlocal.trainers.scoring import COLUMN, DESCRIPTION

_LOADER = "amlocal.trainers.scoring"
_DATA = "artifacts"
_PACKAGES = ("amlocal", "mlflow", "numpy", "pandas", "pillow", "safetensors", "torch", "torchvision")
_MORE = {
    "timm": ("timm",),
    "huggingface": ("timm", "transformers"),
    "torchvision": ("pycocotools",),
    "yolo": ("pycocotools", "ultralytics"),
    "mmdet": ("pycocotools", "mmcv-lite", "mmdet", "mmengine"),
}
"""What the networks of each builder need besides."""
_CLASSIFIED, _DETECTED = ("probs", "labels"), ("boxes",)
_OUTPUTS = {
    "image-classification": _CLASSIFIED,
    "image-classification-multilabel": _CLASSIFIED,
    "image-object-detection": _DETECTED,
    "image-instance-segmentation": _DETECTED,
}


def write(
    target: Path,
    tensors: Mapping[str, Tensor],
    *,
    task: str,
    model_name: str,
    architecture: str,
    builder: str,
    labels: Sequence[str],
    settings: Mapping[str, Any],
    run_id: str,
    facts: Mapping[str, Any] | None = None,
    building: Building | None = None,
) -> None:
    """Write the model folder under a temporary name and rename it.

    `facts` describe the network where it is none of the table's; without them it could not be built again.
    Of a detector, `building` says how it was built; model.json has it as `options`.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    data = temporary / _DATA
    data.mkdir(parents=True)
    save_file(dict(tensors), data / "model.safetensors")
    files.write_json(data / "labels.json", list(labels))
    files.write_json(data / "settings.json", dict(settings))
    description: dict[str, Any] = {
        "schema": 1,
        "task": task,
        "model_name": model_name,
        "architecture": architecture,
        "facts": None if facts is None else dict(facts),
    }
    if isinstance(building, Mapping):
        description["options"] = dict(building)
    files.write_json(data / DESCRIPTION, description)
    packages = sorted((*_PACKAGES, *_MORE.get(builder, ())))
    _write_mlmodel(temporary, task, model_name, run_id, requirements(packages))
    files.replace_folder(temporary, target)


def _write_mlmodel(folder: Path, task: str, model_name: str, run_id: str, pins: Sequence[str]) -> None:
    import yaml
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    python = platform.python_version()
    conda = {
        "name": "amlocal-model",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": list(pins)}],
    }
    python_env = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    files.write_text(folder / "conda.yaml", yaml.safe_dump(conda, sort_keys=False))
    files.write_text(folder / "python_env.yaml", yaml.safe_dump(python_env, sort_keys=False))
    files.write_text(folder / "requirements.txt", "".join(f"{pin}\n" for pin in pins))
    model = Model(
        run_id=run_id,
        signature=ModelSignature(
            inputs=Schema([ColSpec(DataType.binary, COLUMN)]),
            outputs=Schema([ColSpec(DataType.string, name) for name in _OUTPUTS[task]]),
        ),
        metadata={
            "base_model_name": model_name,
            "finetuning_task": task,
            "is_automl_model": True,
            "training_run_id": run_id,
        },
    )
    pyfunc.add_to_model(
        model, loader_module=_LOADER, data=_DATA, conda_env="conda.yaml", python_env="python_env.yaml"
    )
    model.save(str(folder / "MLmodel"))


def requirements(packages: Sequence[str]) -> list[str]:
    """The packages that scoring needs, pinned to what is installed here; without the local part of a version
    (2.14.1+cu130), which public indexes do not have."""
    pins = []
    for name in packages:
        try:
            pins.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            pins.append(name)
    return pins
