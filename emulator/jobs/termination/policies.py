"""Every early termination policy by its name on the wire, and a sweep's choice of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from amlocal.emulator.jobs.termination.bandit import Bandit
from amlocal.emulator.jobs.termination.median_stopping import MedianStopping
from amlocal.emulator.jobs.termination.progress import Progress, Schedule
from amlocal.emulator.jobs.termination.truncation_selection import TruncationSelection

TYPES: Mapping[str, str] = {
    "bandit": "bandit",
    "medianstopping": "median_stopping",
    "truncationselection": "truncation_selection",
}
"""YAML's name of each policy by the wire's in lower case."""
_MOST = 2**31 - 1


class PolicyError(ValueError):
    """An early termination policy cannot be used; `field` is the part of the REST body at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class Policy(Protocol):
    """A pure rule over the trials' histories."""

    @property
    def name(self) -> str:
        """The policy's name on the wire."""

    @property
    def schedule(self) -> Schedule:
        """When the rule is applied."""

    def ends(self, trial: Progress, trials: Sequence[Progress], maximize: bool) -> str | None:
        """Why the trial ends at its latest interval; None: it goes on."""


def read(body: Mapping[str, Any] | None) -> Policy | None:
    """The policy of a REST body (`earlyTermination`); None for none. Raises PolicyError.

    The SDK sends 0 for a slack that was not given.
    """
    if not body:
        return None
    given = body.get("policyType")
    kind = TYPES.get(given.replace("_", "").lower()) if isinstance(given, str) else None
    if kind is None:
        known = ", ".join(TYPES.values())
        raise PolicyError("policyType", f"early_termination is {_brief(given)}; it must be one of {known}")
    schedule = Schedule(
        evaluation_interval=max(1, _whole(body, "evaluationInterval", "evaluation_interval", 0, _MOST) or 1),
        delay_evaluation=_whole(body, "delayEvaluation", "delay_evaluation", 0, _MOST) or 0,
    )
    if kind == "median_stopping":
        return MedianStopping(schedule)
    if kind == "bandit":
        return _bandit(body, schedule)
    share = _whole(body, "truncationPercentage", "truncation_percentage", 1, 99)
    if share is None:
        raise PolicyError(
            "truncationPercentage", "truncation_percentage is missing; give a whole number from 1 to 99"
        )
    excluded = body.get("excludeFinishedJobs")
    if excluded is not None and not isinstance(excluded, bool):
        raise PolicyError(
            "excludeFinishedJobs", f"exclude_finished_jobs is {_brief(excluded)}; it must be true or false"
        )
    return TruncationSelection(schedule, share, bool(excluded))


def described(policy: Policy | None) -> dict[str, Any]:
    """A policy as the tags of a sweep tell it."""
    if policy is None:
        return {"name": "Default", "properties": {}}
    facts = {key: value for key, value in vars(policy).items() if key not in ("name", "schedule")}
    return {"name": policy.name, "properties": {**vars(policy.schedule), **facts}}


def _bandit(body: Mapping[str, Any], schedule: Schedule) -> Bandit:
    factor = _slack(body, "slackFactor", "slack_factor")
    amount = _slack(body, "slackAmount", "slack_amount")
    if (factor is None) is (amount is None):
        both = "both given" if factor is not None else "neither given"
        raise PolicyError(
            "slackFactor",
            f"slack_factor and slack_amount are {both}; the bandit policy takes exactly one, above 0",
        )
    return Bandit(schedule, factor, amount)


def _slack(body: Mapping[str, Any], key: str, name: str) -> float | None:
    value = body.get(key)
    if value is None:
        return None
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        number = float(value)
    if not number >= 0:
        raise PolicyError(key, f"{name} is {_brief(value)}; it must be a number of at least 0")
    return number or None


def _whole(body: Mapping[str, Any], key: str, name: str, least: int, most: int) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise PolicyError(key, f"{name} is {_brief(value)}; it must be a whole number from {least} to {most}")
    return value


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
