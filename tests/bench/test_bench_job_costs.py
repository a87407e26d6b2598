"""What one `echo hello` costs: states, processes and fsyncs, counted, not timed."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from amlocal.emulator.jobs.engines.local import LocalEngine
from amlocal.emulator.jobs.inputs import Resolver
from amlocal.emulator.jobs.service import JobService
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspaces import Workspaces

pytestmark = pytest.mark.bench

# The shim writes a file for the start and one for the end, each with an fsync of file and folder.
SHIM_FSYNCS = 4


class NoMlflow:
    """Takes everything and keeps nothing: MLflow's own writes are MLflow's."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_more: None


@contextmanager
def fsyncs(store: Store) -> Iterator[dict[str, int]]:
    """Counts this process's: `files` by os.fsync, `commits` of write transactions (WAL, FULL: one each)."""
    counts = {"files": 0, "commits": 0}
    lock, real = threading.Lock(), os.fsync

    def counted(descriptor: int) -> None:
        with lock:
            counts["files"] += 1
        real(descriptor)

    def committed(connection: Any) -> None:
        if connection.get_execution_options().get("amlocal_write"):
            with lock:
                counts["commits"] += 1

    event.listen(store._engine, "commit", committed)
    os.fsync = counted
    try:
        yield counts
    finally:
        os.fsync = real
        event.remove(store._engine, "commit", committed)


def job_costs(database: Path, job_dir: Path) -> dict[str, Any]:
    """`transitions` by the database, `spawns` by what the shim recorded: itself and the command."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        query = "SELECT COUNT(*) FROM transitions WHERE job = ?"
        transitions = connection.execute(query, (job_dir.name,)).fetchone()[0]
    started = [json.loads(path.read_text()) for path in job_dir.glob("attempt-*.started")]
    return {
        "transitions": transitions,
        "spawns": len({one[key] for one in started for key in ("pid", "shim_pid")}),
        "attempts": len(started),
    }


def test_what_echo_hello_costs(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.create()
    store = Store(folder.database)
    workspace = Workspaces(store).add("sub-1", "group-1", "ws-1")
    service = JobService(
        store=store,
        folder=folder,
        settings=Settings(data_dir=folder.root),
        engine=LocalEngine(),
        mlflow=NoMlflow(),
        resolver=Resolver(folder, store),
        issue_job_token=lambda _workspace, run: run,
    )
    service.start()
    try:
        body = {"jobType": "Command", "command": "echo hello", "environmentId": "azureml:host:1"}
        service.submit(workspace, "warm", body)
        service.wait_idle(120)
        with fsyncs(store) as counts:
            service.submit(workspace, "hello", body)
            service.wait_idle(120)
    finally:
        service.stop()
    costs = job_costs(folder.database, folder.job(workspace.id, "hello"))
    store.close()
    print(f"\necho hello: {costs}, fsyncs: {counts} in the server, {SHIM_FSYNCS} in the shim")
    assert (costs["transitions"], costs["spawns"], costs["attempts"]) == (7, 2, 1)
    assert 7 <= counts["commits"] <= 10 and counts["files"] > 0
