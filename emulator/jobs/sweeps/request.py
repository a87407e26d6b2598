"""The definition of a sweep job (`jobType: Sweep`): read, checked, and typed.

Sources: the REST body that azure-ai-ml sends, and Azure Machine Learning's YAML reference of sweep jobs for
limits and their defaults.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amlocal.emulator.http.errors import AzureError, user_error
from amlocal.emulator.jobs import command_request, fields
from amlocal.emulator.jobs.command_request import LONGEST, NAME, CommandJob
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.jobs.sampling import command_form, samplers
from amlocal.emulator.jobs.sampling.samplers import Sampling
from amlocal.emulator.jobs.sampling.space import Choice, Sample, Space, SpaceError, Trial
from amlocal.emulator.jobs.sweeps.plan import Objective
from amlocal.emulator.jobs.termination import policies
from amlocal.emulator.jobs.termination.policies import Policy, PolicyError

MOST_TRIALS = 1000
_GOALS = {"maximize": True, "minimize": False}
_ALGORITHMS = {"random": "RANDOM", "grid": "GRID", "bayesian": "BayesianOptimization"}
# What a trial's command job has from the sweep itself.
_SHARED = ("computeId", "inputs", "outputs", "identity", "queueSettings")
# The fields of `trial`, as far as a command job has them.
_OF_TRIAL = ("command", "codeId", "environmentId", "environmentVariables", "distribution")


@dataclass(frozen=True)
class SweepJob:
    """What a user asked for. Times are seconds; `max_concurrent` is never more than `max_trials`.

    `trial` is the command that every trial runs, with empty texts as its parameters.
    """

    objective: Objective
    space: Space
    sampling: Sampling
    policy: Policy | None
    max_trials: int
    max_concurrent: int
    timeout: float
    trial_timeout: float | None
    trial: CommandJob


def read(properties: Mapping[str, Any]) -> SweepJob:
    """The job that the ARM `properties` define. Raises AzureError naming field and remedy."""
    objective = _objective(properties)
    try:
        policy = policies.read(fields.mapping(properties, "earlyTermination", "earlyTermination"))
    except PolicyError as error:
        raise user_error(
            f"early_termination: {error.message}.", target=f"earlyTermination.{error.field}"
        ) from error
    limits = fields.mapping(properties, "limits", "limits")
    trials = _count(limits, "maxTotalTrials", "max_total_trials") or MOST_TRIALS
    at_once = _count(limits, "maxConcurrentTrials", "max_concurrent_trials") or trials
    timeout = _duration(limits, "timeout", "timeout") or LONGEST
    trial_timeout = _duration(limits, "trialTimeout", "trial_timeout")
    space, sampling = _space(properties)
    names = dict.fromkeys((name for name, _ in space.parameters()), "")
    return SweepJob(
        objective=objective,
        space=space,
        sampling=sampling,
        policy=policy,
        max_trials=trials,
        max_concurrent=min(at_once, trials),
        timeout=timeout,
        trial_timeout=trial_timeout,
        trial=_trial(properties, names),
    )


def trial_body(properties: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The command job of one trial, with what was drawn for it in `parameters`. Raises AzureError."""
    trial = fields.mapping(properties, "trial", "trial")
    if not trial:
        raise user_error("trial is missing; give the command that each trial runs.", target="trial")
    limits = fields.mapping(properties, "limits", "limits")
    timeout = limits.get("trialTimeout")
    body = {
        **{key: properties.get(key) for key in _SHARED},
        **{key: trial.get(key) for key in _OF_TRIAL},
        # azure-ai-ml has them in the trial or in the job itself, by how the job was made.
        "resources": trial.get("resources") or properties.get("resources"),
        "limits": None if timeout is None else {"jobLimitsType": "Command", "timeout": timeout},
    }
    given = {key: value for key, value in body.items() if value is not None}
    return {"jobType": "Command", **given, "parameters": dict(parameters)}


def texts(sample: Sample) -> dict[str, str]:
    """A sample as its command gets it; what is drawn of an inner sub-space is one JSON object."""
    return {name: _text(value) for name, value in sample.items()}


def draw(job: SweepJob, name: str, history: Sequence[Trial], index: int) -> Sample | None:
    """The sample number `index` of the job `name`; None when there are no more. Raises SpaceError.

    The service does not say how it draws without a seed; here a job of the same name draws the same.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return job.sampling.draw(job.space, history, seed, index)


def generator(job: SweepJob) -> dict[str, Any]:
    """The sampling algorithm and the space as the tags of a sweep tell them."""
    sampling = job.sampling
    found = {
        "name": _ALGORITHMS[sampling.algorithm],
        "parameter_space": command_form.dump(job.space),
    }
    if sampling.algorithm != "random":
        return found
    base = None if sampling.base == math.e else sampling.base
    options = {"rule": sampling.rule, "seed": sampling.seed, "logbase": base}
    return {**found, "properties": {key: value for key, value in options.items() if value is not None}}


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


def _objective(properties: Mapping[str, Any]) -> Objective:
    given = fields.mapping(properties, "objective", "objective")
    metric = fields.text(given, "primaryMetric", "objective.primaryMetric", limit=250)
    if metric is None:
        raise user_error(
            "objective.primary_metric is missing; name the metric that the command logs with "
            "mlflow.log_metric.",
            target="objective.primaryMetric",
        )
    goal = fields.text(given, "goal", "objective.goal") or ""
    if goal.lower() not in _GOALS:
        raise user_error(
            f"objective.goal is {shown(given.get('goal'))}; it must be minimize or maximize.",
            target="objective.goal",
        )
    return Objective(metric, _GOALS[goal.lower()])


def _space(properties: Mapping[str, Any]) -> tuple[Space, Sampling]:
    try:
        space = command_form.parse(properties.get("searchSpace"))
    except SpaceError as error:
        raise user_error(f"{error.message}.", target="searchSpace") from error
    for name, distribution in space.parameters():
        values = distribution.values if isinstance(distribution, Choice) else ()
        if any(isinstance(value, str) and "\0" in value for value in values):
            raise user_error(f"search_space.{name} has a NUL in one of its values.", target="searchSpace")
        if not NAME.fullmatch(name):
            raise user_error(
                f"search_space: {shown(name)} cannot be a name: use letters, digits and '_', at most 100, "
                "not beginning with a digit.",
                target="searchSpace",
            )
    given = properties.get("samplingAlgorithm")
    try:
        sampling = Sampling() if given is None else samplers.read(given)
    except SpaceError as error:
        raise user_error(f"{error.message}.", target="samplingAlgorithm") from error
    try:
        sampling.check(space)
        # What cannot be drawn at all is better said now than by the first trial.
        sampling.draw(space, (), 0, 0)
    except SpaceError as error:
        raise user_error(f"search_space: {error.message}.", target="searchSpace") from error
    return space, sampling


def _count(limits: Mapping[str, Any], key: str, name: str) -> int | None:
    return fields.whole(limits, key, f"limits.{name}", f"limits.{key}", maximum=MOST_TRIALS)


def _duration(limits: Mapping[str, Any], key: str, name: str) -> float | None:
    value = limits.get(key)
    if value is None:
        return None
    return fields.duration(value, f"limits.{name}", f"limits.{key}", maximum=LONGEST)


def _trial(properties: Mapping[str, Any], names: Mapping[str, str]) -> CommandJob:
    try:
        return command_request.read(trial_body(properties, {}), names)
    except AzureError as error:
        error.target = at_trial(error.target)
        raise


def at_trial(target: str | None) -> str | None:
    """Where a field of the trial's command job stands in the body of the sweep."""
    if target is not None and target.partition(".")[0] in (*_OF_TRIAL, "resources"):
        return f"trial.{target}"
    return target
