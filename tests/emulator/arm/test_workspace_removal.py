"""What keeps a workspace from being deleted, and what its removal takes away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from amlocal.emulator.arm import documents
from amlocal.emulator.arm.workspace_actions import _check_idle
from amlocal.emulator.endpoints.deployment_records import DEPLOYMENTS
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import records
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.store import removal, tables
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace
from amlocal.emulator.store.workspaces import Workspaces


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    found = DataFolder(tmp_path / "data")
    found.create()
    return found


@pytest.fixture
def store(folder: DataFolder) -> Iterator[Store]:
    found = Store(folder.database)
    yield found
    found.close()


def job(store: Store, workspace: Workspace, state: JobState) -> None:
    def write(c: Any) -> None:
        records.insert_job(
            c,
            workspace_id=workspace.id,
            name="a-job",
            kind="command",
            state=state,
            experiment="e",
            display_name="d",
            compute="cpu-cluster",
            body={},
            tags={},
            properties={},
        )

    store.write(write)


def rows(store: Store) -> dict[str, int]:
    def count(c: Any) -> dict[str, int]:
        return {
            name: c.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in tables.metadata.tables.items()
            if "workspace_id" in table.c
        }

    return store.read(count)


def test_an_unfinished_job_keeps_its_workspace(store: Store) -> None:
    workspaces = Workspaces(store)
    workspace = workspaces.add("s", "g", "ws")
    job(store, workspace, JobState.QUEUED)
    before = rows(store)
    with pytest.raises(AzureError, match=r"unfinished jobs \(a-job\)") as caught:
        workspaces.remove(workspace, lambda c: _check_idle(c, workspace))
    assert caught.value.status == 409 and rows(store) == before
    assert workspaces.find("s", "g", "ws") == workspace


def test_a_deployment_keeps_its_workspace(store: Store) -> None:
    workspaces = Workspaces(store)
    workspace = workspaces.add("s", "g", "ws")
    store.write(lambda c: documents.put(c, workspace.id, DEPLOYMENTS, "e/blue", "", {"properties": {}}))
    with pytest.raises(AzureError, match=r"online deployments \(e/blue\)") as caught:
        workspaces.remove(workspace, lambda c: _check_idle(c, workspace))
    assert caught.value.status == 409 and workspaces.find("s", "g", "ws") == workspace


def test_every_row_goes_and_only_its_own(store: Store) -> None:
    workspaces = Workspaces(store)
    workspace, other = workspaces.add("s", "g", "ws"), workspaces.add("s", "g", "other")
    job(store, workspace, JobState.COMPLETED)
    for one in (workspace, other):
        store.write(lambda c, w=one: documents.put(c, w.id, "data", "d", "1", {"properties": {}}))
    store.write(
        lambda c: c.execute(
            insert(tables.transitions).values(
                workspace_id=other.id, job="x", state="Completed", at="2026-01-01", why=""
            )
        )
    )
    workspaces.remove(workspace, lambda c: _check_idle(c, workspace))
    left = rows(store)
    assert (left["resources"], left["jobs"], left["transitions"]) == (1, 0, 1)
    assert workspaces.find("s", "g", "ws") is None and workspaces.find("s", "g", "other") == other
    for lookup in (lambda: workspaces.by_account(workspace.account), lambda: workspaces.body(workspace)):
        with pytest.raises(AzureError) as caught:
            lookup()
        assert caught.value.status == 404
    again = workspaces.add("s", "g", "ws")
    assert again.id != workspace.id and workspaces.find("S", "G", "WS") == again


def test_folders_go_after_a_crash_between_rows_and_folders(
    store: Store, folder: DataFolder, tmp_path: Path
) -> None:
    workspaces = Workspaces(store)
    workspace, other = workspaces.add("s", "g", "ws"), workspaces.add("s", "g", "other")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    for one in (workspace, other):
        for path in (folder.blobs / one.account / "c", folder.jobs / one.id / "j"):
            path.mkdir(parents=True)
            (path / "link").symlink_to(outside)
    removal.announce(folder, other)  # its rows stay: this removal did not come about
    removal.announce(folder, workspace)
    workspaces.remove(workspace, lambda c: None)
    removal.sweep(folder, workspaces)
    assert not (folder.blobs / workspace.account).exists() and not (folder.jobs / workspace.id).exists()
    assert (folder.blobs / other.account / "c").is_dir() and (folder.jobs / other.id / "j").is_dir()
    assert (outside / "precious").read_text() == "mine"
    assert list((folder.tmp / "removals").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove anything")
def test_what_cannot_go_is_tried_again(store: Store, folder: DataFolder) -> None:
    workspaces = Workspaces(store)
    workspace = workspaces.add("s", "g", "ws")
    path = folder.jobs / workspace.id / "j"
    (path / "below").mkdir(parents=True)
    removal.announce(folder, workspace)
    workspaces.remove(workspace, lambda c: None)
    path.chmod(0o500)
    removal.sweep(folder, workspaces)
    assert path.exists()
    path.chmod(0o700)
    removal.sweep(folder, workspaces)
    assert not path.exists()
