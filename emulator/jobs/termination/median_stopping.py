"""Median stopping: a trial ends when its best value is worse than the median of all running averages.

Source: "Hyperparameter tuning a model".
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from amlocal.emulator.jobs.termination.progress import Progress, Schedule, reached


@dataclass(frozen=True)
class MedianStopping:
    """At interval N every trial that has come so far counts with its average over intervals 1 to N."""

    schedule: Schedule
    name: str = "MedianStopping"

    def ends(self, trial: Progress, trials: Sequence[Progress], maximize: bool) -> str | None:
        """Why the trial ends at its latest interval; None: it goes on. `trials` are all, with this one."""
        interval = len(trial.values)
        if trial.ended or not self.schedule.applies(interval):
            return None
        own = trial.best(interval, maximize)
        averages = [statistics.mean(other.values[:interval]) for other in reached(trials, interval)]
        median = statistics.median(averages)
        if own >= median if maximize else own <= median:
            return None
        return (
            f"median stopping: at interval {interval} its best is {own:g}, worse than {median:g}, the median "
            f"of the running averages of {len(averages)} trials"
        )
