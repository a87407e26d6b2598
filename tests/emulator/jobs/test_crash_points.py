"""The server's power is cut before or after each of its effects; a new server brings every job to its end.

Effects are writes of the database, starts of processes, and calls of MLflow. After the cut nothing of the old
server has any effect any more. Processes of jobs go on, as they do when a server is killed.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from amlocal.emulator.jobs.states import ALLOWED, JobState

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
TREE = ("job1", "job1_HD", "job1_HD_0")


class Cut(BaseException):
    """Not an Exception: no handler of the server's may survive it."""


class Power:
    """Counts effects; at number `last` and from then on every effect fails."""

    def __init__(self, last: int | None, *, mlflow: bool = False) -> None:
        self.last = last
        self.mlflow = mlflow
        self.count = 0
        self.off = threading.Event()
        self._lock = threading.Lock()

    def tick(self) -> None:
        with self._lock:
            self.count += 1
            if self.last is not None and self.count >= self.last:
                self.off.set()
                raise Cut


class Wired:
    """Passes calls on to something whose effects need power, which can fail before and after the effect."""

    def __init__(self, inner: Any, power: Power, effects: tuple[str, ...]) -> None:
        self._inner = inner
        self._power = power
        self._effects = effects

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._effects:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._power.tick()
            result = found(*args, **kwargs)
            self._power.tick()
            return result

        return call


class Unplugged:
    """Something that counts no effects, and has none once the power is off."""

    def __init__(self, inner: Any, power: Power) -> None:
        self._inner = inner
        self._power = power

    def __getattr__(self, name: str) -> Any:
        if self._power.off.is_set():
            raise Cut
        return getattr(self._inner, name)


def wired(desk: Any, power: Power) -> Any:
    calls = ("ensure_run", "log_metrics", "set_tags", "finish_run")
    return desk.service(
        store=Wired(desk.store, power, ("write",)),
        engine=Wired(desk.engine, power, ("submit", "cancel")),
        mlflow=Wired(desk.mlflow, power, calls) if power.mlflow else Unplugged(desk.mlflow, power),
        mlflow_patience=0.2,
        training_slots=2,
    )


def run_until_cut(
    desk: Any,
    power: Power,
    until: Any,
    also: Callable[[Any], None] | None = None,
    body: dict[str, Any] | None = None,
) -> bool:
    """A server does the job until its power is cut; whether the submission was acknowledged."""
    service = wired(desk, power)
    acknowledged = False
    try:
        service.submit(desk.workspace, "job1", body or desk.body())
        acknowledged = True
        if also is not None:
            also(service)
    except Cut:
        pass
    if power.last is None:
        service.wait_idle()
        until(lambda: (desk.job_dir("job1") / "tracking.done").exists())
    else:
        # How often MLflow is told depends on timing: a run with fewer effects simply ends.
        until(lambda: power.off.is_set() or (desk.job_dir("job1") / "tracking.done").exists())
    service.stop()
    return acknowledged


def check_history(desk: Any, final: str, names: Sequence[str] = TREE) -> None:
    for name in names:
        states = [JobState(state) for state in desk.states(name)]
        assert states[-1] == final, (name, states)
        for old, new in itertools.pairwise(states):
            assert new in ALLOWED[old], (name, states)


def killed_once(helpers: Any) -> Callable[[Any, Any], None]:
    def run(engine: Any, job: Any) -> None:
        if job.attempt == 1:
            engine.end(job, None, 9)
        else:
            helpers.train(engine, job)

    return run


@pytest.mark.parametrize(
    ("scenario", "mlflow"),
    [
        ("ends well", False),
        pytest.param("ends well", True, marks=pytest.mark.slow),
        ("killed once", False),
    ],
)
def test_a_job_comes_to_its_end_from_every_crash_point(
    make_desk: Callable[[], Any], helpers: Any, scenario: str, mlflow: bool
) -> None:
    def new_desk() -> Any:
        desk = make_desk()
        desk.data()
        desk.engine.on_submit = helpers.train if scenario == "ends well" else killed_once(helpers)
        return desk

    whole = Power(None, mlflow=mlflow)
    run_until_cut(new_desk(), whole, helpers.until)
    assert whole.count >= 16
    attempts = [("job1_HD_0", 1)] if scenario == "ends well" else [("job1_HD_0", 1), ("job1_HD_0", 2)]
    # For the second scenario only what differs: from the start of the first attempt on.
    first = 1 if scenario == "ends well" else 9
    for last in range(first, whole.count + 1):
        desk = new_desk()
        power = Power(last, mlflow=mlflow)
        acknowledged = run_until_cut(desk, power, helpers.until)
        service = desk.service()
        if not acknowledged:
            service.submit(desk.workspace, "job1", desk.body())
        service.wait_idle()
        check_history(desk, "Completed")
        assert desk.engine.started == attempts, last
        assert desk.record("job1").tags["automl_best_child_run_id"] == "job1_HD_0"
        helpers.until(lambda desk=desk: (desk.job_dir("job1") / "tracking.done").exists())
        assert {desk.mlflow.runs[name]["status"] for name in TREE} == {"FINISHED"}
        assert len(desk.mlflow.metrics["job1_HD_0"]) == 2
        service.stop()


def test_a_cancel_is_carried_out_from_every_crash_point(make_desk: Callable[[], Any], helpers: Any) -> None:
    for last in range(2, 60):
        desk = make_desk()
        desk.data()
        power = Power(last)
        canceled: list[str] = []

        def cancel(
            service: Any, desk: Any = desk, power: Power = power, canceled: list[str] = canceled
        ) -> None:
            helpers.until(lambda: power.off.is_set() or desk.states("job1_HD_0")[-1:] == ["Running"])
            canceled.append(service.cancel(desk.workspace, "job1").state)

        run_until_cut(desk, power, helpers.until, cancel)
        if not power.off.is_set():
            assert last > 16 and desk.record("job1").state == "Canceled"
            return
        service = desk.service()
        if not canceled:
            service.submit(desk.workspace, "job1", desk.body())
            service.cancel(desk.workspace, "job1")
        service.wait_idle()
        states = {name: desk.states(name)[-1] for name in TREE if desk.states(name)}
        assert set(states.values()) == {"Canceled"}, (last, states)
        assert all(state.name != "running" for state in desk.engine.states.values()), last
        service.stop()
    raise AssertionError("no run was without a cut")


SWEEP = tuple(f"job1_HD_{number}" for number in range(4))
BANDIT = {"policyType": "Bandit", "slackFactor": 0, "slackAmount": 0.1, "evaluationInterval": 1}


def play(engine: Any, job: Any) -> None:
    """Of four trials the first is the best, the second runs until the policy ends it, the third fails."""
    number = SWEEP.index(job.job_dir.name)
    rows = [{"key": "accuracy", "value": 0.9 - number * 0.2, "step": 0, "timestamp": 7}]
    (job.job_dir / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    if number in (0, 3):
        leave_result(job)
        engine.end(job)
    elif number == 2:
        engine.end(job, 1)


def leave_result(job: Any) -> None:
    score = 0.9 - SWEEP.index(job.job_dir.name) * 0.2
    result = {"primary_metric": "accuracy", "score": score, "model_name": "resnet18"}
    (job.job_dir / "result.json").write_text(json.dumps(result))


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_sweep_comes_to_its_end_from_every_crash_point(
    make_desk: Callable[[], Any], helpers: Any, every: int
) -> None:
    def new_desk() -> Any:
        desk = make_desk()
        desk.data()
        desk.engine.on_submit = play
        desk.engine.on_cancel = leave_result
        return desk

    whole, desk = Power(None), new_desk()
    body = {"trials": 4, "concurrent": 2, "policy": BANDIT}
    run_until_cut(desk, whole, helpers.until, body=desk.sweep(**body))
    assert whole.count >= 40
    drawn = desk.record("job1_HD").tags
    for last in range(1, whole.count + 1, every):
        desk = new_desk()
        acknowledged = run_until_cut(desk, Power(last), helpers.until, body=desk.sweep(**body))
        service = desk.service(training_slots=2)
        if not acknowledged:
            service.submit(desk.workspace, "job1", desk.sweep(**body))
        service.wait_idle()
        check_history(desk, "Completed", ("job1", "job1_HD", SWEEP[0], SWEEP[3]))
        check_history(desk, "Canceled", [SWEEP[1]])
        check_history(desk, "Failed", [SWEEP[2]])
        # Each was drawn once, with the same parameters as without a crash, and started once.
        assert desk.children() == list(SWEEP), last
        tags = desk.record("job1_HD").tags
        for name in SWEEP:
            assert tags[f"_aml_system_{name}"] == drawn[f"_aml_system_{name}"], last
        assert sorted(desk.engine.started) == [(name, 1) for name in SWEEP], last
        assert desk.record(SWEEP[1]).properties["score"] == "0.7", last
        assert desk.record("job1").tags["automl_best_child_run_id"] == SWEEP[0]
        log = desk.hyperdrive()
        for name in SWEEP:
            assert log.count(f"Scheduling job, id='{name}'") == 1, last
        helpers.until(lambda desk=desk: (desk.job_dir("job1") / "tracking.done").exists())
        assert [desk.mlflow.runs[name]["status"] for name in ("job1_HD", *SWEEP)] == [
            "FINISHED",
            "FINISHED",
            "KILLED",
            "FAILED",
            "FINISHED",
        ], last
        service.stop()


def test_the_cancel_of_one_trial_is_carried_out_from_every_crash_point(
    make_desk: Callable[[], Any], helpers: Any
) -> None:
    for last in range(18, 61, 3):
        desk = make_desk()
        desk.data()
        power = Power(last)
        canceled: list[str] = []

        def cancel(
            service: Any, desk: Any = desk, power: Power = power, canceled: list[str] = canceled
        ) -> None:
            helpers.until(
                lambda: power.off.is_set() or all(desk.states(name)[-1:] == ["Running"] for name in SWEEP[:2])
            )
            canceled.append(service.cancel(desk.workspace, SWEEP[0]).state)
            helpers.until(lambda: power.off.is_set() or desk.record(SWEEP[0]).state == "Canceled")
            desk.finish(SWEEP[1], 0.5)

        run_until_cut(desk, power, helpers.until, cancel, desk.sweep(trials=2, concurrent=2))
        whole = not power.off.is_set()
        service = desk.service(training_slots=2)
        if not whole:
            helpers.until(lambda desk=desk: desk.children() == list(SWEEP[:2]))
            if not canceled:
                service.cancel(desk.workspace, SWEEP[0])
            helpers.until(lambda desk=desk: desk.record(SWEEP[0]).state == "Canceled")
            if desk.record(SWEEP[1]).state not in ("Finalizing", "Completed"):
                helpers.until(
                    lambda desk=desk: (
                        desk.running(SWEEP[1]) or desk.record(SWEEP[1]).state in ("Finalizing", "Completed")
                    )
                )
                if desk.running(SWEEP[1]):
                    desk.finish(SWEEP[1], 0.5)
        service.wait_idle()
        assert desk.states(SWEEP[0])[-1] == "Canceled", last
        assert desk.record("job1").state == "Completed", last
        assert desk.record("job1").tags["automl_best_child_run_id"] == SWEEP[1], last
        service.stop()
        if whole:
            return
    raise AssertionError("no run was without a cut")


def test_a_running_trial_is_adopted_and_not_started_again(desk: Any, helpers: Any) -> None:
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    helpers.until(lambda: desk.engine.started and desk.record("job1_HD_0").state == "Running")
    for _ in range(3):
        service.stop()
        service = desk.service()
    assert desk.record("job1_HD_0").state == "Running"
    helpers.train(desk.engine, desk.engine.jobs[desk.job_dir("job1_HD_0"), 1])
    service.wait_idle()
    assert desk.record("job1").state == "Completed" and desk.engine.started == [("job1_HD_0", 1)]


def test_what_ended_while_the_server_was_down_is_finished(desk: Any, helpers: Any) -> None:
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    helpers.until(lambda: desk.engine.started and desk.record("job1_HD_0").state == "Running")
    service.stop()
    helpers.train(desk.engine, desk.engine.jobs[desk.job_dir("job1_HD_0"), 1])
    assert desk.record("job1").state == "Running"
    desk.service().wait_idle()
    assert desk.record("job1").state == "Completed" and desk.engine.started == [("job1_HD_0", 1)]


def test_preparing_is_given_up_at_a_stop_and_done_again(desk: Any, helpers: Any) -> None:
    row = '{"image_url": "./images/%d.jpg", "label": "a"}\n'
    desk.data(extra="".join(row % (number % 12) for number in range(300_000)))
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    helpers.until(lambda: desk.record("job1").state == "Preparing")
    service.stop()
    assert desk.record("job1").state == "Preparing" and desk.engine.started == []
    desk.data()
    desk.service().wait_idle()
    assert desk.record("job1").state == "Completed"


def test_a_step_that_always_raises_ends_the_job(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from amlocal.emulator.jobs import queue

    monkeypatch.setattr(queue, "_RETRY", 0.01)

    def broken(job_dir: Any, attempt: int) -> None:
        raise ValueError("a fault nobody thought of")

    monkeypatch.setattr(desk.engine, "submit", lambda job: broken(job, 1))
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    service.wait_idle()
    error = desk.record("job1_HD_0").error
    assert desk.record("job1").state == "Failed" and error["code"] == "SystemError"
    assert "a fault nobody thought of" in error["message"]


def test_a_process_that_cannot_be_started_fails_the_job(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from amlocal.emulator.jobs.engines.base import EngineError

    def refuse(job: Any) -> None:
        raise EngineError("no more processes")

    monkeypatch.setattr(desk.engine, "submit", refuse)
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    service.wait_idle()
    assert desk.record("job1").state == "Failed"
    assert "no more processes" in desk.record("job1_HD_0").error["message"]
