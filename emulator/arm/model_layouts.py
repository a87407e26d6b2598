"""What must lie at the path of a model of each type, looked at before a version is stored.

Sources: MLflow's "MLflow Model" (the file MLmodel names the flavors); Triton's "Model Repository" (one
folder per model, with a config.pbtxt or numbered version folders in it).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from amlocal.emulator.http.errors import AzureError, bad_request

TYPES = ("mlflow_model", "custom_model", "triton_model")
_MLMODEL_LIMIT = 4 * 1024**2
# Triton leaves folders aside whose name begins with 0 or is no number.
_TRITON_VERSION = re.compile(r"[1-9][0-9]*\Z")


def check(path: Path, uri: str, model_type: str) -> dict[str, Any]:
    """The flavors (of an mlflow_model, else empty) of what lies at `path`. Raises AzureError 400."""
    if not path.is_file() and not path.is_dir():
        raise _refused(f"There is nothing at {uri}.")
    if path.is_dir():
        if not any(path.iterdir()):
            raise _refused(f"The folder {uri} is empty.")
        _check_links(path, uri)
    if model_type == "triton_model":
        _check_triton(path, uri)
    return flavors(path, uri) if model_type == "mlflow_model" else {}


def flavors(path: Path, uri: str) -> dict[str, Any]:
    """The flavors that the model's MLmodel file names, in REST form (values are texts). Raises 400."""
    file = path / "MLmodel"
    if not file.is_file():
        raise bad_request(
            "InvalidMLflowModel",
            f"{uri} holds no file named MLmodel. Point at the folder that MLflow wrote, "
            "or register it as custom_model.",
            target="modelUri",
        )
    if file.stat().st_size > _MLMODEL_LIMIT:
        raise bad_request("InvalidMLflowModel", f"{uri}/MLmodel is larger than {_MLMODEL_LIMIT} bytes.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request("InvalidMLflowModel", f"{uri}/MLmodel is not valid YAML: {error}") from error
    found = content.get("flavors") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise bad_request("InvalidMLflowModel", f"{uri}/MLmodel names no flavors.", target="modelUri")

    def text(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, default=str)

    return {
        str(name): {"data": {str(key): text(value) for key, value in (data or {}).items()}}
        for name, data in found.items()
        if data is None or isinstance(data, dict)
    }


def _check_triton(path: Path, uri: str) -> None:
    if not path.is_dir():
        raise _refused(
            f"{uri} is a file; a triton_model is a model repository: a folder with one folder per model."
        )
    models = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not models:
        raise _refused(
            f"{uri} holds no folder. A triton_model is a model repository: REPOSITORY/MODEL/VERSION/FILE, "
            "with MODEL/config.pbtxt; give the path of REPOSITORY."
        )
    for model in models:
        numbered = any(entry.is_dir() and _TRITON_VERSION.match(entry.name) for entry in model.iterdir())
        if not numbered and not (model / "config.pbtxt").is_file():
            raise _refused(
                f"{uri}: the folder {model.name!r} has neither a config.pbtxt nor a version folder "
                "(1, 2, ...). Give the path of the model repository, the folder above that of the model."
            )


def _check_links(root: Path, uri: str) -> None:
    """Refuse links that lead out of the model's folder: what is behind them is no part of the model."""
    real = os.path.realpath(root)
    for link in _links(root):
        target = os.path.realpath(link)
        if target != real and not target.startswith(real + os.sep):
            raise _refused(
                f"{uri}: {link.relative_to(root).as_posix()[:200]!r} is a link that leads out of the model's "
                "folder. Put the file itself there."
            )


def _links(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                yield path


def _refused(message: str) -> AzureError:
    return bad_request("InvalidModelUri", message, target="modelUri")
