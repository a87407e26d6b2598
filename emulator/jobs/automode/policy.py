"""AutoMode's early termination: bandit, but the first trial, the default model, is never ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amlocal.emulator.jobs.termination.bandit import Bandit
from amlocal.emulator.jobs.termination.progress import Progress, Schedule

SLACK = 0.25
"""A trial whose best is below best / 1.25 of the others at the same interval ends."""
_DELAY = 5
_SHARE = 3


@dataclass(frozen=True)
class KeepingBandit(Bandit):
    """Bandit for all trials but number 0, by its name: AutoMode promises to be no worse than that one."""

    def ends(self, trial: Progress, trials: Sequence[Progress], maximize: bool) -> str | None:
        if trial.name.endswith("_0"):
            return None
        return super().ends(trial, trials, maximize)


def policy(intervals: int) -> KeepingBandit:
    """The policy of a plan whose shortest trial has so many intervals: it waits for a third of them, at least
    5, since what random weights score at first says little."""
    delay = max(_DELAY, intervals // _SHARE)
    return KeepingBandit(Schedule(evaluation_interval=1, delay_evaluation=delay), SLACK)


def of(document: Mapping[str, Any]) -> KeepingBandit:
    """The policy that `policies.described` tells of. Raises KeyError for another one."""
    facts = document["properties"]
    return KeepingBandit(
        Schedule(facts["evaluation_interval"], facts["delay_evaluation"]), facts["slack_factor"]
    )


def sentence(one: Bandit) -> str:
    """The policy in words."""
    return (
        f"early termination: bandit, slack_factor {one.slack_factor:g}, from interval "
        f"{one.schedule.delay_evaluation} on, so that hopeless trials leave their time to others; trial 0 is "
        "never ended"
    )
