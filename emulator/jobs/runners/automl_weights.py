"""What an AutoML job's network starts with: pretrained weights that can be had, or random ones, loudly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from amlocal.compat import hub_look, model_config, names, weights
from amlocal.emulator.http.errors import AzureError, user_error
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.runners.base import Patch

TAG = "amlocal.weights"
"""Stands on every run of a job that starts from random weights, and says why it does."""
STARTED = "weights.json"
"""What a trial writes into its job folder once it has its weights, or has found that it gets none."""
_TARGET = "taskDetails.modelSettings.modelName"
_LONGEST = 500


def check_weights(
    job: ImageJob, weights_dir: Path, missing: str, *, checkpoint: bool = False
) -> dict[str, str]:
    """The tags of a job that will start from random weights; none where there are pretrained ones.

    `missing` is the setting missing_weights; `checkpoint`: the weights come from an earlier trial. The hub is
    asked once, for `hub_look.PATIENCE` seconds at most, when this machine has no file. Raises AzureError when
    a file is needed and cannot be had.
    """
    _check_config(job, weights_dir)
    if checkpoint:
        return {}
    if not job.pretrained:
        return {TAG: 'random: advanced_settings say {"pretrained": false}'}
    if weights.find(job.model, weights_dir, parameters=job.parameters) is not None:
        return {}
    hub = weights.row_of(job.model).hub
    answer = hub_look.look(hub, weights.HUB_FILE) if hub else _nowhere(job.model)
    if answer.there:
        return {}
    if missing == "random":
        return {TAG: _random(job.model, answer.reason)}
    raise _refusal(weights.where_to_put(job.model, weights_dir, answer.reason, job.parameters))


def lines(tags: Mapping[str, str]) -> list[str]:
    """What the head of a trial's log says about it."""
    return [f"WARNING: NO PRETRAINED WEIGHTS: {tags[TAG]}"] if TAG in tags else []


def with_start(patches: Mapping[str, Patch], job_dir: Path) -> Mapping[str, Patch]:
    """The same patches, with the tag on every run where the trial itself had to start from random weights."""
    try:
        why = json.loads((job_dir / STARTED).read_text(encoding="utf-8"))["random"]
    except (OSError, ValueError, KeyError, TypeError):
        return patches
    if not isinstance(why, str):
        return patches
    tag = {TAG: f"random: {why[:_LONGEST]}"}
    return {name: Patch({**patch.tags, **tag}, patch.properties) for name, patch in patches.items()}


def _nowhere(model: str) -> hub_look.Answer:
    return hub_look.Answer("missing", weights.nowhere(model))


def _check_config(job: ImageJob, weights_dir: Path) -> None:
    if not weights.needs_config(job.model):
        return
    folder = weights.config_folder(job.model, weights_dir)
    if folder is None:
        raise _refusal(weights.where_to_put_config(job.model, weights_dir))
    try:
        model_config.read(folder, job.model)
    except names.BadParameter as error:
        raise _refusal(f"training_parameters.{error}") from error


def _random(model: str, why: str) -> str:
    return f"random: no pretrained weights of {model} on this machine, and {why}; missing_weights is random"


def _refusal(text: str) -> AzureError:
    return user_error(f"{text[0].upper()}{text[1:]}.", target=_TARGET)
