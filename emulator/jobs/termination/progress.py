"""What a termination policy sees of the trials, and when it looks.

Source: "Hyperparameter tuning a model" of Azure Machine Learning. An interval is one logging of the primary
metric by a trial; intervals are counted from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One trial: its values of the primary metric, oldest first, and whether it has ended."""

    name: str
    values: Sequence[float]
    ended: bool = False

    def best(self, interval: int, maximize: bool) -> float:
        """The best value of intervals 1 to `interval`; there must be one."""
        return (max if maximize else min)(self.values[:interval])


@dataclass(frozen=True)
class Schedule:
    """When a policy is applied: at every multiple of `evaluation_interval` from `delay_evaluation` on.

    An interval of 0, the SDK's default, is one of 1: what is applied never would be no policy.
    """

    evaluation_interval: int = 1
    delay_evaluation: int = 0

    def applies(self, interval: int) -> bool:
        return (
            interval >= 1
            and interval >= self.delay_evaluation
            and interval % max(1, self.evaluation_interval) == 0
        )


def reached(trials: Sequence[Progress], interval: int) -> list[Progress]:
    """The trials that have a value at an interval."""
    return [trial for trial in trials if len(trial.values) >= interval]
