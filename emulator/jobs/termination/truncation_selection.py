"""Truncation selection: at every evaluation the worst given share of the trials ends.

Source: "Hyperparameter tuning a model". At interval N trials are compared by their best values up to N, so
that those which started later are not put at a disadvantage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amlocal.emulator.jobs.termination.progress import Progress, Schedule, reached


@dataclass(frozen=True)
class TruncationSelection:
    """`truncation_percentage` is 1 to 99. Trials that have ended count unless `exclude_finished_jobs`."""

    schedule: Schedule
    truncation_percentage: int
    exclude_finished_jobs: bool = False
    name: str = "TruncationSelection"

    def ends(self, trial: Progress, trials: Sequence[Progress], maximize: bool) -> str | None:
        """Why the trial ends at its latest interval; None: it goes on. `trials` are all, with this one.

        Of equal trials the later ones in `trials` are the worse ones.
        """
        interval = len(trial.values)
        if trial.ended or not self.schedule.applies(interval):
            return None
        compared = [
            other
            for other in reached(trials, interval)
            if not (other.ended and self.exclude_finished_jobs) or other.name == trial.name
        ]
        ranked = sorted(compared, key=lambda other: other.best(interval, maximize), reverse=maximize)
        count = len(ranked) * self.truncation_percentage // 100
        if trial.name not in {other.name for other in ranked[len(ranked) - count :]}:
            return None
        own = trial.best(interval, maximize)
        return (
            f"truncation selection: at interval {interval} its best is {own:g}, among the worst {count} of "
            f"{len(ranked)} trials"
        )
