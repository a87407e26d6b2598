"""What the tests of command jobs share: making one, its end, why it failed, what it left running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import wait_for


def make(command: str, **more: Any) -> Any:
    """A command job in this installation's Python, not submitted yet."""
    from azure.ai.ml import command as job

    return job(**{"command": command, "environment": "azureml:host:1", "compute": "cpu-cluster", **more})


def ended(ml_client: Any, name: str, seconds: float = 240) -> Any:
    """The job once it has ended, however."""

    def done() -> Any:
        job = ml_client.jobs.get(name)
        return job if job.status in ("Completed", "Failed", "Canceled") else None

    return wait_for(done, seconds, f"the end of {name}")


def message(server: Any, name: str) -> str:
    """The reason of a failed job, as run history tells it."""
    _, details = server.call("GET", f"/history/v1.0{server.workspace_path}/runs/{name}/details")
    return str(details["error"]["error"]["message"])


def processes_of(job: str, *, shim: bool = True) -> list[int]:
    """Processes that carry the mark of the job, or (`shim`) are its shim or launcher."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
            except OSError:
                continue
            marked = f"/{job}:1".encode() in environ
            named = f"/{job}\0".encode() in command or f"/{job}/".encode() in command
            if marked or (shim and named):
                found.append(int(entry.name))
    return found


def check_all_ended(job: str) -> None:
    """Nothing that an ended job has started lives; its shim may be about to exit."""
    assert processes_of(job, shim=False) == []
    wait_for(lambda: not processes_of(job), 30, "the end of the shim")
