"""Assets of outputs: made in the write that ends the job, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.arm import documents
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import command_request, outputs, records
from amlocal.emulator.jobs.runners.base import JobFailure
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.workspace import Workspace
from amlocal.emulator.store.workspaces import Workspaces

BODY = {
    "jobType": "Command",
    "command": "true",
    "environmentId": "azureml:host:1",
    "outputs": {
        "d": {"jobOutputType": "uri_folder", "assetName": "Kept", "description": "mine"},
        "m": {"jobOutputType": "custom_model", "assetName": "model", "assetVersion": "5"},
        "plain": {"jobOutputType": "uri_file"},
        "default": {"jobOutputType": "uri_folder", "uri": "azureml://datastores/workspaceblobstore/paths/x"},
    },
}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = Store(tmp_path / "db")
    yield store
    store.close()


@pytest.fixture
def workspace(store: Store) -> Workspace:
    return Workspaces(store).add("00000000-0000-0000-0000-000000000000", "local", "local")


def running(store: Store, workspace: Workspace, name: str) -> records.JobRecord:
    def write(c: Any) -> records.JobRecord:
        record = records.insert_job(
            c,
            workspace_id=workspace.id,
            name=name,
            kind="command",
            experiment="e",
            display_name=name,
            compute="local",
            body=BODY,
        )
        for state in (JobState.PREPARING, JobState.QUEUED, JobState.STARTING, JobState.RUNNING):
            record = records.transition(c, record, state)
        return record

    return store.write(write)


def test_versions_count_on_and_are_shown(store: Store, workspace: Workspace) -> None:
    job = command_request.read(BODY)
    first = running(store, workspace, "first")
    made = store.write(lambda c: outputs.register(c, workspace, first, job.outputs, {"d": {}, "m": {}}))
    assert made == {"amlocal.outputs.d.version": "1", "amlocal.outputs.m.version": "5"}
    second = running(store, workspace, "second")
    made = store.write(lambda c: outputs.register(c, workspace, second, job.outputs, {"d": {}}))
    assert made == {"amlocal.outputs.d.version": "2"}
    asset = store.read(lambda c: documents.get(c, workspace.id, "data", "kept", "1"))
    assert asset is not None
    assert asset.properties["description"] == "mine" and asset.properties["dataType"] == "uri_folder"
    assert asset.properties["dataUri"] == (
        "azureml://subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/local/workspaces/local"
        "/datastores/workspaceblobstore/paths/azureml/first/d/"
    )
    ended = store.write(lambda c: records.patch(c, second, properties=made))
    shown = outputs.shown(ended)
    assert sorted(shown) == ["d", "m", "plain"]
    assert (shown["d"]["assetVersion"], shown["m"]["assetVersion"]) == ("2", "5")


def test_a_version_taken_meanwhile_leaves_nothing(store: Store, workspace: Workspace) -> None:
    job = command_request.read(BODY)
    outputs.check(store, workspace, job.outputs)
    store.write(lambda c: documents.put(c, workspace.id, "models", "MODEL", "5", {"properties": {}}))
    with pytest.raises(AzureError, match="has a version 5 already"):
        outputs.check(store, workspace, job.outputs)
    late = running(store, workspace, "late")
    with pytest.raises(JobFailure, match="has a version 5 already"):
        store.write(lambda c: outputs.register(c, workspace, late, job.outputs, {"d": {}, "m": {}}))
    assert store.read(lambda c: documents.get(c, workspace.id, "data", "kept", "1")) is None


def test_what_can_be_downloaded(store: Store, workspace: Workspace) -> None:
    job = running(store, workspace, "j")
    assert outputs.downloadable(job) == {"d": "uri_folder", "m": "uri_folder", "plain": "uri_file"}
    for state in (JobState.FINALIZING, JobState.COMPLETED):
        current = job
        job = store.write(lambda c, r=current, s=state: records.transition(c, r, s))  # type: ignore[misc]
    assert outputs.downloadable(job)["default"] == "uri_folder"


def test_two_outputs_cannot_become_the_same_version(store: Store, workspace: Workspace) -> None:
    twice = {"jobOutputType": "uri_folder", "assetName": "a", "assetVersion": "1"}
    job = command_request.read({**BODY, "outputs": {"x": twice, "y": {**twice, "assetName": "A"}}})
    with pytest.raises(AzureError, match=r"outputs\.y: another output"):
        outputs.check(store, workspace, job.outputs)


def test_an_input_without_value_is_absent() -> None:
    inputs = {"a": {"jobInputType": "literal", "value": None}, "b": {"jobInputType": "literal", "value": 7}}
    body = {**BODY, "command": "echo $[[${{inputs.a}}]] ${{inputs.b}}", "inputs": inputs}
    assert {name: spec.value for name, spec in command_request.read(body).inputs.items()} == {"b": "7"}
    with pytest.raises(AzureError, match="names no input"):
        command_request.read({**body, "command": "echo ${{inputs.a}}"})
    with pytest.raises(AzureError, match="must be one of ro_mount"):
        wrong = {"jobInputType": "uri_file", "uri": "azureml:a:1", "mode": "Borrow"}
        command_request.read({**BODY, "inputs": {"x": wrong}})
