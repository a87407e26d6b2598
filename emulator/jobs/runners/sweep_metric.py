"""The primary metric of a sweep's trials, as their commands log it with MLflow.

An interval is one logging of it, by Azure's documentation; its value at an interval is what was logged then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import NotYet

_PAUSE = 0.25


class MetricHistory(Protocol):
    """What is needed of MLflow."""

    def metric_history(self, workspace_id: str, run_id: str) -> list[dict[str, Any]]:
        """All rows `{key, value (None for NaN), step, timestamp}` of a run; raises while MLflow is down."""


@dataclass(frozen=True)
class Series:
    """What a trial has logged: the values of one metric, oldest first, and the names of all metrics."""

    values: tuple[float, ...] = ()
    names: tuple[str, ...] = ()

    def best(self, maximize: bool) -> float | None:
        """The value by which a trial counts: its best finite one, at whatever interval; None: it has none."""
        return best(self.values, maximize)


class TrialMetrics:
    """Safe from any thread. `patience`: seconds that one look at an ended trial waits for MLflow."""

    def __init__(
        self,
        mlflow: MetricHistory,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._mlflow = mlflow
        self._patience = patience
        self._clock = clock
        self._sleep = sleep

    def so_far(self, trial: JobRecord, metric: str) -> Series:
        """What a trial has logged. Raises what MLflow raises."""
        return read(self._mlflow.metric_history(trial.workspace_id, trial.name), metric)

    def final(self, trial: JobRecord, metric: str) -> Series:
        """What a trial whose process has ended has logged. Raises NotYet after the patience."""
        deadline = self._clock() + self._patience
        while True:
            try:
                return self.so_far(trial, metric)
            except Exception as error:  # whatever it is that MLflow's client raises
                if 400 <= getattr(error, "status", 503) < 500:
                    # MLflow does not know the run, so nothing can have been logged to it.
                    return Series()
                if self._clock() >= deadline:
                    raise NotYet(f"the metrics of {trial.name} cannot be read: {error}") from error
            self._sleep(_PAUSE)


def read(rows: Sequence[Mapping[str, Any]], metric: str) -> Series:
    """The rows of one run, in the order in which they were logged."""
    own = sorted(
        (row for row in rows if row["key"] == metric), key=lambda row: (row["timestamp"], row["step"])
    )
    values = tuple(math.nan if row["value"] is None else float(row["value"]) for row in own)
    return Series(values, tuple(sorted({str(row["key"]) for row in rows})))


def best(values: Sequence[float], maximize: bool) -> float | None:
    """The best finite one of some values; None where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return (max if maximize else min)(finite, default=None)
