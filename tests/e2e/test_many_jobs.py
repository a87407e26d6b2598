"""Five hundred command jobs through the slots: all end well, and nothing of them is left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for


def counted(pid: int) -> tuple[int, int]:
    """Open descriptors and children of a process."""
    children = [
        entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit() and _parent(entry) == pid
    ]
    return len(os.listdir(f"/proc/{pid}/fd")), len(children)


def _parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return -1


def _names(entry: Path, folder: Path) -> bool:
    """Whether a process's command or environment names a folder."""
    try:
        return str(folder).encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
    except OSError:
        return False


def worker_of(server: Any) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"amlocal.emulator.worker" in line and str(server.root).encode() in line:
                return int(entry.name)
    raise AssertionError("the server's worker was not found")


@pytest.mark.slow
def test_five_hundred_jobs_leave_nothing(new_server: Callable[[], Any]) -> None:
    server = new_server()
    server.start()
    body = {"properties": {"jobType": "Command", "command": "true", "environmentId": "azureml:host:1"}}

    def run(names: list[str]) -> None:
        for name in names:
            code, answer = server.call("PUT", f"{server.workspace_path}/jobs/{name}", body)
            assert code == 201, answer
        left = set(names)

        def step() -> bool:
            for name in sorted(left):
                code, job = server.call("GET", f"{server.workspace_path}/jobs/{name}")
                assert code == 200 and job["properties"]["status"] not in ("Failed", "Canceled"), job
                if job["properties"]["status"] != "Completed":
                    return False
                left.discard(name)
            return True

        wait_for(step, 900, f"{len(names)} jobs")

    run([f"warm-{number}" for number in range(10)])
    before = counted(worker_of(server))
    names = [f"true-{number}" for number in range(500)]
    run(names)
    wait_for(lambda: counted(worker_of(server))[1] <= before[1], 90, "the end of the last shims")
    # Connections of the database's pool and of clients may come and go; nothing may be left per job.
    wait_for(lambda: counted(worker_of(server))[0] <= before[0] + 10, 90, "closed descriptors")
    left = [
        entry
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _names(entry, server.folder.jobs)
    ]
    assert left == [] and list(server.folder.jobs.glob("*/true-*/wd")) == []
    assert len(list(server.folder.jobs.glob("*/true-*/exit-1.json"))) == 500
