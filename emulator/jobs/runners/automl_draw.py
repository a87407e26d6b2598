"""A job's trials: what is drawn from the search space, under the fixed parameters.

Source: Azure's trainer, where a fixed training parameter wins over the search space when both name it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from amlocal.compat import names
from amlocal.emulator.http.errors import AzureError, user_error
from amlocal.emulator.jobs.runners import automl_parameters, automl_space
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.sampling.space import Choice, Sample, Space, SpaceError, SubSpace, Trial

MODEL = "model_name"
# So many draws are looked at when a job is submitted.
_LOOKED_AT = 20
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Drawn:
    """One trial. `raw` is what the sampler said, None where nothing is drawn; `job` has it under the fixed
    parameters. `fault`: why the trial cannot be trained, None where it can."""

    job: ImageJob
    raw: Sample | None
    fault: AzureError | None = None


def with_sample(job: ImageJob, name: str) -> ImageJob:
    """The job with the parameters of its first trial that can be trained, always the same ones for a job of
    this name. Raises AzureError when what is drawn cannot be used.
    """
    return first(job, name, lambda trial: trial)


def draw(job: ImageJob, name: str, index: int, history: Sequence[Trial]) -> Drawn | None:
    """The trial number `index` of the job `name`; None where the space has no more samples.

    `history` are the trials before it, with the samples that `raw` told. Raises AzureError where nothing can
    be drawn.
    """
    notices = list(job.notices)
    if job.search.policy is not None and job.max_trials == 1:
        notices.append(
            f"the early termination policy {job.search.policy.name} changes nothing: it compares trials, and "
            "there is one"
        )
    if job.search.space is None:
        # Without a space there is one sample: the fixed parameters.
        return None if index else Drawn(_noticed(job, notices), None)
    space, fixed = free(job, job.search.space)
    try:
        raw = job.search.sampling.draw(space, history, seed(name), index)
    except SpaceError as error:
        raise user_error(f"search_space: {error}.", target=automl_space.PLACE) from error
    if raw is None:
        return None
    algorithm = job.search.sampling.algorithm
    try:
        sample = _typed(job.task, raw)
    except AzureError as error:
        return Drawn(job, raw, error)
    notices.append(f"drawn from the search space by {algorithm} sampling: {json.dumps(sample)}")
    notices += [f"{key} is not drawn: training_parameters fix it" for key in fixed]
    whole = applied(job, sample)
    try:
        check(whole)
    except names.BadParameter as error:
        fault = user_error(
            f"search_space: {json.dumps(sample)} is drawn from it, and then {error}.",
            target=automl_space.PLACE,
        )
        return Drawn(_noticed(whole, notices), raw, fault)
    return Drawn(_noticed(whole, notices), raw)


def first(job: ImageJob, name: str, then: Callable[[ImageJob], _Found]) -> _Found:
    """What `then` says of the first trial that can be trained.

    Where some of the first trials of a job could be, the others fail each for itself when their turn comes.
    Raises the first AzureError where not one could be.
    """
    refused: AzureError | None = None
    for index in range(min(job.max_trials, _LOOKED_AT)):
        drawn = draw(job, name, index, ())
        if drawn is None:
            break
        if drawn.fault is None:
            try:
                return then(drawn.job)
            except AzureError as error:
                refused = refused or error
        refused = refused or drawn.fault
    if refused is None:
        raise user_error("search_space has no sample.", target=automl_space.PLACE)
    raise refused


def applied(job: ImageJob, sample: Mapping[str, Any]) -> ImageJob:
    """The job with a sample's values; what is fixed wins."""
    given = job.model_given or MODEL in sample
    return replace(
        job,
        model=job.model if job.model_given else sample.get(MODEL, job.model),
        model_given=given,
        parameters={key: value for key, value in sample.items() if key != MODEL} | dict(job.parameters),
        sample=dict(sample),
    )


def check(job: ImageJob) -> None:
    """Raises BadParameter for values of a trial that exclude each other."""
    starts = job.checkpoint_run_id is not None or job.checkpoint_model is not None
    automl_parameters.check_together(job.task, job.model, job.parameters, sized=job.model_given or not starts)


def free(job: ImageJob, space: Space) -> tuple[Space, list[str]]:
    """The space without what is fixed, and the names of what was taken out of it."""
    fixed = {*job.parameters, *([MODEL] if job.model_given else [])}
    left = tuple(
        SubSpace({key: value for key, value in one.parameters.items() if key not in fixed})
        for one in space.subspaces
    )
    return Space(left), sorted({key for key, _ in space.parameters() if key in fixed})


def models(job: ImageJob) -> list[str]:
    """The models that the trials of a job can have, in the order of its search space."""
    if job.model_given or job.search.space is None:
        return [job.model]
    found: dict[str, None] = {}
    for subspace in job.search.space.subspaces:
        named = subspace.parameters.get(MODEL)
        values = named.values if isinstance(named, Choice) else (job.model,)
        found.update(dict.fromkeys(str(value) for value in values))
    return list(found)


def widest(job: ImageJob) -> ImageJob:
    """The job as one whose model was named, where all of its trials have a model that was."""
    space = job.search.space
    named = space is not None and all(MODEL in one.parameters for one in space.subspaces)
    return replace(job, model_given=True) if named else job


def seed(name: str) -> int:
    """The service does not say how it draws; here a job of the same name draws the same."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _noticed(job: ImageJob, notices: list[str]) -> ImageJob:
    more = [f"WARNING: {job.fallback}"] if job.fallback else []
    return replace(job, notices=(*notices, *more))


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
