from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from amlocal.trainers.metric_log import Metric
from amlocal.trainers.shipping import Send, Shipper


def metric(step: int) -> Metric:
    return Metric(key="accuracy", value=0.5, step=step, timestamp=1_700_000_000_000)


def test_what_fails_is_sent_again_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[int] = []
    tries = 0

    def connect() -> Send:
        def send(metrics: Sequence[Metric]) -> None:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise ConnectionError("no answer")
            sent.extend(m["step"] for m in metrics)

        return send

    shipper = Shipper(connect)
    shipper.put([metric(0)])
    shipper.put([metric(1), metric(2)])
    assert shipper.close(20.0)
    assert sent == [0, 1, 2]
    assert not shipper.busy
    assert capsys.readouterr().out.count("MLflow cannot be reached (ConnectionError: no answer)") == 1


def test_a_server_that_never_answers_delays_neither_training_nor_the_end() -> None:
    asked, release = threading.Event(), threading.Event()

    def connect() -> Send:
        asked.set()
        release.wait(120)
        raise ConnectionError

    shipper = Shipper(connect)
    started = time.monotonic()
    for step in range(100):
        shipper.put([metric(step)])
    # One that waited would take two minutes.
    assert time.monotonic() - started < 20.0
    assert asked.wait(60)
    assert not shipper.close(0.2)
    assert shipper.busy
    release.set()
    shipper._thread.join(10)
    assert not shipper.busy


def test_nothing_is_shipped_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)
    shipper = Shipper.from_environment()
    shipper.put([metric(0)])
    assert shipper.close(0.0)


def test_metrics_arrive_in_mlflow(tmp_path: Path) -> None:
    """In a process of its own: MLflow keeps global state that other tests should not inherit."""
    code = """
import os
import mlflow
client = mlflow.MlflowClient()
run = client.create_run(client.create_experiment("e")).info.run_id
os.environ["MLFLOW_RUN_ID"] = run
from amlocal.trainers.metric_log import Metric
from amlocal.trainers.shipping import Shipper
shipper = Shipper.from_environment()
for step in (0, 1):
    shipper.put([Metric(key="accuracy", value=0.5 + step / 4, step=step, timestamp=1700000000000 + step)])
assert shipper.close(60)
history = [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run, "accuracy")]
assert history == [(0, 0.5, 1700000000000), (1, 0.75, 1700000000001)], history
"""
    env = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_mlflow_is_imported_without_what_trainers_do_not_need() -> None:
    """A thread imports it while scikit-learn looks which packages are there."""
    code = (
        "import sys; from amlocal.trainers import hidden; hidden.hide(); hidden.hide(); import mlflow; "
        "print([name in sys.modules for name in hidden.PACKAGES], "
        "sum(type(one) is hidden._Hidden for one in sys.meta_path))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[False] 1", done.stderr
