"""The controller of sweeps on an engine in memory: making trials, choosing the best, failures, cancel."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

NAMES = [f"job1_HD_{number}" for number in range(12)]


def test_a_sweep_of_three_trials_one_after_the_other(desk: Any, helpers: Any) -> None:
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.sweep(trials=3))
    for number, score in enumerate((0.5, 0.75, 0.25)):
        helpers.until(lambda n=number: desk.running(NAMES[n]))
        # One at a time: the next is drawn only after this one.
        assert desk.children() == NAMES[: number + 1]
        desk.finish(NAMES[number], score)
    service.wait_idle()
    assert desk.states("job1") == ["NotStarted", "Preparing", "Queued", "Running", "Finalizing", "Completed"]
    assert desk.states("job1_HD") == ["Queued", "Running", "Finalizing", "Completed"]
    for name in NAMES[:3]:
        assert desk.states(name) == ["Queued", "Starting", "Running", "Finalizing", "Completed"]
    root, sweep = desk.record("job1"), desk.record("job1_HD")
    assert root.tags["automl_best_child_run_id"] == NAMES[1]
    assert sweep.properties["best_child_run_id"] == NAMES[1] and sweep.properties["score"] == "0.75"
    assert sweep.tags["_aml_system_all_jobs_generated"] == "true"
    assert sweep.tags["_aml_system_samples_generated_count"] == "3"
    rates = [json.loads(sweep.tags[f"_aml_system_{name}"])["learning_rate"] for name in NAMES[:3]]
    assert len(set(rates)) == 3
    specs = [json.loads((desk.job_dir(name) / "spec.json").read_text()) for name in NAMES[:3]]
    assert [spec["parameters"]["learning_rate"] for spec in specs] == rates
    table = csv.DictReader(io.StringIO((desk.artifacts("job1") / "outputs/leaderboard.csv").read_text()))
    assert [row["trial"] for row in table] == [NAMES[1], NAMES[0], NAMES[2]]
    log = desk.hyperdrive()
    for text in ("Experiment created", "Max number of jobs '3' reached", "All jobs generated."):
        assert log.count(text) == 1
    for name in NAMES[:3]:
        assert log.count(f"Scheduling job, id='{name}'") == 1
    assert "Changing Run Status from Running to Completed" in log.splitlines()[-1]


def test_trials_at_once(desk: Any, helpers: Any) -> None:
    service = desk.service(training_slots=4)
    service.submit(desk.workspace, "job1", desk.sweep(trials=5, concurrent=2))
    helpers.until(lambda: desk.running(NAMES[0]) and desk.running(NAMES[1]))
    desk.finish(NAMES[1], 0.5)
    helpers.until(lambda: desk.running(NAMES[2]))
    assert desk.running(NAMES[0]) and desk.children() == NAMES[:3]
    # The earlier of two equal ones is the best, whichever ended first.
    desk.finish(NAMES[2], 0.9)
    helpers.until(lambda: desk.running(NAMES[3]))
    desk.finish(NAMES[0], 0.9)
    helpers.until(lambda: desk.running(NAMES[4]))
    assert desk.record("job1").state == "Running"
    desk.finish(NAMES[3], 0.1)
    desk.finish(NAMES[4], 0.2)
    service.wait_idle()
    assert desk.record("job1_HD").properties["best_child_run_id"] == NAMES[0]
    assert desk.children() == NAMES[:5]


def test_more_trials_than_slots_wait_for_one(desk: Any, helpers: Any) -> None:
    service = desk.service(training_slots=1)
    service.submit(desk.workspace, "job1", desk.sweep(trials=3, concurrent=3))
    helpers.until(lambda: desk.running(NAMES[0]) and len(desk.children()) == 3)
    assert [desk.record(name).state for name in NAMES[1:3]] == ["Queued", "Queued"]
    for name in NAMES[:3]:
        helpers.until(lambda n=name: desk.running(n))
        desk.finish(name, 0.5)
    service.wait_idle()
    assert desk.engine.started == [(name, 1) for name in NAMES[:3]]


def test_a_trial_that_fails_fails_alone(desk: Any, helpers: Any) -> None:
    def run(engine: Any, job: Any) -> None:
        if job.job_dir.name == NAMES[0]:
            with job.stdout.open("a") as log:
                log.write("ValueError: the loss is not a number\n")
            engine.end(job, 1)
        elif job.job_dir.name == NAMES[1]:
            engine.end(job, None, 9)
        else:
            helpers.train(engine, job)

    desk.engine.on_submit = run
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.sweep(trials=3))
    service.wait_idle()
    assert [desk.record(name).state for name in NAMES[:3]] == ["Failed", "Failed", "Completed"]
    assert desk.engine.started == [(NAMES[0], 1), (NAMES[1], 1), (NAMES[1], 2), (NAMES[2], 1)]
    assert desk.record("job1").state == "Completed" and desk.record("job1").error is None
    assert desk.record("job1").tags["automl_best_child_run_id"] == NAMES[2]
    log = desk.hyperdrive()
    assert "2 of 3 jobs failed" in log
    assert f"Job '{NAMES[0]}' ended as Failed" in log
    runs = desk.mlflow.runs
    helpers.until(lambda: (desk.job_dir("job1") / "tracking.done").exists())
    assert [runs[name]["status"] for name in NAMES[:3]] == ["FAILED", "FAILED", "FINISHED"]
    assert runs["job1"]["status"] == runs["job1_HD"]["status"] == "FINISHED"


def test_when_all_trials_fail_the_job_fails_with_the_first_cause(desk: Any, helpers: Any) -> None:
    def run(engine: Any, job: Any) -> None:
        with job.stdout.open("a") as log:
            log.write(f"ValueError: fault of {job.job_dir.name}\n")
        engine.end(job, 1)

    desk.engine.on_submit = run
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.sweep(trials=3))
    service.wait_idle()
    for name in ("job1", "job1_HD"):
        error = desk.record(name).error
        assert desk.record(name).state == "Failed" and error["code"] == "UserError"
        assert error["message"].startswith(
            f"User errors were found in at least one of the child runs. {NAMES[0]}: "
        )
        assert f"fault of {NAMES[0]}" in error["message"] and NAMES[1] not in error["message"]
    assert desk.children() == NAMES[:3]
    assert "best_child_run_id" not in desk.record("job1_HD").properties
    assert "Changing Run Status from Running to Failed" in desk.hyperdrive()


def test_a_killed_trial_is_resumed_while_the_others_go_on(desk: Any, helpers: Any) -> None:
    service = desk.service(training_slots=2)
    service.submit(desk.workspace, "job1", desk.sweep(trials=3, concurrent=2))
    helpers.until(lambda: desk.running(NAMES[0]) and desk.running(NAMES[1]))
    desk.engine.end(desk.running(NAMES[0]), None, 9)
    resumed = helpers.until(lambda: (job := desk.running(NAMES[0])) and job.attempt == 2 and job)
    assert json.loads((resumed.job_dir / "spec.json").read_text())["attempt"] == 2
    assert desk.running(NAMES[1]).attempt == 1 and desk.children() == NAMES[:2]
    desk.finish(NAMES[0], 0.9)
    helpers.until(lambda: desk.running(NAMES[2]))
    desk.finish(NAMES[1], 0.1)
    desk.finish(NAMES[2], 0.2)
    service.wait_idle()
    assert desk.record("job1").tags["automl_best_child_run_id"] == NAMES[0]
    assert desk.record(NAMES[0]).attempt == 2


def test_cancel_of_one_trial_ends_that_trial_alone(desk: Any, helpers: Any) -> None:
    service = desk.service(training_slots=2)
    service.submit(desk.workspace, "job1", desk.sweep(trials=3, concurrent=2))
    helpers.until(lambda: desk.record("job1").state == "Running" and desk.running(NAMES[1]))
    helpers.until(lambda: desk.record(NAMES[0]).state == "Running")
    assert service.cancel(desk.workspace, NAMES[0]).state in ("CancelRequested", "Canceled")
    helpers.until(lambda: desk.running(NAMES[2]))
    assert desk.states(NAMES[0])[-2:] == ["CancelRequested", "Canceled"]
    assert desk.record("job1").state == desk.record("job1_HD").state == "Running"
    assert desk.engine.canceled == [(NAMES[0], 1)]
    desk.finish(NAMES[1], 0.1)
    desk.finish(NAMES[2], 0.2)
    service.wait_idle()
    assert desk.record("job1").state == "Completed"
    assert desk.record("job1").tags["automl_best_child_run_id"] == NAMES[2]
    helpers.until(lambda: desk.mlflow.runs[NAMES[0]]["status"] == "KILLED")


def test_a_waiting_trial_can_be_canceled(desk: Any, helpers: Any) -> None:
    service = desk.service(training_slots=1)
    service.submit(desk.workspace, "job1", desk.sweep(trials=2, concurrent=2))
    helpers.until(lambda: desk.running(NAMES[0]) and len(desk.children()) == 2)
    service.cancel(desk.workspace, NAMES[1])
    helpers.until(lambda: desk.record(NAMES[1]).state == "Canceled")
    desk.finish(NAMES[0], 0.5)
    service.wait_idle()
    assert desk.engine.started == [(NAMES[0], 1)] and desk.record("job1").state == "Completed"


@pytest.mark.parametrize("name", ["job1", "job1_HD"])
def test_cancel_of_a_sweep_ends_all_its_trials(desk: Any, helpers: Any, name: str) -> None:
    service = desk.service(training_slots=2)
    service.submit(desk.workspace, "job1", desk.sweep(trials=9, concurrent=3))
    helpers.until(lambda: desk.running(NAMES[0]) and desk.running(NAMES[1]) and len(desk.children()) == 3)
    service.cancel(desk.workspace, name)
    service.wait_idle()
    assert desk.children() == NAMES[:3]
    for one in ("job1", "job1_HD", *NAMES[:3]):
        assert desk.states(one)[-2:] == ["CancelRequested", "Canceled"]
        assert desk.record(one).error is None
    assert sorted(desk.engine.canceled) == [(NAMES[0], 1), (NAMES[1], 1)]
    assert desk.record("job1_HD").tags["_aml_system_cancellation_requested"] == "true"


def test_a_grid_that_is_used_up_ends_the_sweep(desk: Any, helpers: Any) -> None:
    desk.engine.on_submit = helpers.train
    service = desk.service()
    changes = {
        "taskDetails.searchSpace": [{"learningRate": "choice(0.1, 0.01)"}],
        "taskDetails.sweepSettings": {"samplingAlgorithm": "Grid"},
    }
    service.submit(desk.workspace, "job1", desk.sweep(trials=5, **changes))
    service.wait_idle()
    assert desk.children() == NAMES[:2] and desk.record("job1").state == "Completed"
    sweep = desk.record("job1_HD")
    assert sweep.tags["_aml_system_all_jobs_generated"] == "true"
    assert sweep.tags["_aml_system_samples_generated_count"] == "2"
    assert "no more trials" in sweep.tags["amlocal.generation_ended"]
    assert "All jobs generated." in desk.hyperdrive()
    assert "Max number of jobs" not in desk.hyperdrive()


def test_a_trial_that_cannot_be_made_ends_the_making(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amlocal.emulator.jobs.runners.automl_sweeper import AutoMLSweeper
    from amlocal.emulator.jobs.runners.base import JobFailure

    whole = AutoMLSweeper.next_trial

    def two(self: Any, workspace: Any, root: Any, trials: Any) -> Any:
        if len(trials) == 2:
            raise JobFailure("the space has a hole", "SystemError")
        return whole(self, workspace, root, trials)

    monkeypatch.setattr(AutoMLSweeper, "next_trial", two)
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.sweep(trials=5))
    service.wait_idle()
    assert desk.children() == NAMES[:2] and desk.record("job1").state == "Completed"
    assert desk.record("job1_HD").tags["amlocal.generation_ended"] == "SystemError: the space has a hole"

    def none(self: Any, workspace: Any, root: Any, trials: Any) -> Any:
        raise JobFailure("nothing can be drawn")

    monkeypatch.setattr(AutoMLSweeper, "next_trial", none)
    service.submit(desk.workspace, "job2", desk.sweep(trials=5))
    service.wait_idle()
    assert desk.record("job2").state == "Failed" and desk.children("job2_HD") == []
    assert desk.record("job2").error == {"code": "UserError", "message": "nothing can be drawn"}


def test_a_controller_that_always_raises_fails_the_job_and_stops_its_trials(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amlocal.emulator.jobs import queue
    from amlocal.emulator.jobs.runners.automl_sweeper import AutoMLSweeper

    monkeypatch.setattr(queue, "_RETRY", 0.01)
    whole = AutoMLSweeper.next_trial

    def broken(self: Any, workspace: Any, root: Any, trials: Any) -> Any:
        if trials:
            raise ValueError("a fault nobody thought of")
        return whole(self, workspace, root, trials)

    monkeypatch.setattr(AutoMLSweeper, "next_trial", broken)
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.sweep(trials=3, concurrent=2))
    service.wait_idle()
    for name in ("job1", "job1_HD"):
        assert desk.record(name).state == "Failed"
        assert "a fault nobody thought of" in desk.record(name).error["message"]
    assert desk.record(NAMES[0]).state == "Canceled"
    assert all(state.name != "running" for state in desk.engine.states.values())


def test_a_leaderboard_that_cannot_be_made_is_said_and_fails_nothing(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amlocal.emulator.jobs.sweeps import end as sweep_end

    def full(*arguments: Any) -> None:
        raise ValueError("no picture today")

    monkeypatch.setattr(sweep_end, "_draw", full)
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.sweep(trials=2))
    service.wait_idle()
    assert desk.record("job1").state == "Completed"
    assert "[WARNING]the leaderboard could not be made: ValueError('no picture today')" in desk.hyperdrive()


def test_a_cancel_while_trials_are_made_ends_the_making(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amlocal.emulator.jobs.runners.automl_sweeper import AutoMLSweeper

    whole = AutoMLSweeper.next_trial
    service = desk.service()

    def interrupted(self: Any, workspace: Any, root: Any, trials: Any) -> Any:
        made = whole(self, workspace, root, trials)
        if len(trials) == 2:
            service.cancel(desk.workspace, "job1")
        return made

    monkeypatch.setattr(AutoMLSweeper, "next_trial", interrupted)
    service.submit(desk.workspace, "job1", desk.sweep(trials=9, concurrent=9))
    service.wait_idle()
    assert desk.children() == NAMES[:2]
    for name in ("job1", "job1_HD", *NAMES[:2]):
        assert desk.record(name).state == "Canceled"
    assert f"_aml_system_{NAMES[2]}" not in desk.record("job1_HD").tags


def test_a_stop_while_trials_are_made_is_gone_on_from(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amlocal.emulator.jobs.runners.automl_sweeper import AutoMLSweeper

    whole = AutoMLSweeper.next_trial
    drawn: list[int] = []
    service = desk.service(start=False)

    def interrupted(self: Any, workspace: Any, root: Any, trials: Any) -> Any:
        drawn.append(len(trials))
        if drawn == [0, 1]:
            service._scheduler._stopped.set()
        return whole(self, workspace, root, trials)

    monkeypatch.setattr(AutoMLSweeper, "next_trial", interrupted)
    service.start()
    service.submit(desk.workspace, "job1", desk.sweep(trials=4, concurrent=4))
    helpers.until(lambda: len(drawn) == 2)
    service.stop()
    assert desk.children() == NAMES[:2] and desk.engine.started == []
    desk.engine.on_submit = helpers.train
    desk.service().wait_idle()
    assert drawn == [0, 1, 2, 3] and desk.record("job1").state == "Completed"


def test_more_trials_than_are_made_in_one_step(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amlocal.emulator.jobs.sweeps import sweeping

    monkeypatch.setattr(sweeping, "_BATCH", 2)
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.sweep(trials=5, concurrent=5))
    helpers.until(lambda: desk.running(NAMES[0]) and len(desk.children()) == 5)
    assert desk.children() == NAMES[:5]
    helpers.until(lambda: "Successfully sampled '1' jobs" in desk.hyperdrive())
    assert desk.hyperdrive().count("Successfully sampled '2' jobs") == 2
    assert desk.hyperdrive().count("Successfully sampled '1' jobs") == 1
