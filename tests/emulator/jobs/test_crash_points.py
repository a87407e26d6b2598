"""The server's power is cut before or after each of its effects; a new server brings every job to its end.

Effects are writes of the database, starts of processes, and calls of MLflow. After the cut nothing of the old
server has any effect any more. Processes of jobs go on, as they do when a server is killed.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
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
    )


def run_until_cut(desk: Any, power: Power, until: Any, also: Callable[[Any], None] | None = None) -> bool:
    """A server does the job until its power is cut; whether the submission was acknowledged."""
    service = wired(desk, power)
    acknowledged = False
    try:
        service.submit(desk.workspace, "job1", desk.body())
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


def check_history(desk: Any, final: str) -> None:
    for name in TREE:
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
