"""When what a trial has logged is read: rarely, never twice for nothing, and never lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps.plan import Objective, Played
from amlocal.emulator.jobs.sweeps.progress import Progresses
from amlocal.emulator.jobs.sweeps.view import best_of
from amlocal.emulator.jobs.termination.bandit import Bandit
from amlocal.emulator.jobs.termination.progress import Schedule
from amlocal.emulator.store.folder import DataFolder


class Mlflow:
    """A sweeper whose trials leave no metrics file."""

    def __init__(self) -> None:
        self.logged: dict[str, tuple[float, ...]] = {}
        self.down = False
        self.asked = 0

    def values(self, workspace: Any, trial: JobRecord) -> tuple[float, ...]:
        self.asked += 1
        if self.down:
            raise ConnectionError("MLflow is down")
        return self.logged.get(trial.name, ())


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def trial(name: str, state: JobState = JobState.RUNNING, attempt: int = 1) -> JobRecord:
    return JobRecord(
        workspace_id="w", name=name, parent="job", kind="command", state=state, experiment="e",
        display_name=name, compute="local", body={}, tags={}, properties={}, error=None, attempt=attempt,
        archived=False, cancel_requested=False, created_at="", started_at=None, ended_at=None, sequence=1,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    folder.create()
    for name in ("a", "b"):
        folder.job("w", name).mkdir(parents=True)
    return folder


def test_mlflow_is_asked_every_two_seconds_while_a_trial_runs(folder: DataFolder) -> None:
    clock, mlflow = Clock(), Mlflow()
    progress = Progresses(folder, "w", clock)
    one = trial("a")
    assert progress.news([one])
    mlflow.logged["a"] = (0.5,)
    assert progress.values(mlflow, None, one) == (0.5,)
    mlflow.logged["a"] = (0.5, 0.6)
    clock.now += 1.9
    assert not progress.news([one])
    assert progress.values(mlflow, None, one) == (0.5,) and mlflow.asked == 1
    clock.now += 0.2
    assert progress.news([one])
    assert progress.values(mlflow, None, one) == (0.5, 0.6)
    # One that waits for a slot has nothing to tell.
    assert not progress.news([trial("b", JobState.QUEUED, 0)])
    assert progress.values(mlflow, None, trial("b", JobState.QUEUED, 0)) == ()


def test_what_an_ended_trial_has_logged_is_read_once_and_in_the_end(folder: DataFolder) -> None:
    mlflow = Mlflow()
    progress = Progresses(folder, "w", Clock())
    mlflow.logged["a"] = (0.5,)
    progress.values(mlflow, None, trial("a"))
    ended = trial("a", JobState.COMPLETED)
    mlflow.logged["a"] = (0.5, 0.7)
    mlflow.down = True
    assert progress.values(mlflow, None, ended) == (0.5,)
    mlflow.down = False
    assert progress.values(mlflow, None, ended) == (0.5, 0.7)
    asked = mlflow.asked
    assert progress.values(mlflow, None, ended) == (0.5, 0.7) and mlflow.asked == asked


@pytest.mark.parametrize("maximize", [True, False])
def test_values_that_are_no_numbers_count_as_the_worst(folder: DataFolder, maximize: bool) -> None:
    mlflow = Mlflow()
    mlflow.logged = {"a": (0.5,), "b": (float("nan"),)}
    progress = Progresses(folder, "w", Clock())
    both = [trial("a"), trial("b")]
    for one in both:
        progress.values(mlflow, None, one)
    policy = Bandit(Schedule(), slack_amount=10.0)
    objective = Objective("acc", maximize)
    assert progress.judge(policy, objective, both, both[0]) is None
    assert "at interval 1" in str(progress.judge(policy, objective, both, both[1]))


def test_the_best_is_the_earlier_of_equal_ones() -> None:
    def played(index: int, score: float | None) -> Played:
        return Played(index, f"t{index}", {}, JobState.COMPLETED, (), score, None)

    trials = [played(0, None), played(1, 0.5), played(2, 0.9), played(3, 0.9), played(4, 0.5)]
    best, worst = best_of(trials, Objective("m", True)), best_of(trials, Objective("m", False))
    assert best is not None and best.index == 2
    assert worst is not None and worst.index == 1
    assert best_of([played(0, None)], Objective("m", True)) is None
    assert best_of([replace(trials[1], score=0.0)], Objective("m", True)) is not None
