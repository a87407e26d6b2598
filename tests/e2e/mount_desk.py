"""A user's folders for the tests of mounting, and the clients that reach them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.ai.ml import command
from azure.storage.blob import ContainerClient
from conftest import wait_for

QUICK = {"retry_total": 0}


def configure(server: Any, allowed: list[Path]) -> None:
    """Starts the server anew with these folders allowed."""
    lines = [] if not allowed else [f"allow_paths = {json.dumps([str(path) for path in allowed])}"]
    (server.root / "config.toml").write_text("\n".join(lines))
    server.stop()
    server.start()


@dataclass
class Desk:
    """A folder of a user below an allowed one, and the commands on it."""

    server: Any
    allowed: Path
    outside: Path

    def run(self, *arguments: str) -> Any:
        return self.server.command("datastore", *arguments, "--data-dir", str(self.server.root))

    def mount(self, name: str, *more: str, folder: Path | None = None) -> Path:
        folder = folder or self.allowed / name
        folder.mkdir(exist_ok=True)
        done = self.run("mount", name, str(folder), *more)
        assert done.returncode == 0, done.stderr
        return folder

    def refused(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
        return done.stderr


def opened(server: Any, make: Callable[[str], Path]) -> Iterator[Desk]:
    """A desk on the server, which is started anew for it; for a fixture."""
    allowed = make("datasets")
    configure(server, [allowed])
    yield Desk(server, allowed, make("outside"))
    (server.root / "config.toml").unlink()


def container(ml_client: Any, server: Any, name: str) -> ContainerClient:
    """The container of a datastore as azure-ai-ml would reach it."""
    store = ml_client.datastores.get(name, include_secrets=True)
    return ContainerClient(
        f"https://{store.account_name}.blob.core.windows.net",
        store.container_name,
        credential=store.credentials.sas_token,
        connection_verify=str(server.folder.tls / "ca.pem"),
        **QUICK,
    )


def with_token(ml_client: Any, server: Any, name: str) -> ContainerClient:
    """The same with a bearer token, which opens more than the datastore's own signature."""
    from azure.identity import DefaultAzureCredential

    store = ml_client.datastores.get(name)
    return ContainerClient(
        f"https://{store.account_name}.blob.core.windows.net",
        store.container_name,
        credential=DefaultAzureCredential(),
        connection_verify=str(server.folder.tls / "ca.pem"),
        **QUICK,
    )


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def run(ml_client: Any, text: str, **more: Any) -> Any:
    job = ml_client.jobs.create_or_update(
        command(command=text, environment="azureml:host:1", compute="cpu-cluster", **more)
    )

    def done() -> Any:
        now = ml_client.jobs.get(job.name)
        return now if now.status in ("Completed", "Failed", "Canceled") else None

    return wait_for(done, 60, f"the end of {job.name}")


def unchanged() -> Any:
    from azure.core import MatchConditions

    return MatchConditions.IfNotModified
