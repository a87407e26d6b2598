"""What the tests of command jobs share: making one, waiting for its end, and why it failed."""

from __future__ import annotations

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
