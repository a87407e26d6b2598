"""What an AutoML job's network starts with: pretrained weights that can be had, or random ones, loudly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from amlocal.compat import hub_look, model_config, names, weights
from amlocal.emulator.http.errors import AzureError, user_error
from amlocal.emulator.jobs.runners.automl_request import ImageJob

TAG = "amlocal.weights"
"""Stands on every run of a job that starts from random weights, and says why it does."""
STARTED = "weights.json"
"""What a trial writes into its job folder once it has its weights, or has found that it gets none."""
_TARGET = "taskDetails.modelSettings.modelName"
_LONGEST = 500
# The hub is asked for so many models of a search space while its job is submitted; a trial asks for itself.
_ASKED = 8
_BETWEEN = " | "
_MISSING = "no pretrained weights of"
_UNWANTED = 'random: advanced_settings say {"pretrained": false}'


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
        return {TAG: _UNWANTED}
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


def check_models(
    job: ImageJob, models: Sequence[str], weights_dir: Path, missing: str, *, checkpoint: bool
) -> dict[str, str]:
    """`check_weights` of every model that a trial of the job can have; one tag tells of all of them."""
    found = [
        check_weights(replace(job, model=model), weights_dir, missing, checkpoint=checkpoint)
        for model in models[:_ASKED]
    ]
    return together(found)


def together(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """One tag for runs that start from random weights for several reasons; none for none."""
    texts = dict.fromkeys(text for one in tags for text in one.get(TAG, "").split(_BETWEEN) if text)
    return {TAG: _BETWEEN.join(texts)} if texts else {}


def of_model(tags: Mapping[str, str], model: str) -> dict[str, str]:
    """What the tag of a job says of one of its models."""
    texts = tags.get(TAG, "").split(_BETWEEN)
    own = [text for text in texts if text and (_MISSING not in text or _missing(model) in text)]
    return {TAG: own[0]} if own else {}


def random_start(job: ImageJob) -> dict[str, str]:
    """The tag of a trial of which it is known that it starts from random weights."""
    if not job.pretrained:
        return {TAG: _UNWANTED}
    return {TAG: f"random: {_missing(job.model)}; missing_weights is random"}


def started(job_dir: Path) -> dict[str, str]:
    """The tag of a trial that itself had to start from random weights; none where it did not."""
    try:
        why = json.loads((job_dir / STARTED).read_text(encoding="utf-8"))["random"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {TAG: f"random: {why[:_LONGEST]}"} if isinstance(why, str) else {}


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
    return f"random: {_missing(model)}, and {why}; missing_weights is random"


def _missing(model: str) -> str:
    return f"{_MISSING} {model} on this machine"


def _refusal(text: str) -> AzureError:
    return user_error(f"{text[0].upper()}{text[1:]}.", target=_TARGET)
