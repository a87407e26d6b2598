"""Deployments behind stored documents: an end for every operation, whatever happens to the work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.arm import documents
from amlocal.emulator.endpoints.deployment_records import DEPLOYMENTS
from amlocal.emulator.endpoints.deployments import Deployments
from amlocal.emulator.endpoints.scorers import ScorerSupervisor
from amlocal.emulator.http.operations import Operations
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspaces import Workspaces


class Resolver:
    """Fails as told; a fault of ours cannot be produced from outside."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def resolve(self, workspace: Any, uri: str) -> Path:
        raise self.error


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "db")
    yield store
    store.close()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError("the disk is gone"), "ResourceNotReady"),
        (RuntimeError("a fault of ours"), "InternalServerError"),
    ],
)
def test_a_failing_deployment_ends_its_operation(
    store: Store, tmp_path: Path, error: Exception, code: str
) -> None:
    folder = DataFolder(tmp_path)
    folder.create()
    workspaces = Workspaces(store)
    workspace = workspaces.add("s", "g", "ws")
    operations = Operations(store, "https://localhost:1")
    deployments = Deployments(
        store=store,
        folder=folder,
        resolver=Resolver(error),  # type: ignore[arg-type]
        workspaces=workspaces,
        operations=operations,
        scorers=ScorerSupervisor(tmp_path / "run"),
        routes=tmp_path / "routes.json",
    )
    settings = {
        "model": "m:1",
        "model_uri": "azureml:m:1",
        "instances": 1,
        "request_timeout_ms": 1000,
        "max_concurrent": 1,
    }
    body = {"properties": {"provisioningState": "Creating"}, "amlocal": settings}
    store.write(lambda c: documents.put(c, workspace.id, DEPLOYMENTS, "e/blue", "", body))
    operation = operations.start("e/blue")
    deployments.provision(workspace, "e/blue", operation)
    deadline = time.monotonic() + 60
    while (row := operations.get(operation))["status"] == "InProgress":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert row["status"] == "Failed" and f'"{code}"' in row["error"]
    deployments.stop()
