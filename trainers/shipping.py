"""Sends metrics to MLflow from a thread of its own; training neither waits for it nor fails because of it.

What could not be sent stands in metrics.jsonl, which the server replays after the trial.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from amlocal.trainers import hidden
from amlocal.trainers.metric_log import Metric
from amlocal.trainers.progress import warn

_BATCH = 500
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0

Send = Callable[[Sequence[Metric]], None]


class Shipper:
    """Use as `shipper = Shipper.from_environment()`, `put(metrics)` at each epoch, `close(seconds)` at the
    end."""

    def __init__(self, connect: Callable[[], Send] | None) -> None:
        self._connect = connect
        self._queue: queue.SimpleQueue[list[Metric] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if connect is not None:
            self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
            self._thread.start()

    @classmethod
    def from_environment(cls) -> Shipper:
        """Ships to MLFLOW_TRACKING_URI's run MLFLOW_RUN_ID; without both nothing is shipped."""
        run = os.environ.get("MLFLOW_RUN_ID")
        if not os.environ.get("MLFLOW_TRACKING_URI") or not run:
            return cls(None)
        return cls(lambda: _mlflow(run))

    def put(self, metrics: Sequence[Metric]) -> None:
        """Hand over metrics; returns at once."""
        if self._thread is not None and metrics:
            self._queue.put(list(metrics))

    def close(self, seconds: float = 10.0) -> bool:
        """Wait at most `seconds` for what is under way. True when everything was sent."""
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(seconds)
        self._closing.set()
        return not self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """The thread still runs; a normal exit of the interpreter could then be disturbed by it."""
        return self._thread is not None and self._thread.is_alive()

    def _work(self) -> None:
        send: Send | None = None
        while (metrics := self._queue.get()) is not None:
            pause, told = _FIRST_PAUSE, False
            while not self._closing.is_set():
                try:
                    send = send or (self._connect or _never)()
                    for start in range(0, len(metrics), _BATCH):
                        send(metrics[start : start + _BATCH])
                    break
                except Exception as error:  # whatever MLflow raises must not reach training
                    if not told:
                        warn(f"MLflow cannot be reached ({_short(error)}); metrics are kept and sent again")
                        told = True
                    self._closing.wait(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)


def _never() -> Send:
    raise RuntimeError("no connection was configured")


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"


def _mlflow(run_id: str) -> Send:
    # Retries are ours (with a longer breath than MLflow's own), so each try should fail soon.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    hidden.hide()
    from mlflow import MlflowClient
    from mlflow.entities import Metric as MlflowMetric

    client: Any = MlflowClient()

    def send(metrics: Sequence[Metric]) -> None:
        client.log_batch(
            run_id,
            metrics=[MlflowMetric(m["key"], m["value"], m["timestamp"], m["step"]) for m in metrics],
            synchronous=True,
        )

    return send


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow wants them."""
    return int(time.time() * 1000)
