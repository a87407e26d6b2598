"""Workspaces by the unmodified SDK: made, changed, listed, diagnosed and deleted."""

from __future__ import annotations

import json
import os
import stat
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from workspace_desk import PROVIDER, SUBSCRIPTION, client_of, made, path_of


def test_create_by_the_sdk_then_use_it(ml_client: Any, server: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Data, Workspace

    wanted = Workspace(
        name="team-a",
        location="West Europe",
        display_name="Team A",
        description="what we do",
        tags={"team": "a"},
        public_network_access="Disabled",
        hbi_workspace=True,
    )
    created = ml_client.workspaces.begin_create(wanted).result()
    assert (created.name, created.location, created.display_name) == ("team-a", "westeurope", "Team A")
    shown = ml_client.workspaces.get("team-a")
    assert (shown.description, shown.tags["team"]) == ("what we do", "a")
    assert (shown.public_network_access, shown.hbi_workspace) == ("Disabled", True)
    assert shown.key_vault is None and shown.application_insights is None  # nothing of the kind was made
    # Witness: a client of the new workspace stores data in it, which lies in its own account.
    (tmp_path / "a.txt").write_text("hello")
    theirs = client_of("team-a")
    data = theirs.data.create_or_update(Data(name="greeting", path=str(tmp_path / "a.txt"), type="uri_file"))
    account = shown.storage_account.rpartition("/")[2]
    stored = list((server.folder.blobs / account).rglob("a.txt"))
    assert [path.read_text() for path in stored] == ["hello"] and data.version == "1"
    assert "greeting" not in [item.name for item in ml_client.data.list()]
    assert "team-a" in server.command("workspace", "list", "--data-dir", str(server.root)).stdout
    # What the SDK reads while it waits.
    code, operations = server.call(
        "GET", f"/subscriptions/{SUBSCRIPTION}/resourcegroups/local/deployments/none/operations"
    )
    assert code == 404 and operations["error"]["code"] == "DeploymentNotFound"


def test_creating_again_keeps_the_workspace_and_merges_tags(ml_client: Any, server: Any) -> None:
    from azure.ai.ml.entities import Workspace

    first = ml_client.workspaces.begin_create(Workspace(name="again", location="local", tags={"a": "1"}))
    again = ml_client.workspaces.begin_create(Workspace(name="again", location="local", tags={"b": "2"}))
    assert first.result().storage_account == again.result().storage_account
    tags = server.call("GET", path_of("again"))[1]["tags"]
    assert (tags["a"], tags["b"]) == ("1", "2")
    before = server.call("GET", path_of("again"))[1]
    for _ in range(2):
        code, answer = server.call("PUT", path_of("Again"), {"location": "local", "tags": tags})
        assert code == 200 and answer["properties"]["workspaceId"] == before["properties"]["workspaceId"]
    assert answer["name"] == "again"  # spelled as at first


def test_a_new_group_comes_with_its_first_workspace(ml_client: Any, server: Any) -> None:
    from azure.ai.ml.entities import Workspace
    from azure.core.exceptions import ResourceNotFoundError

    subscription = str(uuid.uuid4())
    theirs = client_of("unused", "group-new", subscription)
    with pytest.raises(ResourceNotFoundError, match="group-new"):
        theirs.workspaces.begin_create(Workspace(name="first"))  # asks the group for its location
    theirs.workspaces.begin_create(Workspace(name="first", location="eastus")).result()
    second = theirs.workspaces.begin_create(Workspace(name="second")).result()
    assert second.location == "eastus"
    assert sorted(w.name for w in theirs.workspaces.list()) == ["first", "second"]
    assert sorted(w.name for w in theirs.workspaces.list(scope="subscription")) == ["first", "second"]
    assert list(theirs.workspaces.list(filtered_kinds="hub")) == []
    assert "first" not in [w.name for w in ml_client.workspaces.list(scope="subscription")]
    sizes = server.call("GET", f"/subscriptions/{subscription}/{PROVIDER}/locations/eastus/vmSizes")
    assert sizes[0] == 200 and sizes[1]["value"][0]["vCPUs"] == os.cpu_count()
    code, answer = server.call("GET", f"/subscriptions/{subscription}/{PROVIDER}/workspaces?kind=nonsense")
    assert (code, answer["error"]["code"]) == (400, "InvalidQueryParameter")


def test_update(ml_client: Any, server: Any) -> None:
    from azure.ai.ml.entities import Workspace

    made(server, "changed", tags={"old": "1"})
    change = Workspace(
        name="changed",
        tags={"new": "2"},
        description="after",
        display_name="After",
        public_network_access="Disabled",
        image_build_compute="cpu-cluster",
    )
    ml_client.workspaces.begin_update(change).result()
    body = server.call("GET", path_of("changed"))[1]
    properties = body["properties"]
    assert body["tags"] == {"new": "2"} and properties["description"] == "after"
    assert (properties["friendlyName"], properties["publicNetworkAccess"]) == ("After", "Disabled")
    ml_client.workspaces.begin_update(Workspace(name="changed", description="later")).result()
    kept = ml_client.workspaces.get("changed")
    assert (kept.description, kept.display_name, kept.tags) == (
        "later",
        "After",
        {},
    )  # the SDK sends them always
    assert kept.image_build_compute == "cpu-cluster"


def test_update_to_a_bad_value(ml_client: Any, server: Any) -> None:
    from azure.ai.ml.entities import Workspace
    from azure.core.exceptions import HttpResponseError

    made(server, "unchanged", properties={"publicNetworkAccess": "Disabled"})
    with pytest.raises(HttpResponseError) as caught:
        ml_client.workspaces.begin_update(Workspace(name="unchanged", public_network_access="Sometimes"))
    assert (caught.value.status_code, caught.value.error.code) == (400, "InvalidRequestContent")
    assert "publicNetworkAccess" in caught.value.message
    assert ml_client.workspaces.get("unchanged").public_network_access == "Disabled"


def test_create_of_a_bad_name(ml_client: Any) -> None:
    from azure.ai.ml.entities import Workspace
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as caught:
        ml_client.workspaces.begin_create(Workspace(name="-bad-", location="local")).result()
    assert (caught.value.status_code, caught.value.error.code) == (400, "InvalidWorkspaceName")


CALLS: dict[str, Callable[[Any], Any]] = {
    "get": lambda c: c.workspaces.get("never-made"),
    "get_keys": lambda c: c.workspaces.get_keys("never-made"),
    "begin_sync_keys": lambda c: c.workspaces.begin_sync_keys("never-made"),
    "begin_diagnose": lambda c: c.workspaces.begin_diagnose("never-made"),
    "begin_delete": lambda c: c.workspaces.begin_delete("never-made", delete_dependent_resources=False),
    "list": lambda c: list(client_of("any", "group-of-nobody").workspaces.list()),
}


@pytest.mark.parametrize("operation", CALLS)
def test_what_is_not_there(ml_client: Any, operation: str) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError) as caught:
        CALLS[operation](ml_client)
    wanted = "ResourceGroupNotFound" if operation == "list" else "ResourceNotFound"
    assert caught.value.error.code == wanted


def test_a_restarted_server_has_what_was_made(new_server: Callable[[], Any]) -> None:
    server = new_server()
    server.start()
    made(server, "lasting", tags={"k": "v"}, location="uksouth", properties={"description": "d"})
    server.stop()
    server.start()
    code, body = server.call("GET", path_of("lasting"))
    assert code == 200 and body["tags"] == {"k": "v"}
    assert (body["location"], body["properties"]["description"]) == ("uksouth", "d")
    # A removal that a dead server left half done: the rows gone, the folders and the note not.
    account = body["properties"]["storageAccount"].rpartition("/")[2]
    other = made(server, "other")["properties"]["workspaceId"]
    identity = body["properties"]["workspaceId"]
    assert server.call("DELETE", path_of("lasting"))[0] == 202
    notes = server.folder.tmp / "removals"
    wait_for(lambda: not list(notes.iterdir()), 20, "the removal")
    assert stat.S_IMODE(notes.stat().st_mode) == 0o700
    server.stop()
    (server.folder.blobs / account / "azureml").mkdir(parents=True)
    (server.folder.jobs / identity / "j").mkdir(parents=True)
    (notes / f"{identity}.json").write_text(json.dumps({"id": identity, "account": account}))
    # And one that did not come about, and one that would lead elsewhere.
    (notes / f"{other}.json").write_text(json.dumps({"id": other, "account": "aml" + "0" * 12}))
    (notes / "bad.json").write_text(json.dumps({"id": "..", "account": "../secrets"}))
    server.start()
    assert not (server.folder.blobs / account).exists() and not (server.folder.jobs / identity).exists()
    assert [path.name for path in notes.iterdir()] == ["bad.json"]
    assert server.call("GET", path_of("other"))[0] == 200 and list(server.folder.secrets.iterdir())
    assert "does not name a workspace's folders" in server.logs()


def test_keys(ml_client: Any, server: Any) -> None:
    made(server, "keyed")
    keys = ml_client.workspaces.get_keys("keyed")
    account = keys.user_storage_resource_id.rpartition("/")[2]
    assert (server.folder.blobs / account / "azureml").is_dir()
    assert account != ml_client.workspaces.get_keys("local").user_storage_resource_id.rpartition("/")[2]
    # Storage takes no account key, so none is given; and nothing else exists that could have one.
    assert keys.user_storage_key is None and keys.app_insights_instrumentation_key is None
    assert keys.container_registry_credentials is None and keys.notebook_access_keys is None
    ml_client.workspaces.begin_sync_keys("keyed").result()


def test_diagnose_finds_a_lost_container(ml_client: Any, server: Any) -> None:
    made(server, "sick")
    account = ml_client.workspaces.get("sick").storage_account.rpartition("/")[2]
    well = ml_client.workspaces.begin_diagnose("sick").result()
    assert well.storage_account_results == [] and well.key_vault_results == []
    (server.folder.blobs / account / "azureml").rmdir()
    found = ml_client.workspaces.begin_diagnose("sick").result().storage_account_results
    assert [(one.code, one.level) for one in found] == [("ContainerNotFound", "Error")]
    assert "workspaceartifactstore" in found[0].message


def test_delete_removes_rows_and_folders(ml_client: Any, server: Any, tmp_path: Path) -> None:
    from azure.ai.ml import command
    from azure.ai.ml.entities import Data, Workspace
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    ml_client.workspaces.begin_create(Workspace(name="doomed", location="local")).result()
    theirs = client_of("doomed")
    (tmp_path / "a.txt").write_text("gone soon")
    theirs.data.create_or_update(Data(name="data", path=str(tmp_path / "a.txt"), type="uri_file"))
    job = theirs.jobs.create_or_update(
        command(command="sleep 60", environment="azureml:host:1", compute="cpu-cluster")
    )
    body = server.call("GET", path_of("doomed"))[1]
    identity = body["properties"]["workspaceId"]
    account = body["properties"]["storageAccount"].rpartition("/")[2]
    with pytest.raises(HttpResponseError) as caught:
        ml_client.workspaces.begin_delete("doomed", delete_dependent_resources=False)
    assert caught.value.status_code == 409 and job.name in caught.value.message
    assert theirs.data.get("data", version="1").name == "data"
    assert list((server.folder.tmp / "removals").iterdir()) == []
    theirs.jobs.begin_cancel(job.name).result()
    wait_for(lambda: theirs.jobs.get(job.name).status == "Canceled", 60, "the cancel")

    deleted = ml_client.workspaces.begin_delete(
        "doomed", delete_dependent_resources=True, permanently_delete=True
    )
    deleted.result()
    folder = server.folder
    for path in (folder.blobs / account, folder.blob_meta / account, folder.jobs / identity):
        assert not path.exists()
    assert "doomed" not in [w.name for w in ml_client.workspaces.list()]
    with pytest.raises(ResourceNotFoundError):
        ml_client.workspaces.get("doomed")
    with pytest.raises(HttpResponseError):
        theirs.data.get("data", version="1")
    # Every plane: ARM below it, run history, MLflow, storage, discovery of its jobs.
    path = path_of("doomed")
    for method, place in (
        ("GET", f"{path}/jobs/{job.name}"),
        ("GET", f"{path}/data/data/versions/1"),
        ("PUT", f"{path}/jobs/late"),
        ("GET", f"/history/v1.0{path}/runs/{job.name}/details"),
        ("GET", f"/mlflow/v1.0{path}/api/2.0/mlflow/runs/get?run_id={job.name}"),
        ("GET", f"/{account}/azureml/ExperimentRun/a"),
        ("PUT", f"/{account}/revived?restype=container"),
    ):
        code, answer = server.call(method, place, {"properties": {}} if method == "PUT" else None)
        assert code == 404, (place, code, answer)
    assert not (folder.blobs / account).exists()
    # The name is free: a new workspace has nothing of the old one.
    fresh = made(server, "doomed")
    assert fresh["properties"]["workspaceId"] != identity
    assert [item.name for item in theirs.data.list()] == []


def test_writers_during_a_delete_get_404(server: Any) -> None:
    made(server, "contended")
    path = path_of("contended")
    codes: list[int] = []

    def write(number: int) -> None:
        body = {"properties": {"computeType": "AmlCompute", "properties": {}}, "location": "local"}
        for turn in range(300):
            code, _ = server.call("PUT", f"{path}/computes/c-{number}-{turn}", body)
            codes.append(code)
            if code == 404:
                return

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: 201 in codes, 20, "a write")
    assert server.call("DELETE", path)[0] == 202
    for thread in threads:
        thread.join()
    assert set(codes) == {201, 404}
    assert server.call("GET", path)[0] == 404


def test_the_default_workspace_stays(ml_client: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as caught:
        ml_client.workspaces.begin_delete("local", delete_dependent_resources=True)
    assert caught.value.status_code == 409 and "every amlocal server has" in caught.value.message
    assert ml_client.workspaces.get("local").name == "local"
