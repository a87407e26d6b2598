"""How an AutoML job searches: `taskDetails.searchSpace` and `sweepSettings`, read and checked.

Source: the REST body that azure-ai-ml sends. Every value of the space is checked, also those that are never
drawn. A key that the task does not know is kept and ignored, as among the training parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amlocal.compat import names
from amlocal.emulator.http.errors import user_error
from amlocal.emulator.jobs import fields
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.jobs.sampling import automl_form, parameter_rules, samplers
from amlocal.emulator.jobs.sampling.samplers import Sampling
from amlocal.emulator.jobs.sampling.space import Choice, Distribution, Space, SpaceError, SubSpace
from amlocal.emulator.jobs.termination import policies
from amlocal.emulator.jobs.termination.policies import Policy, PolicyError

PLACE = "taskDetails.searchSpace"
SWEEP = "taskDetails.sweepSettings"
_MOST = 1000
_SWEEP_KEYS = frozenset({"samplingAlgorithm", "earlyTermination"})


@dataclass(frozen=True)
class Search:
    """`space` None: the job names no search space. `ignored` are the places of keys without a meaning.

    `settled`: the job names a sampling algorithm or an early termination policy.
    """

    space: Space | None
    sampling: Sampling
    policy: Policy | None
    ignored: tuple[str, ...]
    settled: bool = False


def read(task: str, details: Mapping[str, Any]) -> Search:
    """The search of a job's `taskDetails`. Raises AzureError naming field, value and what is allowed."""
    sweep = fields.mapping(details, "sweepSettings", SWEEP)
    algorithm = sweep.get("samplingAlgorithm")
    try:
        sampling = Sampling() if algorithm is None else samplers.read(algorithm)
    except SpaceError as error:
        raise user_error(f"sweep.{error}.", target=f"{SWEEP}.samplingAlgorithm") from error
    place = f"{SWEEP}.earlyTermination"
    try:
        policy = policies.read(fields.mapping(sweep, "earlyTermination", place))
    except PolicyError as error:
        raise user_error(f"sweep.early_termination: {error}.", target=f"{place}.{error.field}") from error
    ignored = [f"sweepSettings.{key}" for key in sweep if key not in _SWEEP_KEYS and sweep[key] is not None]
    space = _space(task, details.get("searchSpace"), ignored)
    if space is not None:
        try:
            sampling.check(space)
        except SpaceError as error:
            raise user_error(f"search_space: {error}.", target=PLACE) from error
    return Search(space, sampling, policy, tuple(ignored), algorithm is not None or policy is not None)


def _space(task: str, given: object, ignored: list[str]) -> Space | None:
    if given is None or given == []:
        return None
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise user_error(
            f"search_space must be a list of objects, one for each sub-space, not {shown(given)}.",
            target=PLACE,
        )
    if len(given) > _MOST:
        raise user_error(
            f"search_space has {len(given)} sub-spaces; at most {_MOST} are taken.", target=PLACE
        )
    known = {row.rest: row for row in names.hyperparameters(task).values() if row.search}
    subspaces = []
    for number, entry in enumerate(given):
        parameters = {}
        for key, value in entry.items():
            row = known.get(key)
            if value is None or (row is not None and row.type == "enum" and value == "None"):
                continue
            if row is None:
                ignored.append(f"searchSpace[{number}].{key}")
                continue
            parameters[row.name] = _distribution(task, row, value, number)
        subspaces.append(SubSpace(parameters))
    return Space(tuple(subspaces))


def _distribution(task: str, row: names.Hyperparameter, value: object, number: int) -> Distribution:
    place = f"search_space[{number}]"
    target = f"{PLACE}[{number}].{row.rest}"
    if isinstance(value, bool | int | float):
        parsed: Distribution = Choice((value,))
    elif not isinstance(value, str):
        raise user_error(
            f"{place}.{row.name} is {shown(value)}; it must be a text such as choice(1,2), or one value.",
            target=target,
        )
    else:
        try:
            parsed = automl_form.parse(value)
        except SpaceError as error:
            at = "" if error.position is None else f", at character {error.position + 1}"
            raise user_error(
                f"{place}.{row.name}: {shown(value)}{at}: {error.message}.", target=target
            ) from error
        if row.type == "str" and isinstance(parsed, Choice) and not isinstance(parsed.values[0], str):
            parsed = Choice(tuple(str(one) for one in parsed.values))
    try:
        return parameter_rules.fitted(task, row, parsed)
    except SpaceError as error:
        raise user_error(f"{place}: {error}.", target=target) from error
    except names.BadParameter as error:
        raise user_error(f"{place}.{error} (in {shown(value)}).", target=target) from error
