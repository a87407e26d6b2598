"""A data folder with one workspace, data to train on, an engine and an MLflow that live in memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from amlocal.emulator.jobs import records
from amlocal.emulator.jobs.engines.base import (
    Capacity,
    EngineError,
    EngineEvent,
    EngineJob,
    EngineState,
    ExitReport,
    LogChunk,
)
from amlocal.emulator.jobs.inputs import Resolver
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.service import JobService
from amlocal.emulator.jobs.sweeps import end as sweep_end
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace
from amlocal.emulator.store.workspaces import Workspaces


class MemoryEngine:
    """An engine whose processes are entries in a table; like real ones they outlive a service."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[Path, int], EngineJob] = {}
        self.states: dict[tuple[Path, int], EngineState] = {}
        self.canceled: list[tuple[str, int]] = []
        self.on_submit: Callable[[MemoryEngine, EngineJob], None] = lambda engine, job: None
        # What a process does when it is asked to stop, before it ends.
        self.on_cancel: Callable[[EngineJob], None] = lambda job: None
        self.gpus: tuple[Any, ...] = ()
        self._events: SimpleQueue[EngineEvent] = SimpleQueue()

    def submit(self, job: EngineJob) -> None:
        key = (job.job_dir, job.attempt)
        if key in self.states:
            raise EngineError(f"{job.job_dir.name}: attempt {job.attempt} was started before")
        if any(folder == job.job_dir and s.name == "running" for (folder, _), s in self.states.items()):
            raise EngineError("an attempt of this job is running")
        self.jobs[key] = job
        self.states[key] = EngineState("running")
        self.on_submit(self, job)

    def end(self, job: EngineJob, returncode: int | None = 0, signal: int | None = None, **more: Any) -> None:
        key = (job.job_dir, job.attempt)
        if self.states[key].name == "running":
            self.states[key] = EngineState("exited", ExitReport(job.attempt, returncode, signal, "", **more))
            self._events.put(EngineEvent(job.job_dir, job.attempt, self.states[key]))

    def state(self, job_dir: Path, attempt: int) -> EngineState:
        return self.states.get((job_dir, attempt), EngineState("not_started"))

    def logs(self, job_dir: Path, offset: int = 0, limit: int = 1 << 20) -> LogChunk:
        return LogChunk(b"", offset)

    def cancel(self, job_dir: Path, attempt: int) -> None:
        self.canceled.append((job_dir.name, attempt))
        if self.state(job_dir, attempt).name == "running":
            self.on_cancel(self.jobs[job_dir, attempt])
            self.end(self.jobs[job_dir, attempt], None, 15, stopped=True)

    def events(self, timeout: float | None = None) -> EngineEvent | None:
        try:
            # Looks often, so that services stop soon.
            return self._events.get(timeout=min(timeout or 0.05, 0.05))
        except Empty:
            return None

    def capacity(self) -> Capacity:
        return Capacity(cpus=2, memory=1 << 30, gpus=self.gpus)

    @property
    def started(self) -> list[tuple[str, int]]:
        return [(folder.name, attempt) for folder, attempt in self.jobs]


class MemoryMlflow:
    """Keeps what it is told, idempotently, as MLflow does."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.metrics: dict[str, set[tuple[str, int, int, float]]] = {}
        self.down = False
        self.refused: set[str] = set()

    def _check(self, run_id: str) -> None:
        if self.down:
            raise ConnectionError("MLflow is down")
        if run_id in self.refused:
            error = RuntimeError("refused")
            error.status = 400  # type: ignore[attr-defined]
            raise error

    def ensure_run(self, workspace_id: str, experiment: str, run_id: str, **facts: Any) -> None:
        self._check(run_id)
        self.runs.setdefault(run_id, {"experiment": experiment, "status": "RUNNING", **facts})

    def log_metrics(self, workspace_id: str, run_id: str, rows: Any) -> None:
        self._check(run_id)
        assert run_id in self.runs
        for row in rows:
            entry = (row["key"], row["step"], row["timestamp"], row["value"])
            self.metrics.setdefault(run_id, set()).add(entry)

    def set_tags(self, workspace_id: str, run_id: str, tags: Any) -> None:
        self._check(run_id)
        self.runs[run_id]["tags"] = {**self.runs[run_id]["tags"], **tags}

    def finish_run(self, workspace_id: str, run_id: str, status: str, end_ms: int, tags: Any = None) -> None:
        self._check(run_id)
        self.runs[run_id].update(status=status, end_ms=end_ms)

    def metric_history(self, workspace_id: str, run_id: str) -> list[dict[str, Any]]:
        self._check(run_id)
        found = sorted(self.metrics.get(run_id, ()), key=lambda entry: entry[1:3])
        return [{"key": k, "step": s, "timestamp": t, "value": v} for k, s, t, v in found]


def train(engine: MemoryEngine, job: EngineJob) -> None:
    """A trial that ends well at once."""
    write_result(job.job_dir)
    engine.end(job)


def write_result(job_dir: Path, **changes: Any) -> None:
    result = {
        "primary_metric": "accuracy",
        "score": 0.9375001,
        "best_epoch": 1,
        "model_name": "resnet18",
        "epochs": 2,
        **changes,
    }
    rows = [{"key": "accuracy", "value": 0.5 + step / 10, "step": step, "timestamp": 7} for step in (0, 1)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    # The half line is what a killed process leaves.
    (job_dir / "metrics.jsonl").write_text(text + '{"key": "accu')
    (job_dir / "result.json").write_text(json.dumps(result))


def log_values(job_dir: Path, *values: float, key: str = "accuracy") -> None:
    """A trial logs these values of a metric, after those that it has logged."""
    path = job_dir / "metrics.jsonl"
    before = len(path.read_text().splitlines()) if path.exists() else 0
    rows = [
        {"key": key, "value": value, "step": before + number, "timestamp": 7}
        for number, value in enumerate(values)
    ]
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


MLTABLE = """\
paths:
  - file: ./train.jsonl
transformations:
  - read_json_lines:
      encoding: utf8
      invalid_lines: error
  - convert_column_types:
      - columns: image_url
        column_type: stream_info
"""


@dataclass
class Desk:
    """Everything that one test works with."""

    root: Path
    store: Store
    folder: DataFolder
    workspace: Workspace
    settings: Settings
    engine: Any = field(default_factory=MemoryEngine)
    mlflow: Any = field(default_factory=MemoryMlflow)
    trainer: list[str] | None = None
    services: list[JobService] = field(default_factory=list)

    def service(self, **more: Any) -> JobService:
        """A service, started unless `start` is False; it is stopped with the test."""
        start = more.pop("start", True)
        service = JobService(
            store=more.pop("store", self.store),
            folder=self.folder,
            settings=self.settings,
            engine=more.pop("engine", self.engine),
            mlflow=more.pop("mlflow", self.mlflow),
            resolver=Resolver(self.folder, self.store),
            issue_job_token=lambda workspace, run: f"token-of-{run}",
            trainer=self.trainer,
            mlflow_patience=more.pop("mlflow_patience", 30.0),
            **more,
        )
        if start:
            service.start()
        self.services.append(service)
        return service

    @property
    def blobs(self) -> Path:
        """The container of workspaceblobstore."""
        return self.folder.container(self.workspace.account, f"azureml-blobstore-{self.workspace.id}")

    def data(
        self,
        name: str = "train",
        rows: int = 12,
        extra: str = "",
        labels: Sequence[Any] = ("a", "b"),
        column: str = "label",
    ) -> str:
        """An MLTable folder in the default datastore whose rows have the `labels` in turn; its URI."""
        folder = self.blobs / name
        (folder / "images").mkdir(parents=True, exist_ok=True)
        lines = []
        for number in range(rows):
            (folder / "images" / f"{number}.jpg").write_bytes(b"image")
            row = {"image_url": f"./images/{number}.jpg", column: labels[number % len(labels)]}
            lines.append(json.dumps(row))
        (folder / "train.jsonl").write_text("".join(line + "\n" for line in lines) + extra)
        (folder / "MLTable").write_text(MLTABLE)
        return f"azureml://datastores/workspaceblobstore/paths/{name}"

    def body(self, **changes: Any) -> dict[str, Any]:
        """A submission as azure-ai-ml sends it; keys with dots change what lies deeper, None takes away."""
        body: dict[str, Any] = {
            "jobType": "AutoML",
            "displayName": "dn",
            "experimentName": "exp1",
            "description": "desc",
            "isArchived": False,
            "tags": {"a": "b"},
            "properties": {"p": "q"},
            "computeId": f"{self.workspace.arm_id}/computes/cpu-cluster",
            "outputs": {},
            "taskDetails": {
                "taskType": "ImageClassification",
                "primaryMetric": "Accuracy",
                "targetColumnName": "label",
                "logVerbosity": "Info",
                "trainingData": {
                    "jobInputType": "mltable",
                    "uri": "azureml://datastores/workspaceblobstore/paths/train",
                },
                "limitSettings": {"maxTrials": 1, "maxConcurrentTrials": 1, "timeout": "PT1H"},
                "modelSettings": {
                    "modelName": "resnet18",
                    "numberOfEpochs": 2,
                    "advancedSettings": '{"pretrained": false}',
                },
            },
        }
        for path, value in changes.items():
            *above, last = path.split(".")
            place = body
            for step in above:
                place = place.setdefault(step, {})
            if value is None:
                place.pop(last, None)
            else:
                place[last] = value
        return body

    def sweep(
        self, trials: int = 3, concurrent: int = 1, policy: Any = None, **changes: Any
    ) -> dict[str, Any]:
        """The same with so many trials, which differ in the learning rate."""
        details: dict[str, Any] = {
            "taskDetails.limitSettings": {
                "maxTrials": trials,
                "maxConcurrentTrials": concurrent,
                "timeout": "PT1H",
            },
            "taskDetails.searchSpace": [{"learningRate": "uniform(0.001, 0.1)"}],
            "taskDetails.sweepSettings": {"samplingAlgorithm": "Random", "earlyTermination": policy},
        }
        return self.body(**{**details, **changes})

    def running(self, name: str) -> EngineJob | None:
        """The order of a run's latest attempt, while it runs."""
        for (folder, _), job in reversed(list(self.engine.jobs.items())):
            if folder.name == name:
                state = self.engine.state(folder, job.attempt)
                return job if state.name == "running" else None
        return None

    def finish(self, name: str, score: float, **result: Any) -> None:
        """A running trial ends well."""
        job = self.running(name)
        assert job is not None, name
        (job.job_dir / "result.json").write_text(
            json.dumps({"primary_metric": "accuracy", "score": score, "model_name": "resnet18", **result})
        )
        self.engine.end(job)

    def hyperdrive(self, name: str = "job1_HD") -> str:
        """The sweep's log."""
        return (self.artifacts(name) / "azureml-logs/hyperdrive.txt").read_text()

    def children(self, name: str = "job1_HD") -> list[str]:
        found = self.store.read(lambda c: records.children(c, self.workspace.id, name))
        return [record.name for record in found]

    def record(self, name: str) -> JobRecord:
        record = self.store.read(lambda c: records.get(c, self.workspace.id, name))
        assert record is not None
        return record

    def states(self, name: str) -> list[str]:
        """Every state the job was in, oldest first."""
        history = self.store.read(lambda c: records.history(c, self.workspace.id, name))
        return [one.state.value for one in history]

    def job_dir(self, name: str) -> Path:
        return self.folder.job(self.workspace.id, name)

    def artifacts(self, name: str) -> Path:
        return self.folder.artifacts(self.workspace.account, name)


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What the condition says as soon as it says something true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError("it did not happen in time")


@pytest.fixture
def make_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Desk]]:
    desks: list[Desk] = []
    # Drawing takes a process that imports matplotlib: seconds for each sweep that ends.
    monkeypatch.setattr(sweep_end, "_draw", lambda *arguments: None)

    def make() -> Desk:
        root = tmp_path / f"data-{len(desks)}"
        folder = DataFolder(root)
        folder.create()
        store = Store(folder.database)
        workspace = Workspaces(store).add("sub-1", "group-1", "ws-1")
        desk = Desk(root, store, folder, workspace, Settings(data_dir=root))
        desks.append(desk)
        return desk

    yield make
    for desk in desks:
        for service in desk.services:
            service.stop()
        desk.store.close()
    left = [t.name for t in threading.enumerate() if t.name in ("scheduler", "tracking", "engine-events")]
    assert not left, left


@pytest.fixture
def desk(make_desk: Callable[[], Desk]) -> Desk:
    desk = make_desk()
    desk.data()
    return desk


@pytest.fixture
def helpers() -> Any:
    """The functions of this file, for tests that cannot import it."""

    class Helpers:
        pass

    found = Helpers()
    for function in (train, write_result, log_values, until):
        setattr(found, function.__name__, staticmethod(function).__func__)
    return found
