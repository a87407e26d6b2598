"""Processes killed at random moments, drawn from a seed, on one data folder: nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Server, wait_for
from living import gone
from raw_client import (
    ENDED,
    RawClient,
    command_job,
    data_asset,
    integrity,
    kill,
    supervisor_pid,
    worker_pid,
)

PATIENCE = 120.0
# Writes of one workload: more would only make the checks long.
MOST = 60
VICTIMS = ("worker", "main", "both", "mlflow", "shim")


@dataclass
class Facts:
    """What the server acknowledged, and what it was merely asked for."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    assets: set[str] = field(default_factory=set)
    jobs: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)


class Workload(threading.Thread):
    """Writes until it is stopped or has written enough; a broken connection is no failure, a 5xx is one."""

    def __init__(self, server: Server, number: int, marks: Path, facts: Facts) -> None:
        super().__init__(daemon=True)
        self.server, self.number, self.marks, self.facts = server, number, marks, facts
        self.stopped = threading.Event()
        self.client = RawClient(server, timeout=10)

    def run(self) -> None:
        for step in range(1, MOST + 1):
            if self.stopped.is_set():
                return
            with contextlib.suppress(OSError):
                self.once(f"w{self.number}-{step}", step)

    def once(self, name: str, step: int) -> None:
        content = (name * 200).encode()
        self.facts.asked.add(name)
        if self.told(201, *self.client.put_blob(f"kills/{name}", content)):
            self.facts.blobs[f"kills/{name}"] = content
        if f"kills/{name}" in self.facts.blobs and self.told(
            201, *self.client.arm("PUT", f"data/{name}/versions/1", data_asset(f"kills/{name}"))
        ):
            self.facts.assets.add(name)
        if step % 6 == 1:
            body = command_job(
                f"echo x >> {self.marks / name}; sleep 0.{self.number + 1}; echo r > outputs/r"
            )
            if self.told(201, *self.client.arm("PUT", f"jobs/{name}", body)):
                self.facts.jobs.add(name)

    def told(self, wanted: int, status: int, answer: Any) -> bool:
        if status >= 500:
            self.facts.refused.append(f"{status} {answer}")
        return status == wanted


def victims(server: Server, kind: str) -> list[int]:
    main = supervisor_pid(server)
    worker = worker_pid(server)
    if kind == "main":
        return [main]
    if kind == "both":
        return [pid for pid in (worker, main) if pid]
    if kind == "worker":
        return [worker] if worker else []
    below = psutil.Process(main).children(recursive=True) if psutil.pid_exists(main) else []
    word = "mlflow_process" if kind == "mlflow" else str(server.folder.jobs)
    found = []
    for process in below:
        with contextlib.suppress(psutil.Error):
            if any(word in part for part in process.cmdline()):
                found.append(process.pid)
    return found[:1]


def strike(server: Server, kind: str) -> bool:
    """Kill, and bring the server back where it does not come back by itself. Whether there was a victim."""
    main = supervisor_pid(server)
    pids = victims(server, kind)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            kill(pid)
    for pid in pids:
        wait_for(lambda pid=pid: gone(pid), PATIENCE, "the end of the victim")
    if kind in ("main", "both"):
        server.start()
    elif wait_for(lambda: worker_pid(server) or (gone(main) and "given up"), PATIENCE, "news") == "given up":
        # It gives up a worker that died many times in a row right after its start, as here by chance.
        server.start()
    wait_for(lambda: worker_pid(server), PATIENCE, "a worker")
    return bool(pids)


def check(server: Server, facts: Facts, marks: Path, shims_killed: int) -> None:
    client = RawClient(server, timeout=60)
    assert facts.refused == []
    for name, content in facts.blobs.items():
        assert client.raw("GET", client.blob_path(name))[:2] == (200, content), name
    shown = set(client.blobs("kills/"))
    # What was asked for and not acknowledged may be there, but then whole.
    assert shown >= facts.blobs.keys() and {name.partition("/")[2] for name in shown} <= facts.asked
    for name in shown:
        assert client.raw("GET", client.blob_path(name))[1] == (name.partition("/")[2] * 200).encode(), name
    listed = {item["name"] for item in client.all("data")}
    assert facts.assets <= listed <= facts.asked
    found: dict[str, dict[str, Any]] = {}

    def all_ended() -> bool:
        found.clear()
        found.update({item["name"]: item["properties"] for item in client.all("jobs")})
        return all(job["status"] in ENDED for job in found.values())

    wait_for(all_ended, PATIENCE * 2, "the end of all jobs")
    assert facts.jobs <= found.keys() <= facts.asked
    failed = [name for name, job in found.items() if job["status"] != "Completed"]
    assert len(failed) <= shims_killed, failed
    for name in failed:
        path = f"/history/v1.0{client.workspace}/runs/{name}/details"
        status, body, _ = client.raw("GET", path)
        message = json.loads(body)["error"]["error"]["message"]
        assert status == 200 and ("without a trace" in message or "could not be started" in message), message
    for name, job in found.items():
        mark = marks / name
        starts = len(mark.read_text().splitlines()) if mark.exists() else 0
        assert starts == 1 if job["status"] == "Completed" else starts <= 1, (name, starts)
    assert {mark.name for mark in marks.iterdir()} <= found.keys()
    assert set(integrity(server)) == {"ok"}
    client.close()


@pytest.mark.parametrize(
    ("number", "seed"), [(4, 1), pytest.param(200, 2, marks=pytest.mark.slow)], ids=["4", "200"]
)
@pytest.mark.timeout(3600)
def test_random_kills(new_server: Callable[[], Server], tmp_path: Path, number: int, seed: int) -> None:
    chance = random.Random(seed)
    marks = tmp_path / "marks"
    marks.mkdir()
    server = new_server()
    server.start()
    facts = Facts()
    # The first ones in order, so that even a few kills are of every kind that can lose something.
    kinds = [*VICTIMS[:3], "shim", *(chance.choice(VICTIMS) for _ in range(number))][:number]
    shims = 0
    for turn, kind in enumerate(kinds):
        workers = [Workload(server, turn * 4 + index, marks, facts) for index in range(2)]
        for worker in workers:
            worker.start()
        moment = time.monotonic() + chance.uniform(0.05, 1.5)
        wait_for(lambda moment=moment: time.monotonic() >= moment, 5, "the moment")
        if strike(server, kind) and kind == "shim":
            shims += 1
        for worker in workers:
            worker.stopped.set()
            worker.join(30)
            worker.client.close()
        if turn % 20 == 19:
            check(server, facts, marks, shims)
    check(server, facts, marks, shims)
    assert len(facts.blobs) >= number and facts.jobs
    server.stop()
