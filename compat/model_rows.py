"""The models of models.toml, and rows for Hugging Face models that are named by `org/name` or by a folder."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from amlocal.compat import extras, hub, mmdetection, model_config
from amlocal.compat.image_tasks import BadParameter, nearest, table, task

HUGGINGFACE = "huggingface"
MMDETECTION = "mmdet"
_HUB_FILE = "model.safetensors"
_SUFFIX = ".safetensors"
_EXAMPLE = "for example mmd-3x-yolof_r50_c5_8x8_1x_coco"
_SLIP = 0.75
"""From this likeness to a model of the table on, a plain name counts as that model misspelt."""


@dataclass(frozen=True)
class Model:
    """One model. `parameters` in millions, `gmacs` in 10^9 multiply-adds of one image; None = not known.

    `weights` is a path inside the weights folder, in which {model_size} stands for that parameter's value;
    `hub` is a repository ("" where there is none, as for a folder of the user's own), `url` the address of a
    file that has the weights in another form.
    `config`, `mean`, `std` and `image_size` (pixels) describe Hugging Face networks only; `config` is None
    until the model's config.json was read.
    """

    name: str
    tasks: tuple[str, ...]
    available: bool
    builder: str
    architecture: str
    family: str
    weights: str
    hub: str
    parameters: float | None
    gmacs: float | None
    gradient_clip: str
    url: str = ""
    image_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    config: Mapping[str, Any] | None = field(default=None, hash=False)


@cache
def models(task_name: str) -> Mapping[str, Model]:
    """Every model of the table for a task by model_name; `available`: can be trained. Raises UnknownTask."""
    wanted = task(task_name).name
    found = {}
    for name, row in table("models.toml")["model"].items():
        if wanted not in row["tasks"]:
            continue
        fixed: dict[str, Any] = {key: tuple(row[key]) for key in ("tasks", "mean", "std") if key in row}
        if "config" in row:
            fixed["config"] = MappingProxyType(row["config"])
        found[name] = Model(name=name, **{**row, **fixed})
    return MappingProxyType(found)


def model(task_name: str, name: str, weights_dir: Path | None = None) -> Model:
    """A model that can be trained: of the table, of MMDetection's zoo, a Hugging Face `org/name`, or a folder
    with weights.

    With `weights_dir`, a model that is not in the table must have its config.json there or in the hub's
    cache, and its row says what that file says; without it only the form of the name is checked. A plain name
    that is close to one of the table counts as a slip. Raises BadParameter saying what would do.
    """
    known = models(task_name)
    if name in known:
        return _usable(known, known[name])
    if (entry := mmdetection.entry(name)) is not None:
        return _usable(known, _of_zoo(known, task_name, name, entry))
    advice = _advice(known, name) + _elsewhere(name)
    if task(task_name).name not in table("models.toml")[HUGGINGFACE]["tasks"]:
        raise BadParameter("model_name", name, f"{advice}, or a network of MMDetection's zoo ({_EXAMPLE})")
    row = _huggingface(name, advice)
    if not row.hub and _slip(name, known):
        raise BadParameter("model_name", name, advice)
    if weights_dir is None:
        return row
    folder = (weights_dir / row.weights).parent
    if not row.hub and not folder.is_dir():
        raise BadParameter("model_name", name, f"{advice}, or the name of a folder in {weights_dir}")
    if row.hub and not (folder / model_config.CONFIG).is_file():
        cached = hub.snapshot(row.hub)
        if cached is not None and (cached / model_config.CONFIG).is_file():
            folder = cached
    return with_facts(row, model_config.read(folder, name))


def _of_zoo(known: Mapping[str, Model], task_name: str, name: str, entry: mmdetection.Entry) -> Model:
    lacks = f"{name} {entry.refused}" if entry.refused else ""
    if not lacks and task(task_name).name != entry.task:
        lacks = f"{name} is for {task(entry.task).yaml}"
    if lacks:
        raise BadParameter("model_name", name, f"one of {_ready(known)}; in MMDetection's zoo, {lacks}")
    return Model(
        name=name,
        tasks=(entry.task,),
        available=True,
        builder=MMDETECTION,
        architecture=entry.config,
        family=MMDETECTION,
        weights=f"{entry.name}{_SUFFIX}",
        hub="",
        url=entry.weights,
        parameters=entry.parameters,
        gmacs=None,
        gradient_clip="norm",
    )


def _usable(known: Mapping[str, Model], row: Model) -> Model:
    lacks = "" if row.available else "is a known model of Azure's that cannot be trained here yet"
    if not lacks and (missing := extras.missing(row.builder)):
        lacks = f"needs {missing}"
    if lacks:
        raise BadParameter("model_name", row.name, f"one of {_ready(known)}; {row.name} {lacks}")
    return row


def with_facts(row: Model, facts: model_config.Facts) -> Model:
    """A Hugging Face row with what its config.json says."""
    return replace(
        row,
        architecture=facts.architecture,
        config=facts.config,
        mean=facts.mean,
        std=facts.std,
        image_size=facts.image_size,
    )


def restored(task_name: str, name: str, facts: model_config.Facts | None) -> Model:
    """The row of a model that was trained earlier: of the table, or from the `facts` kept with it.

    Raises BadParameter.
    """
    known = models(task_name)
    if name in known or facts is None:
        return model(task_name, name)
    return with_facts(_huggingface(name, _advice(known, name)), facts)


def default_model(task_name: str) -> str:
    """The model of a job that names none, as documented by Azure; where its software is not installed, the
    task's other one. It need not be available yet."""
    row = task(task_name)
    return row.fallback_model if fallback_notice(task_name) else row.default_model


def fallback_notice(task_name: str) -> str:
    """Why a job without a model does not get the one that Azure documents; "" where it does."""
    row = task(task_name)
    if not row.fallback_model:
        return ""
    wanted = models(task_name).get(row.default_model)
    if wanted is None or not wanted.available:
        why = "cannot be trained here yet"
    else:
        missing = extras.missing(wanted.builder)
        why = f"needs {missing}" if missing else ""
    if not why:
        return ""
    return f"the default model {row.default_model} {why}: {row.fallback_model} is trained in its place"


def builder_of(name: str) -> str | None:
    """Who builds a model of the table or of MMDetection's zoo; None for a name that is in neither."""
    row = table("models.toml")["model"].get(name)
    if row is not None:
        return str(row["builder"])
    return MMDETECTION if mmdetection.entry(name) is not None else None


def is_huggingface(name: str) -> bool:
    """Whether a model_name stands for a Hugging Face model (of the table or not)."""
    return builder_of(name) in (None, HUGGINGFACE)


# Hugging Face's own rule for names, less the dots and dashes in a row that it forbids as well: such a name
# can be neither a path nor a hidden file, and "--" stands for the slash in a folder's name.
_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")


def _huggingface(name: str, advice: str) -> Model:
    parts = name.split("/")
    plain = len(parts) == 1
    sound = all(_PART.fullmatch(part) and ".." not in part for part in parts)
    if len(parts) > 2 or not sound or (not plain and "--" in name):
        allowed = (
            f"{advice}, a Hugging Face model as org/name, or the name of a folder in the weights folder: "
            'letters, digits, ".", "_" and "-", at most 96 characters'
        )
        raise BadParameter("model_name", name, allowed)
    return Model(
        name=name,
        tasks=tuple(table("models.toml")[HUGGINGFACE]["tasks"]),
        available=True,
        builder=HUGGINGFACE,
        architecture=name,
        family=HUGGINGFACE,
        weights=f"{'--'.join(parts)}/{_HUB_FILE}",
        hub="" if plain else name,
        parameters=None,
        gmacs=None,
        gradient_clip="norm",
    )


def _ready(known: Mapping[str, Model]) -> str:
    return ", ".join(row.name for row in known.values() if row.available and not extras.missing(row.builder))


def _advice(known: Mapping[str, Model], name: str) -> str:
    near = nearest(name[:200], known)
    return f"one of {_ready(known)}" + (f" (did you mean {' or '.join(near)}?)" if near else "")


def _elsewhere(name: str) -> str:
    row = table("models.toml")["model"].get(name)
    return "" if row is None else f"; {name} is for {' and '.join(row['tasks'])}"


def _slip(name: str, known: Mapping[str, Model]) -> bool:
    plain = [_letters(other) for other in known]
    return bool(difflib.get_close_matches(_letters(name), plain, n=1, cutoff=_SLIP))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
