"""Where a model's pretrained weights lie on this machine; a look at file names only, no heavy import.

The weights folder holds `<model>.safetensors` for models of timm and torchvision, one file for each
model_size of yolov5, and for Hugging Face models a folder `<org>--<name>` (or one of the user's own naming)
with config.json, model.safetensors and, where there is one, preprocessor_config.json. Next comes the hub's
cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amlocal.compat import hub, mmdetection, names

HUB_FILE = "model.safetensors"
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
_HUGGINGFACE = "huggingface"
_DETECTION = "image-object-detection"
_SIZE = "model_size"
_PLACE = "{model_size}"
_NAMING = {"torchvision": "torchvision's", "yolo": "ultralytics'", "mmdet": "MMDetection's"}


def row_of(model_name: str) -> names.Model:
    """The table's row, or that of a config of MMDetection's zoo, a Hugging Face `org/name` or a folder.

    Raises ValueError for other names.
    """
    if (known := _known(model_name)) is not None:
        return known
    entry = mmdetection.entry(model_name)
    return names.model(entry.task if entry and entry.task else "image-classification", model_name)


def sized(text: str, parameters: Mapping[str, Any] | None = None) -> str:
    """A row's `weights` or `url` with the parameter model_size, or its default, in the place for it."""
    if _PLACE not in text:
        return text
    default = names.hyperparameters(_DETECTION)[_SIZE].default
    return text.replace(_PLACE, str((parameters or {}).get(_SIZE) or default))


def variants(model_name: str) -> list[dict[str, str]]:
    """The parameters that tell a model's files apart: one for each of its sizes, or one that is empty.

    Raises ValueError.
    """
    if _PLACE not in row_of(model_name).weights:
        return [{}]
    return [{_SIZE: size} for size in names.hyperparameters(_DETECTION)[_SIZE].choices]


def find(
    model_name: str,
    weights_dir: Path | None,
    environ: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Path | None:
    """The model's weights file, or None: first `weights_dir`, then the Hugging Face cache.

    `parameters` of the trial: a model may have a file for each of its sizes. Raises ValueError for a name
    that no model can have.
    """
    return _find(row_of(model_name), HUB_FILE, weights_dir, environ, parameters)


def find_own(model_name: str, weights_dir: Path, parameters: Mapping[str, Any] | None = None) -> Path | None:
    """As `find`, in the weights folder only."""
    own = weights_dir / sized(row_of(model_name).weights, parameters)
    return own if _is_file_in(own, weights_dir) else None


def config_folder(
    model_name: str, weights_dir: Path | None, environ: Mapping[str, str] | None = None
) -> Path | None:
    """The folder with a Hugging Face model's config.json, found in the same order. Raises ValueError."""
    if not is_folder(model_name):
        return None
    found = _find(row_of(model_name), CONFIG, weights_dir, environ)
    return found.parent if found is not None else None


def has_own_config(model_name: str, weights_dir: Path) -> bool:
    """Whether the weights folder holds a config.json of the model. Raises ValueError."""
    place = (weights_dir / row_of(model_name).weights).with_name(CONFIG)
    return is_folder(model_name) and _is_file_in(place, weights_dir)


def known(weights_dir: Path) -> list[str]:
    """Every model of the table, then those that have a folder of their own in the weights folder."""
    table = [name for task in names.tasks() for name in names.models(task)]
    own = []
    for folder in sorted(weights_dir.iterdir()) if weights_dir.is_dir() else []:
        name = folder.name.replace("--", "/", 1)
        try:
            if has_own_config(name, weights_dir):
                own.append(name)
        except ValueError:
            continue  # no folder that a model can have
    return list(dict.fromkeys([*table, *own]))


def is_folder(model_name: str) -> bool:
    """Whether the model is a folder of files, not one file. Raises ValueError."""
    return row_of(model_name).builder == _HUGGINGFACE


def needs_config(model_name: str) -> bool:
    """Whether only a config.json says how the network is built. Raises ValueError."""
    return is_folder(model_name) and _known(model_name) is None


def nowhere(model_name: str) -> str:
    """Why the hub is not asked for a model without a repository. Raises ValueError."""
    return "a folder of your own is on no hub" if is_folder(model_name) else "they are on no hub"


def where_to_put(
    model_name: str,
    weights_dir: Path | None,
    why: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> str:
    """What to tell a user whose weights are missing; `why` is what the hub said. Raises ValueError."""
    reason = f" on this machine, and {why}" if why else ""
    return (
        f"pretrained weights of {model_name} were not found{reason}. "
        f"{_put(model_name, weights_dir, parameters)}, or start from random weights: by advanced_settings "
        '{"pretrained": false}, or by the setting missing_weights = random'
    )


def where_to_put_config(model_name: str, weights_dir: Path | None) -> str:
    """What to tell a user whose Hugging Face model has no config.json here. Raises ValueError."""
    return (
        f"the file {CONFIG} of {model_name} was found neither in the weights folder nor in the hub's cache; "
        f"it says how the network is built, so it is needed without pretrained weights, too. "
        f"{_put(model_name, weights_dir)}"
    )


def _put(model_name: str, weights_dir: Path | None, parameters: Mapping[str, Any] | None = None) -> str:
    row = row_of(model_name)
    folder = weights_dir if weights_dir is not None else Path("<weights folder>")
    origin = f" of {hub.HOME}/{row.hub}" if row.hub else ""
    pull = f"on a connected machine `amlocal weights pull {row.name}` gets " if row.hub or row.url else ""
    if row.builder == _HUGGINGFACE:
        files, place = f"{CONFIG}, {HUB_FILE} and {PREPROCESSOR}", (folder / row.weights).parent
        return f"Put {files}{origin} into {place}" + (f" ({pull}them)" if pull else "")
    place = folder / sized(row.weights, parameters)
    if row.builder not in _NAMING:
        return f"Put the file {HUB_FILE}{origin} at {place} (safetensors, timm's tensor names; {pull}it)"
    size = (parameters or {}).get(_SIZE) if _PLACE in row.weights else None
    option = f" --model-size {size}" if size else ""
    source = f"`amlocal weights pull {row.name}{option} --from FILE` converts a .pt or .pth"
    advice = f"{pull}it" if pull else source
    return f"Put them at {place} (safetensors, {_NAMING[row.builder]} tensor names; {advice})"


def _known(model_name: str) -> names.Model | None:
    for task in names.tasks():
        if model_name in names.models(task):
            return names.models(task)[model_name]
    return None


def _find(
    row: names.Model,
    file: str,
    weights_dir: Path | None,
    environ: Mapping[str, str] | None,
    parameters: Mapping[str, Any] | None = None,
) -> Path | None:
    if weights_dir is not None:
        own = weights_dir / sized(row.weights, parameters)
        own = own.with_name(file) if file != HUB_FILE else own
        if _is_file_in(own, weights_dir):
            return own
    snapshot = hub.snapshot(row.hub, environ) if row.hub else None
    return snapshot / file if snapshot is not None and (snapshot / file).is_file() else None


def _is_file_in(path: Path, folder: Path) -> bool:
    """No link leads out of the weights folder: who may write there must not choose what else is read."""
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False
