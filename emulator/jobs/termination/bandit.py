"""The bandit policy: a trial ends when its best value is too far from the best of all trials.

Source: "Hyperparameter tuning a model": with slack_factor 0.2 and a best value of 0.8, trials whose best
value is below 0.8 / (1 + 0.2) = 0.66 end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amlocal.emulator.jobs.termination.progress import Progress, Schedule, reached


@dataclass(frozen=True)
class Bandit:
    """Exactly one of `slack_factor` (a ratio) and `slack_amount` (in units of the metric) is not None."""

    schedule: Schedule
    slack_factor: float | None = None
    slack_amount: float | None = None
    name: str = "Bandit"

    def ends(self, trial: Progress, trials: Sequence[Progress], maximize: bool) -> str | None:
        """Why the trial ends at its latest interval; None: it goes on. `trials` are all, with this one."""
        interval = len(trial.values)
        if trial.ended or not self.schedule.applies(interval):
            return None
        own = trial.best(interval, maximize)
        bests = [other.best(interval, maximize) for other in reached(trials, interval)]
        best = (max if maximize else min)(bests)
        limit = self.limit(best, maximize)
        if own >= limit if maximize else own <= limit:
            return None
        side = "below" if maximize else "above"
        return (
            f"bandit: at interval {interval} its best is {own:g}, {side} {limit:g}; the best of all is "
            f"{best:g}"
        )

    def limit(self, best: float, maximize: bool) -> float:
        """The worst value that may go on. For a negative best the slack widens away from it all the same."""
        if self.slack_amount is not None:
            return best - self.slack_amount if maximize else best + self.slack_amount
        factor = self.slack_factor or 0.0
        if maximize:
            return best / (1 + factor) if best >= 0 else best * (1 + factor)
        return best * (1 + factor) if best >= 0 else best / (1 + factor)
