"""Where crashes happen: a server that dies on order, a client, and what is checked afterwards."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from living import gone
from raw_client import ENDED, RawClient, command_job, integrity, worker_pid

PATIENCE = 60.0
# The main process gives a worker up that dies again and again right after its start.
OLD_ENOUGH = 5.2


@dataclass
class Room:
    """A server whose worker can be told where to die, and a client of it."""

    server: Any
    order: Path
    marks: Path
    client: RawClient
    number: int = 0
    quick: int = 0
    born: float = field(default_factory=time.monotonic)

    def new(self, kind: str) -> str:
        self.number += 1
        return f"{kind}{self.number}"

    def arm(self, point: str) -> None:
        self.order.write_text(point)

    def unanswered(self, point: str, call: Callable[[], Any]) -> None:
        """`call` is on its way when the worker dies at `point`: it must not be answered."""
        pid = self.ready()
        self.arm(point)
        with pytest.raises(OSError):
            call()
        self.reborn(pid)

    def ready(self) -> int:
        """The worker's pid, once it may die again."""
        if self.quick >= 2:
            wait_for(lambda: time.monotonic() - self.born > OLD_ENOUGH, OLD_ENOUGH + 1, "a grown worker")
            self.quick = 0
        pid = worker_pid(self.server)
        assert pid is not None
        return pid

    def reborn(self, pid: int) -> None:
        """The order was carried out: that worker is dead by a kill, and another one answers."""
        wait_for(lambda: not self.order.exists(), PATIENCE, "the crash")
        wait_for(lambda: gone(pid), PATIENCE, "the end of the worker")
        self.client.close()
        new = wait_for(lambda: worker_pid(self.server), PATIENCE, "a new worker")
        assert new != pid
        said = (self.server.folder.logs / "supervisor.log").read_text()
        assert "the worker process ended (exit code -9)" in said
        self.quick = self.quick + 1 if time.monotonic() - self.born < OLD_ENOUGH else 1
        self.born = time.monotonic()

    def crash(self, point: str, call: Callable[[], Any]) -> bool:
        """`call` sets something off in the course of which the worker dies; whether it was answered."""
        pid = self.ready()
        self.arm(point)
        answered = False
        with contextlib.suppress(OSError):
            status, body = call()
            assert status in (200, 201, 202), body
            answered = True
        self.reborn(pid)
        return answered

    # Jobs leave a line in a file of ours for each time that they are started.

    def marking(self, name: str, then: str) -> dict[str, Any]:
        return command_job(f"echo started >> {self.marks / name}; {then}")

    def starts(self, name: str) -> int:
        mark = self.marks / name
        return len(mark.read_text().splitlines()) if mark.exists() else 0

    def ended(self, name: str) -> dict[str, Any]:
        def look() -> Any:
            status, body = self.client.arm("GET", f"jobs/{name}")
            assert status == 200, body
            return body["properties"] if body["properties"]["status"] in ENDED else None

        return wait_for(look, PATIENCE, f"the end of {name}")

    def message(self, name: str) -> str:
        path = f"/history/v1.0{self.client.workspace}/runs/{name}/details"
        status, body, _ = self.client.raw("GET", path)
        assert status == 200, body
        return str(json.loads(body)["error"]["error"]["message"])

    def check(self) -> None:
        """Whatever happened: databases whole, no leftover shown, listings readable."""
        assert set(integrity(self.server)) == {"ok"}
        assert [name for name in self.client.blobs() if ".part" in name or "/." in name] == []
        hidden = [
            path
            for path in (self.server.folder.blobs).rglob(".*")
            if path.is_file() and "ExperimentRun" in path.parts
        ]
        assert hidden == []
        assert list((self.server.folder.tmp / "uploads").iterdir()) == []
        for kind in ("data", "jobs", "models", "onlineEndpoints", "datastores"):
            for item in self.client.all(kind):
                assert item["name"] and item["properties"], item
