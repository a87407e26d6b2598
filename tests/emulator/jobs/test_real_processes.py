"""The scheduler on the real engine: a stand-in for the trainer runs under the shim."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.jobs.engines.local import LocalEngine

TRAINER = """\
import json, os, pathlib, signal, sys, time

spec = json.loads(pathlib.Path(sys.argv[1]).read_text())
state = pathlib.Path(spec["state_dir"])
(state / f"seen-{spec['attempt']}.json").write_text(json.dumps({"env": dict(os.environ), "pid": os.getpid()}))
print("attempt", spec["attempt"], "of", spec["run_id"], flush=True)
what = (state.parent / "what").read_text()
if what == "fail":
    print("ValueError: nothing can be learned", flush=True)
    sys.exit(1)
if what == "wait" and spec["attempt"] == 1:
    time.sleep(600)
row = {"key": "accuracy", "value": 0.5, "step": 0, "timestamp": 1}
(state / "metrics.jsonl").write_text(json.dumps(row) + "\\n")
(state / "result.json").write_text(json.dumps(
    {"primary_metric": "accuracy", "score": 0.5, "model_name": "resnet18", "best_epoch": 0}))
"""


@pytest.fixture
def real(desk: Any, tmp_path: Path) -> Any:
    script = tmp_path / "trainer.py"
    script.write_text(textwrap.dedent(TRAINER))
    desk.trainer = [sys.executable, str(script)]
    desk.engine = LocalEngine()
    jobs = desk.folder.jobs / desk.workspace.id
    jobs.mkdir(parents=True)
    desk.what = lambda text: (jobs / "what").write_text(text)
    yield desk
    LocalEngine().cancel(desk.job_dir("job1_HD_0"), 1)


def seen(desk: Any, attempt: int) -> Path:
    return desk.job_dir("job1_HD_0") / f"seen-{attempt}.json"


def test_a_whole_job(real: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    monkeypatch.setenv("IDENTITY_HEADER", "the server's own")
    real.what("end")
    service = real.service()
    service.submit(real.workspace, "job1", real.body())
    service.wait_idle()
    assert real.record("job1").state == "Completed"
    env = json.loads(seen(real, 1).read_text())["env"]
    assert env["MLFLOW_RUN_ID"] == "job1_HD_0" and "IDENTITY_HEADER" not in env
    log = (real.artifacts("job1_HD_0") / "user_logs/std_log.txt").read_text()
    assert log.startswith("amlocal: trial job1_HD_0 of job job1 on cpu-cluster\n")
    assert "attempt 1 of job1_HD_0" in log


def test_a_failure_shows_the_last_lines(real: Any) -> None:
    real.what("fail")
    service = real.service()
    service.submit(real.workspace, "job1", real.body())
    service.wait_idle()
    assert real.record("job1").state == "Failed"
    assert real.record("job1").error["message"].endswith("ValueError: nothing can be learned")
    assert not seen(real, 2).exists()


def test_killed_across_a_restart_of_the_server(real: Any, helpers: Any) -> None:
    import json

    real.what("wait")
    service = real.service()
    service.submit(real.workspace, "job1", real.body())
    helpers.until(lambda: real.record("job1").state == "Running" and seen(real, 1).exists())
    pid = json.loads(helpers.until(lambda: seen(real, 1).read_text()))["pid"]
    service.stop()
    os.kill(pid, 0)
    service = real.service(engine=LocalEngine())
    helpers.until(lambda: real.record("job1_HD_0").state == "Running")
    os.kill(pid, signal.SIGKILL)
    service.wait_idle()
    assert real.record("job1").state == "Completed" and real.record("job1_HD_0").attempt == 2
    log = (real.artifacts("job1_HD_0") / "user_logs/std_log.txt").read_text()
    first, note, second = (
        log.index(text) for text in ("attempt 1 of", "amlocal: attempt 1 killed by signal 9", "attempt 2 of")
    )
    assert first < note < second


def test_cancel_and_time_limit_end_the_process(real: Any, helpers: Any) -> None:
    import json

    real.what("wait")
    service = real.service()
    service.submit(real.workspace, "job1", real.body())
    helpers.until(lambda: seen(real, 1).exists() and real.record("job1_HD_0").state == "Running")
    pid = json.loads(helpers.until(lambda: seen(real, 1).read_text()))["pid"]
    service.cancel(real.workspace, "job1")
    service.wait_idle()
    assert real.record("job1").state == "Canceled"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    changes = {"taskDetails.limitSettings.timeout": "PT1S"}
    service.submit(real.workspace, "job2", real.body(**changes))
    service.wait_idle()
    assert real.record("job2").state == "Canceled" and "time limit" in real.record("job2").error["message"]
