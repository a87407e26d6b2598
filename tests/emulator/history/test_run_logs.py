"""Which log tells a job's story, and under which names clients find it."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from amlocal.emulator.history import logs
from amlocal.emulator.jobs import records
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspaces import Workspaces

USER, HYPERDRIVE = "user_logs/std_log.txt", "azureml-logs/hyperdrive.txt"


class Signer:
    """The signature is no part of what is asked here."""

    def sign(self, account: str, container: str, permissions: str, expires: datetime, blob: str) -> str:
        return f"sas={permissions}"


class Room:
    """Jobs in a real store; `add` makes a run and the logs that it has."""

    def __init__(self, folder: DataFolder) -> None:
        folder.create()
        store = Store(folder.database)
        self.workspace = Workspaces(store).add("sub", "group", "name")
        settings = SimpleNamespace(base_url="https://localhost:1")
        self.services: Any = SimpleNamespace(store=store, folder=folder, sas=Signer(), settings=settings)

    def add(self, name: str, parent: str | None, kind: str, *written: str, most: str = "") -> JobRecord:
        tags = {"_aml_system_max_total_jobs": most} if most else {}
        for path in written:
            file = self.services.folder.artifacts(self.workspace.account, name) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(name)
        record: JobRecord = self.services.store.write(
            lambda c: records.insert_job(
                c,
                workspace_id=self.workspace.id,
                name=name,
                parent=parent,
                kind=kind,
                experiment="e",
                display_name=name,
                compute="local",
                body={},
                tags=tags,
            )
        )
        return record

    def links(self, record: JobRecord) -> dict[str, str]:
        """Names to `run/path` of the artifact behind it."""
        found = logs.links(self.services, self.workspace, record)
        start = f"https://localhost:1/{self.workspace.account}/azureml/ExperimentRun/dcid."
        return {name: url.removeprefix(start).partition("?")[0] for name, url in found.items()}


@pytest.fixture
def room(tmp_path):
    made = Room(DataFolder(tmp_path))
    yield made
    made.services.store.close()


def test_an_automl_job_of_one_trial_shows_the_trial(room):
    job = room.add("job", None, "automl")
    assert room.links(job) == {}
    sweep = room.add("job_HD", "job", "sweep", HYPERDRIVE, most="1")
    assert room.links(job) == {}
    trial = room.add("job_HD_0", "job_HD", "trial", USER)
    assert room.links(job) == {USER: f"job_HD_0/{USER}"}
    assert room.links(sweep) == {HYPERDRIVE: f"job_HD/{HYPERDRIVE}", USER: f"job_HD_0/{USER}"}
    assert room.links(trial) == {USER: f"job_HD_0/{USER}"}


def test_an_automl_job_of_several_trials_shows_the_sweep(room):
    """Of an AutoML job clients stream user_logs only: there stands the log of its sweep."""
    job = room.add("job", None, "automl")
    sweep = room.add("job_HD", "job", "sweep", HYPERDRIVE, most="2")
    trial = room.add("job_HD_0", "job_HD", "trial", USER)
    assert room.links(job) == {USER: f"job_HD/{HYPERDRIVE}"}
    assert room.links(sweep) == {HYPERDRIVE: f"job_HD/{HYPERDRIVE}"}
    assert room.links(trial) == {USER: f"job_HD_0/{USER}"}


@pytest.mark.parametrize("most", ["", "1", "20"])
def test_a_sweep_job_shows_its_own_log_only(room, most):
    job = room.add("job", None, "sweep", HYPERDRIVE, most=most)
    room.add("job_0", "job", "command", USER)
    assert room.links(job) == {HYPERDRIVE: f"job/{HYPERDRIVE}"}


def test_an_own_log_is_never_replaced(room):
    job = room.add("job", None, "automl", USER)
    room.add("job_HD", "job", "sweep", HYPERDRIVE, most="2")
    assert room.links(job) == {USER: f"job/{USER}"}
