"""Trials that the policy, or a time limit, ends: what they keep, and what becomes of the sweep."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

NAMES = [f"job1_HD_{number}" for number in range(12)]
BANDIT = {"policyType": "Bandit", "slackFactor": 0, "slackAmount": 0.1, "evaluationInterval": 1}


def start(desk: Any, helpers: Any, trials: int, slots: int = 3, **more: Any) -> Any:
    """A service whose sweep has all its trials running."""
    service = desk.service(training_slots=slots)
    service.submit(desk.workspace, "job1", desk.sweep(trials=trials, concurrent=trials, **more))
    helpers.until(lambda: [desk.record(n).state for n in desk.children()] == ["Running"] * trials)
    return service


def judged(desk: Any, helpers: Any, name: str, *values: float) -> None:
    """Log `values` for trial `name`, and wait until the policy has seen them: later ones are compared."""
    helpers.log_values(desk.job_dir(name), *values)
    helpers.until(lambda: (desk.job_dir(name) / "policy.json").exists())


def keep(score: float) -> Any:
    """What a trainer does that finds terminate.json: it keeps its best checkpoint and says so."""

    def stop(job: Any) -> None:
        reason = json.loads((job.job_dir / "terminate.json").read_text())["reason"]
        result = {"primary_metric": "accuracy", "score": score, "model_name": "resnet18"}
        (job.job_dir / "result.json").write_text(json.dumps({**result, "terminated": reason}))

    return stop


def test_bandit_ends_the_worse_trial_which_keeps_its_score(desk: Any, helpers: Any) -> None:
    desk.engine.on_cancel = keep(0.3)
    service = start(desk, helpers, 2, policy=BANDIT)
    judged(desk, helpers, NAMES[0], 0.9)
    helpers.log_values(desk.job_dir(NAMES[1]), 0.3)
    helpers.until(lambda: desk.record(NAMES[1]).state == "Canceled")
    trial = desk.record(NAMES[1])
    assert trial.error is None and trial.properties["score"] == "0.3"
    reason = "bandit: at interval 1 its best is 0.3, below 0.8; the best of all is 0.9"
    assert trial.tags["amlocal.terminated"] == reason
    from amlocal.emulator.jobs import records

    last = desk.store.read(lambda c: records.history(c, desk.workspace.id, NAMES[1]))[-1]
    assert (last.state, last.why) == ("Canceled", reason)
    assert desk.engine.canceled == [(NAMES[1], 1)] and desk.running(NAMES[0])
    assert reason in (desk.artifacts(NAMES[1]) / "user_logs/std_log.txt").read_text()
    assert desk.hyperdrive().count(f"ends job '{NAMES[1]}': {reason}") == 1
    desk.finish(NAMES[0], 0.9)
    service.wait_idle()
    assert desk.record("job1").state == "Completed"
    assert desk.record("job1_HD").properties["best_child_run_id"] == NAMES[0]
    helpers.until(lambda: desk.mlflow.runs[NAMES[1]]["status"] == "KILLED")


def test_a_trial_that_the_policy_ended_can_be_the_best(desk: Any, helpers: Any) -> None:
    desk.engine.on_cancel = keep(0.95)
    service = start(desk, helpers, 2, policy={**BANDIT, "delayEvaluation": 2})
    judged(desk, helpers, NAMES[0], 0.5, 0.9)
    helpers.log_values(desk.job_dir(NAMES[1]), 0.1, 0.2)
    helpers.until(lambda: desk.record(NAMES[1]).state == "Canceled")
    desk.finish(NAMES[0], 0.9)
    service.wait_idle()
    assert desk.record("job1_HD").properties["best_child_run_id"] == NAMES[1]
    assert desk.record("job1").tags["automl_best_child_run_id"] == NAMES[1]


def test_without_a_checkpoint_it_does_not_count(desk: Any, helpers: Any) -> None:
    service = start(desk, helpers, 2, policy=BANDIT)
    judged(desk, helpers, NAMES[0], 0.9)
    helpers.log_values(desk.job_dir(NAMES[1]), 0.3)
    helpers.until(lambda: desk.record(NAMES[1]).state == "Canceled")
    assert "score" not in desk.record(NAMES[1]).properties
    desk.engine.end(desk.running(NAMES[0]), 1)
    service.wait_idle()
    # One trial failed and none has a score.
    assert desk.record("job1").state == "Failed"
    assert f"child runs. {NAMES[0]}: " in desk.record("job1").error["message"]


def test_no_interval_is_passed_over(desk: Any, helpers: Any) -> None:
    start(desk, helpers, 2, policy={**BANDIT, "evaluationInterval": 2})
    judged(desk, helpers, NAMES[0], 0.5, 0.9, 0.91)
    # Two intervals at once, of which the policy is applied to the first, when it was behind.
    helpers.log_values(desk.job_dir(NAMES[1]), 0.5, 0.6, 0.95)
    helpers.until(lambda: desk.record(NAMES[1]).state == "Canceled")
    assert "at interval 2" in desk.record(NAMES[1]).tags["amlocal.terminated"]
    assert desk.record(NAMES[0]).state == "Running"


def test_a_value_that_is_no_number_is_the_worst(desk: Any, helpers: Any) -> None:
    start(desk, helpers, 2, policy=BANDIT)
    judged(desk, helpers, NAMES[0], 0.5)
    helpers.log_values(desk.job_dir(NAMES[1]), math.nan)
    helpers.until(lambda: desk.record(NAMES[1]).state == "Canceled")
    assert desk.record(NAMES[0]).state == "Running"


def test_after_a_restart_an_interval_is_not_judged_again(desk: Any, helpers: Any) -> None:
    service = start(desk, helpers, 2, policy={**BANDIT, "evaluationInterval": 3})
    helpers.log_values(desk.job_dir(NAMES[0]), 0.1, 0.1, 0.1, 0.2)
    helpers.until(lambda: (desk.job_dir(NAMES[0]) / "policy.json").exists())
    service.stop()
    helpers.log_values(desk.job_dir(NAMES[1]), 0.9, 0.9, 0.9)
    service = desk.service(training_slots=3)
    helpers.until(lambda: (desk.job_dir(NAMES[1]) / "policy.json").exists())
    # The first passed interval 3 when there was nothing to compare it with.
    assert desk.record(NAMES[0]).state == "Running"
    helpers.log_values(desk.job_dir(NAMES[1]), 0.9, 0.9, 0.9)
    helpers.log_values(desk.job_dir(NAMES[0]), 0.2, 0.2)
    helpers.until(lambda: desk.record(NAMES[0]).state == "Canceled")
    assert "at interval 6" in desk.record(NAMES[0]).tags["amlocal.terminated"]


def test_values_that_came_while_the_server_was_down_are_judged(desk: Any, helpers: Any) -> None:
    service = start(desk, helpers, 2, policy=BANDIT)
    service.stop()
    helpers.log_values(desk.job_dir(NAMES[0]), 0.9)
    helpers.log_values(desk.job_dir(NAMES[1]), 0.3)
    desk.service(training_slots=3)
    helpers.until(lambda: desk.record(NAMES[1]).state == "Canceled")


def test_metrics_are_read_only_when_they_have_changed(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amlocal.emulator.jobs.runners.automl_sweeper import AutoMLSweeper

    read: list[str] = []
    whole = AutoMLSweeper.values

    def counted(self: Any, workspace: Any, trial: Any) -> Any:
        read.append(trial.name)
        return whole(self, workspace, trial)

    monkeypatch.setattr(AutoMLSweeper, "values", counted)
    service = start(desk, helpers, 2, policy={**BANDIT, "slackAmount": 10})
    for name in NAMES[:2]:
        helpers.log_values(desk.job_dir(name), 0.5)
        helpers.until(lambda n=name: (desk.job_dir(n) / "policy.json").exists())
    before = list(read)
    for _ in range(20):
        service._scheduler.wake()
        helpers.until(lambda: service._scheduler.idle)
    assert read == before
    helpers.log_values(desk.job_dir(NAMES[1]), 0.6)
    helpers.until(lambda: len(read) > len(before))
    assert read == [*before, NAMES[1]]


class Clock:
    """The time as the limits of sweeps see it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import time

        from amlocal.emulator.jobs.sweeps import view as sweep_view

        self.ahead = 0.0
        monkeypatch.setattr(sweep_view, "time", SimpleNamespace(time=lambda: time.time() + self.ahead))


def test_at_the_time_limit_the_best_of_those_that_ended_counts(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    service = desk.service(training_slots=2)
    service.submit(desk.workspace, "job1", desk.sweep(trials=9, concurrent=2))
    helpers.until(lambda: desk.running(NAMES[0]))
    desk.finish(NAMES[0], 0.5)
    helpers.until(lambda: desk.running(NAMES[1]) and desk.running(NAMES[2]))
    clock.ahead = 3601.0
    service._scheduler.wake()
    service.wait_idle()
    assert desk.children() == NAMES[:3]
    for name in NAMES[1:3]:
        assert desk.record(name).state == "Canceled"
        assert "time limit of 60 minutes" in desk.record(name).error["message"]
    root = desk.record("job1")
    assert root.state == "Completed" and root.tags["automl_best_child_run_id"] == NAMES[0]
    assert "time limit of 60 minutes" in root.tags["amlocal.time_limit"]
    assert "time limit of 60 minutes" in (desk.artifacts(NAMES[1]) / "user_logs/std_log.txt").read_text()


def test_a_trial_that_the_time_limit_ends_keeps_its_checkpoint_and_counts(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    desk.engine.on_cancel = keep(0.7)
    service = desk.service(training_slots=1)
    service.submit(desk.workspace, "job1", desk.sweep(trials=2, concurrent=1))
    # Its shim leaves it the time to write its model.
    assert 3600 < helpers.until(lambda: desk.running(NAMES[0])).timeout <= 3660
    clock.ahead = 3601.0
    service._scheduler.wake()
    service.wait_idle()
    assert desk.children() == NAMES[:1]
    trial, root = desk.record(NAMES[0]), desk.record("job1")
    assert trial.state == "Canceled" and trial.properties["score"] == "0.7"
    assert "time limit of 60 minutes" in trial.error["message"]
    assert root.state == "Completed" and root.tags["automl_best_child_run_id"] == NAMES[0]
    assert "time limit of 60 minutes" in root.tags["amlocal.time_limit"]


def test_at_the_time_limit_without_a_score_the_job_is_canceled(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    service = desk.service(training_slots=1)
    service.submit(desk.workspace, "job1", desk.sweep(trials=9, concurrent=2))
    helpers.until(lambda: desk.running(NAMES[0]) and len(desk.children()) == 2)
    # The engine's own limit is the first to notice.
    clock.ahead = 3601.0
    desk.engine.end(desk.running(NAMES[0]), None, 15, timed_out=True)
    service.wait_idle()
    assert desk.engine.started == [(NAMES[0], 1)]
    for name in ("job1", "job1_HD", *NAMES[:2]):
        assert desk.record(name).state == "Canceled"
        assert "time limit of 60 minutes" in desk.record(name).error["message"]


def test_a_trial_has_a_time_limit_of_its_own(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amlocal.emulator.jobs.runners.automl_sweeper import AutoMLSweeper

    whole = AutoMLSweeper.plan
    monkeypatch.setattr(
        AutoMLSweeper, "plan", lambda self, root: replace(whole(self, root), trial_timeout=90.0)
    )
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.sweep(trials=2))
    first = helpers.until(lambda: desk.running(NAMES[0]))
    assert first.timeout == 90.0 + 60.0
    desk.engine.end(first, None, 15, timed_out=True)
    helpers.until(lambda: desk.running(NAMES[1]))
    trial = desk.record(NAMES[0])
    assert trial.state == "Canceled" and "time limit of 1.5 minutes" in trial.error["message"]
    desk.finish(NAMES[1], 0.5)
    service.wait_idle()
    root = desk.record("job1")
    assert root.state == "Completed" and "amlocal.time_limit" not in root.tags
