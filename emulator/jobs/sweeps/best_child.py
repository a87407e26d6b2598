"""The table best_child_by_primary_metric of a sweep: which trial was the best, and since when.

Source: the metric of this name on the service's sweeps, with these columns: a row whenever a trial beats all
before it, and at the end a last one whose `final` is true. Here it is a table of MLflow's: an artifact of the
sweep's run that `mlflow.load_table` finds by the run's tag.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.sweeps import leaderboard

COLUMNS = ("metric_name", "timestamp", "run_id", "metric_value", "final")


def table(sweep: JobRecord, trials: Sequence[JobRecord], *, final: str | None) -> dict[str, Any]:
    """The table as MLflow keeps one ({columns, data}), of the trials that have ended with a score.

    `final`: the name of the trial that was chosen at the end; None while the sweep goes on.
    """
    name, maximize = leaderboard.metric(sweep), leaderboard.maximizes(sweep)
    data: list[list[Any]] = []
    best: float | None = None
    # The sort is stable: of two that ended at once the earlier trial is before.
    for trial in sorted(trials, key=lambda trial: trial.ended_at or ""):
        score = leaderboard.score_of(trial)
        if score is None or trial.ended_at is None:
            continue
        better = best is None or (score > best if maximize else score < best)
        if better:
            best = score
            data.append([name, _time(trial.ended_at), trial.name, score, False])
    for trial in trials:
        if trial.name == final and trial.ended_at is not None:
            data.append([name, _time(trial.ended_at), trial.name, leaderboard.score_of(trial), True])
    return {"columns": list(COLUMNS), "data": data}


def _time(at: str) -> str:
    return datetime.fromisoformat(at).isoformat(sep=" ", timespec="microseconds")
