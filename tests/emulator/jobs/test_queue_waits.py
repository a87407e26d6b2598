"""The scheduler with computes that have limits: who waits, what the log says, what a job holds."""

from __future__ import annotations

import threading
from typing import Any

from amlocal.emulator.arm import documents
from amlocal.emulator.jobs.engines.base import Gpu
from amlocal.emulator.jobs.steps import Steps


def body(**changes: Any) -> dict[str, Any]:
    return {"jobType": "Command", "command": "true", "environmentId": "azureml:host:1", **changes}


def put(desk: Any, name: str, kind: str, **inner: Any) -> None:
    stored = {"properties": {"computeType": kind, "properties": inner}}
    desk.store.write(lambda c: documents.put(c, desk.workspace.id, "computes", name, "", stored))


def log(desk: Any, name: str) -> str:
    path = desk.artifacts(name) / "user_logs" / "std_log.txt"
    return str(path.read_text()) if path.exists() else ""


def end(desk: Any, name: str) -> None:
    desk.engine.end(desk.engine.jobs[desk.job_dir(name), 1])


def line_up(desk: Any, helpers: Any, service: Any, name: str, **changes: Any) -> None:
    """Submit, and wait until the job is in the queue: jobs are prepared side by side, in any order."""
    service.submit(desk.workspace, name, body(**changes))
    helpers.until(lambda: desk.record(name).state not in ("NotStarted", "Preparing"))


def test_a_small_cluster(desk: Any, helpers: Any) -> None:
    put(desk, "Small", "AmlCompute", scaleSettings={"maxNodeCount": 1})
    service = desk.service(command_slots=9)
    for name in ("j1", "j2", "j3"):
        line_up(desk, helpers, service, name, computeId="small")
    service.submit(desk.workspace, "other", body())
    helpers.until(lambda: "waits: cluster Small has 1 nodes" in log(desk, "j3"))
    helpers.until(lambda: len(desk.engine.started) == 2)
    assert set(desk.engine.started) == {("j1", 1), ("other", 1)}
    end(desk, "j1")
    helpers.until(lambda: ("j2", 1) in desk.engine.started)
    assert desk.record("j3").state == "Queued"
    put(desk, "Small", "AmlCompute", scaleSettings={"maxNodeCount": 2})
    helpers.until(lambda: ("j3", 1) in desk.engine.started)
    for name in ("j2", "j3", "other"):
        end(desk, name)
    service.wait_idle()
    assert log(desk, "j3").count("waits:") == 1


def test_a_slot_is_taken_before_its_start_is_stored(desk: Any, helpers: Any, monkeypatch: Any) -> None:
    asked, go_on = threading.Event(), threading.Event()
    start = Steps.start

    def slow(steps: Steps, record: Any, *rest: Any, **more: Any) -> bool:
        if record.name == "first":
            asked.set()
            assert go_on.wait(15)
        return start(steps, record, *rest, **more)

    monkeypatch.setattr(Steps, "start", slow)
    put(desk, "small", "AmlCompute", scaleSettings={"maxNodeCount": 1})
    service = desk.service()
    service.submit(desk.workspace, "first", body(computeId="small"))
    assert asked.wait(15)
    service.submit(desk.workspace, "second", body(computeId="small", queueSettings={"priority": "high"}))
    helpers.until(lambda: "waits: cluster small" in log(desk, "second"))
    assert desk.record("first").state == "Queued" and desk.engine.started == []
    go_on.set()
    helpers.until(lambda: desk.engine.started == [("first", 1)])
    end(desk, "first")
    helpers.until(lambda: ("second", 1) in desk.engine.started)
    end(desk, "second")
    service.wait_idle()


def test_a_stopped_instance(desk: Any, helpers: Any) -> None:
    put(desk, "mine", "ComputeInstance", state="Stopped")
    service = desk.service()
    service.submit(desk.workspace, "job", body(computeId="mine"))
    service.submit(desk.workspace, "unwanted", body(computeId="mine"))
    helpers.until(lambda: "waits: compute instance mine is stopped" in log(desk, "job"))
    helpers.until(lambda: "waits: " in log(desk, "unwanted"))
    service.cancel(desk.workspace, "unwanted")
    helpers.until(lambda: desk.record("unwanted").state == "Canceled")
    assert desk.record("job").state == "Queued" and desk.engine.started == []
    put(desk, "mine", "ComputeInstance", state="Running")
    helpers.until(lambda: desk.engine.started == [("job", 1)])
    end(desk, "job")
    service.wait_idle()
    assert desk.record("job").state == "Completed"


def test_priority_before_order(desk: Any, helpers: Any) -> None:
    service = desk.service(command_slots=1)
    service.submit(desk.workspace, "first", body())
    helpers.until(lambda: desk.engine.started == [("first", 1)])
    for name, priority in (("low", 1), ("medium", 2), ("high", 3)):
        service.submit(desk.workspace, name, body(queueSettings={"priority": priority}))
    helpers.until(lambda: all(desk.record(name).state == "Queued" for name in ("low", "medium", "high")))
    for expected in ("first", "high", "medium", "low"):
        helpers.until(lambda name=expected: desk.engine.started[-1] == (name, 1))
        end(desk, expected)
    service.wait_idle()


def test_gpus_go_to_one_job_each(desk: Any, helpers: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    desk.engine.gpus = (Gpu(0, "a", None, None), Gpu(1, "b", None, None))
    service = desk.service()
    for name in ("j1", "j2", "j3"):
        line_up(desk, helpers, service, name, computeId="gpu-cluster")
    helpers.until(lambda: len(desk.engine.started) == 2)
    seen = {key[0].name: job.env["CUDA_VISIBLE_DEVICES"] for key, job in desk.engine.jobs.items()}
    assert seen == {"j1": "0", "j2": "1"} and desk.record("j1").properties["amlocal.gpus"] == "0"
    assert "amlocal.device" not in desk.record("j1").tags
    service.stop()
    service = desk.service()
    end(desk, "j2")
    helpers.until(lambda: ("j3", 1) in desk.engine.started)
    assert desk.engine.jobs[desk.job_dir("j3"), 1].env["CUDA_VISIBLE_DEVICES"] == "1"
    for name in ("j1", "j3"):
        end(desk, name)
    service.wait_idle()


def test_a_host_without_gpu_says_so(desk: Any) -> None:
    desk.engine.on_submit = lambda engine, job: engine.end(job)
    put(desk, "big", "AmlCompute", vmSize="STANDARD_NC6", scaleSettings={"maxNodeCount": 1})
    service = desk.service()
    for name, compute in (("j1", "gpu-cluster"), ("j2", "big"), ("j3", "cpu-cluster")):
        service.submit(desk.workspace, name, body(computeId=compute))
    service.wait_idle()
    text = "CPU: this host has no GPU, so gpu-cluster runs on its processors"
    assert desk.record("j1").tags == {"amlocal.device": text} and f"amlocal: {text}\n" in log(desk, "j1")
    assert "so big runs on" in desk.record("j2").tags["amlocal.device"]
    assert desk.record("j3").tags == {}


def test_a_time_limit_counts_from_running(desk: Any) -> None:
    limits = []
    desk.engine.on_submit = lambda engine, job: (limits.append(job.timeout), engine.end(job))
    # MLflow that does not answer costs a second before the start; it is not taken from the job's time.
    desk.mlflow.down = True
    service = desk.service(mlflow_patience=0.3)
    service.submit(desk.workspace, "job", body(limits={"timeout": "PT5S"}))
    service.wait_idle()
    assert limits == [5.0] and desk.record("job").state == "Completed"


def test_a_sweep_is_not_judged_by_what_was_read_before_a_trials_step_ended(
    desk: Any, helpers: Any, monkeypatch: Any
) -> None:
    service = desk.service(start=False, mlflow_patience=0.0)
    scheduler = service._scheduler
    service.submit(desk.workspace, "job1", desk.sweep(trials=1, concurrent=1))
    helpers.until(lambda: scheduler._pass() and desk.running("job1_HD_0") and not scheduler._busy)
    judged: list[str] = []
    monkeypatch.setattr(scheduler._sweeps, "due", lambda root, below: True)
    monkeypatch.setattr(scheduler._sweeps, "advance", lambda root, _: bool(judged.append(root.name)) or True)
    key = (desk.workspace.id, "job1")
    scheduler._busy.add(key)

    def ends_meanwhile(*rest: Any) -> bool:
        scheduler._busy.discard(key)
        return False

    monkeypatch.setattr(scheduler, "_leaf", ends_meanwhile)
    scheduler._pass()
    assert judged == [] and not scheduler._busy
    scheduler._pass()
    helpers.until(lambda: judged == ["job1"])
