"""References to data become paths inside the workspace's own containers, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.arm import documents
from amlocal.emulator.jobs.inputs import InputError, Resolver

LONG = (
    "azureml://subscriptions/{}/resourcegroups/{}/workspaces/{}/datastores/workspaceblobstore/paths/a/b.txt"
)


@pytest.fixture
def resolver(desk: Any) -> Resolver:
    return Resolver(desk.folder, desk.store)


def put(desk: Any, kind: str, name: str, version: str, properties: dict[str, Any], **more: Any) -> None:
    body = {"properties": properties}
    desk.store.write(lambda c: documents.put(c, desk.workspace.id, kind, name, version, body, **more))


def test_forms_of_a_datastore_path(desk: Any, resolver: Resolver) -> None:
    expected = desk.blobs / "a/b.txt"
    own = desk.workspace
    for uri in (
        "azureml://datastores/workspaceblobstore/paths/a/b.txt",
        "azureml://datastores/WorkspaceBlobStore/paths/a//b.txt",
        LONG.format(own.subscription, own.resource_group, own.name),
        LONG.format("SUB-1", "Group-1", "WS-1"),
    ):
        assert resolver.resolve(own, uri) == expected
    assert resolver.resolve(own, "azureml://datastores/workspaceblobstore/paths/") == desk.blobs
    artifacts = resolver.resolve(
        own, "azureml://datastores/workspaceartifactstore/paths/ExperimentRun/dcid.j/x"
    )
    assert artifacts == desk.folder.artifacts(own.account, "j") / "x"


def test_outputs_of_a_job(desk: Any, resolver: Resolver) -> None:
    service = desk.service(start=False)
    service.submit(desk.workspace, "job1", desk.body())
    expected = desk.artifacts("job1") / "outputs/mlflow-model"
    for middle in ("paths/", ""):
        uri = f"azureml://jobs/job1/outputs/artifacts/{middle}outputs/mlflow-model/"
        assert resolver.resolve(desk.workspace, uri) == expected
    with pytest.raises(InputError, match="has no job 'job2'"):
        resolver.resolve(desk.workspace, "azureml://jobs/job2/outputs/artifacts/paths/x")
    with pytest.raises(InputError, match="has no output 'best'"):
        resolver.resolve(desk.workspace, "azureml://jobs/job1/outputs/best/paths/x")


def test_data_assets(desk: Any, resolver: Resolver) -> None:
    base = "azureml://datastores/workspaceblobstore/paths"
    for version, archived in (("1", False), ("3", False), ("2", False), ("9", True)):
        put(desk, "data", "digits", version, {"dataUri": f"{base}/v{version}"}, archived=archived)
    assert resolver.resolve(desk.workspace, "azureml:digits:1") == desk.blobs / "v1"
    assert resolver.resolve(desk.workspace, "azureml:Digits@latest") == desk.blobs / "v2"
    assert resolver.resolve(desk.workspace, "azureml:digits:9") == desk.blobs / "v9"
    assert (
        resolver.resolve(desk.workspace, f"{desk.workspace.arm_id}/data/digits/versions/3")
        == desk.blobs / "v3"
    )
    put(desk, "data", "loop", "1", {"dataUri": "azureml:loop:1"})
    put(desk, "data", "bare", "1", {})
    for uri, text in (
        ("azureml:loop:1", "names a data asset again"),
        ("azureml:bare:1", "has no dataUri"),
        ("azureml:digits@stable", "only label is latest"),
        ("azureml:digits:4", "has no version 4"),
        (f"{desk.workspace.arm_id}/components/digits/versions/3", "names one of the components"),
        ("azureml://registries/azureml/data/x/versions/1", "registries are not there yet"),
    ):
        with pytest.raises(InputError, match=text):
            resolver.resolve(desk.workspace, uri)


def test_datastores_that_users_made(desk: Any, resolver: Resolver) -> None:
    own = desk.workspace
    put(
        desk,
        "datastores",
        "mine",
        "",
        {"accountName": f"localhost:4265/{own.account}", "containerName": "my-data"},
    )
    assert (
        resolver.resolve(own, "azureml://datastores/mine/paths/x")
        == desk.folder.container(own.account, "my-data") / "x"
    )
    put(desk, "datastores", "plain", "", {"accountName": own.account, "containerName": "my-data"})
    assert resolver.resolve(own, "azureml://datastores/plain/paths/").name == "my-data"
    put(desk, "datastores", "theirs", "", {"accountName": "aml000000000000", "containerName": "my-data"})
    put(desk, "datastores", "odd", "", {"accountName": own.account, "containerName": "../x"})
    put(desk, "datastores", "lake", "", {"datastoreType": "AzureDataLakeGen2", "accountName": own.account})
    for name, text in (
        ("theirs", "outside this workspace"),
        ("odd", "no usable container"),
        ("lake", "DataLake"),
    ):
        with pytest.raises(InputError, match=text):
            resolver.resolve(own, f"azureml://datastores/{name}/paths/x")


def test_another_workspace_is_refused_known_or_not(desk: Any, resolver: Resolver) -> None:
    from amlocal.emulator.store.workspaces import Workspaces

    with pytest.raises(InputError, match=r"sub-2/g/w.*'amlocal workspace add sub-2/g/w'"):
        resolver.resolve(desk.workspace, LONG.format("sub-2", "g", "w"))
    Workspaces(desk.store).add("sub-2", "group", "other")
    with pytest.raises(
        InputError, match=r"sub-2/group/other, but the job is in sub-1/group-1/ws-1.*isolated"
    ):
        resolver.resolve(desk.workspace, LONG.format("sub-2", "group", "other"))


@pytest.mark.parametrize("bound", [False, True])
def test_links_cannot_lead_out(desk: Any, resolver: Resolver, tmp_path: Path, bound: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (desk.blobs / "folder").mkdir()
    (desk.blobs / "folder/out").symlink_to(outside)
    (desk.blobs / "file.txt").symlink_to(outside / "secret.txt")
    (desk.blobs / "inner").symlink_to(desk.blobs / "folder")
    (desk.blobs / "up").symlink_to(desk.blobs.parent)
    (desk.blobs / "twin").symlink_to(f"{desk.blobs}-twin")
    resolve = resolver.bound(desk.workspace) if bound else lambda u: resolver.resolve(desk.workspace, u)
    base = "azureml://datastores/workspaceblobstore/paths"
    for path in (
        "folder/out",
        "folder/out/secret.txt",
        "file.txt",
        "inner/out/secret.txt",
        "up/azureml/x",
        "twin",
    ):
        with pytest.raises(InputError, match="link that leaves its container"):
            resolve(f"{base}/{path}")
    assert resolve(f"{base}/inner/x.txt") == desk.blobs / "inner/x.txt"


@pytest.mark.parametrize(
    "uri",
    [
        "azureml://datastores/workspaceblobstore/paths/../../secrets/key",
        "azureml://datastores/workspaceblobstore/paths/a/%2e%2e/%2E%2E/x",
        "azureml://datastores/workspaceblobstore/paths/a%252f..%252fx",
        "azureml://datastores/workspaceblobstore/paths/a\\..\\x",
        "azureml://datastores/../paths/x",
        "azureml://jobs/../outputs/artifacts/paths/x",
        "azureml://datastores/workspaceblobstore/paths/a\x00b",
        "file:///etc/passwd",
        "/etc/passwd",
        "https://example.org/x",
        "",
        "azureml:",
    ],
)
def test_hostile_references(desk: Any, resolver: Resolver, uri: str) -> None:
    with pytest.raises(InputError) as caught:
        resolver.resolve(desk.workspace, uri)
    assert caught.value.status == 400 and isinstance(caught.value, ValueError)
