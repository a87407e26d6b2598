"""A job's trial: what is drawn from the search space, under the fixed parameters.

Source: Azure's trainer, where a fixed training parameter wins over the search space when both name it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from amlocal.compat import names
from amlocal.emulator.http.errors import user_error
from amlocal.emulator.jobs.runners import automl_parameters, automl_space
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.sampling.space import Space, SpaceError, SubSpace

_MODEL = "model_name"


def with_sample(job: ImageJob, name: str, index: int = 0) -> ImageJob:
    """The job with the parameters of its trial number `index`, always the same ones for a job of this name.

    Raises AzureError when what is drawn cannot be used.
    """
    notices = list(job.notices)
    if job.search.policy is not None:
        notices.append(
            f"the early termination policy {job.search.policy.name} changes nothing: it compares trials, and "
            "there is one"
        )
    if job.search.space is None:
        notices += [f"WARNING: {job.fallback}"] if job.fallback else []
        return replace(job, notices=tuple(notices))
    space, fixed = _free(job, job.search.space)
    try:
        drawn = job.search.sampling.draw(space, (), _seed(name), index)
    except SpaceError as error:
        raise user_error(f"search_space: {error}.", target=automl_space.PLACE) from error
    if drawn is None:
        raise user_error(f"search_space has no trial number {index}.", target=automl_space.PLACE)
    sample = _typed(job.task, drawn)
    model = job.model if job.model_given else sample.get(_MODEL, job.model)
    parameters = {key: value for key, value in sample.items() if key != _MODEL} | dict(job.parameters)
    given = job.model_given or _MODEL in sample
    starts = job.checkpoint_run_id is not None or job.checkpoint_model is not None
    try:
        automl_parameters.check_together(job.task, model, parameters, sized=given or not starts)
    except names.BadParameter as error:
        raise user_error(
            f"search_space: {json.dumps(sample)} is drawn from it, and then {error}.",
            target=automl_space.PLACE,
        ) from error
    algorithm = job.search.sampling.algorithm
    notices.append(f"drawn from the search space by {algorithm} sampling: {json.dumps(sample)}")
    for key in fixed:
        notices.append(f"{key} is not drawn: training_parameters fix it")
    whole = replace(job, model=model, model_given=given, parameters=parameters, sample=sample)
    notices += [f"WARNING: {whole.fallback}"] if whole.fallback else []
    return replace(whole, notices=tuple(notices))


def _free(job: ImageJob, space: Space) -> tuple[Space, list[str]]:
    """The space without what is fixed, and the names of what was taken out of it."""
    fixed = {*job.parameters, *([_MODEL] if job.model_given else [])}
    free = tuple(
        SubSpace({key: value for key, value in one.parameters.items() if key not in fixed})
        for one in space.subspaces
    )
    return Space(free), sorted({key for key, _ in space.parameters() if key in fixed})


def _typed(task: str, drawn: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in drawn.items():
        try:
            found[key] = names.coerce(task, key, value)
        except names.BadParameter as error:
            raise user_error(
                f"search_space: a value drawn for {error}. Use a distribution with bounds, or a smaller "
                "sigma.",
                target=automl_space.PLACE,
            ) from error
    return found


def _seed(name: str) -> int:
    """The service does not say how it draws; here a job of the same name draws the same."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
