"""Resources by the unmodified SDK: versions, labels, archive, lists; computes; ARM's manners."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    return tmp_path / "folder"


def ask(
    server: Any, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """One raw call below the workspace: status, headers, JSON body."""
    if "api-version=" not in path:
        path += f"{'&' if '?' in path else '?'}api-version=2024-04-01"
    context = ssl.create_default_context(cafile=str(server.folder.tls / "ca.pem"))
    connection = http.client.HTTPSConnection("localhost", server.port, timeout=30, context=context)
    sent = {
        "Authorization": f"Bearer {server.user_token()}",
        **{key.replace("_", "-"): value for key, value in headers.items()},
    }
    try:
        connection.request(
            method, server.workspace_path + path, None if body is None else json.dumps(body), sent
        )
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, dict(answer.getheaders()), json.loads(content) if content else None
    finally:
        connection.close()


def test_versions_labels_and_archive_of_data(ml_client: Any, folder: Path) -> None:
    from azure.ai.ml.constants import ListViewType
    from azure.ai.ml.entities import Data
    from azure.core.exceptions import HttpResponseError

    def make(**more: Any) -> Any:
        return ml_client.data.create_or_update(Data(name="many", path=str(folder), type="uri_folder", **more))

    assert [make().version, make().version, make(version="7").version, make().version] == ["1", "2", "7", "8"]
    assert ml_client.data.get("many", label="latest").version == "8"
    changed = ml_client.data.get("many", version="2")
    changed.description, changed.tags = "the second", {"stage": "dev"}
    ml_client.data.create_or_update(changed)
    assert ml_client.data.get("many", version="2").description == "the second"
    (folder / "b.txt").write_text("b")
    with pytest.raises(HttpResponseError) as caught:
        make(version="7")
    assert caught.value.status_code == 409 and "dataUri" in caught.value.message

    def versions(view: Any) -> list[str]:
        return sorted(d.version for d in ml_client.data.list("many", list_view_type=view))

    def names(view: Any) -> list[str]:
        return [d.name for d in ml_client.data.list(list_view_type=view) if d.name == "many"]

    ml_client.data.archive("many", version="8")
    assert versions(ListViewType.ACTIVE_ONLY) == ["1", "2", "7"]
    assert versions(ListViewType.ARCHIVED_ONLY) == ["8"]
    assert ml_client.data.get("many", label="latest").version == "7"
    ml_client.data.archive("many")
    assert (names(ListViewType.ACTIVE_ONLY), names(ListViewType.ARCHIVED_ONLY)) == ([], ["many"])
    assert versions(ListViewType.ARCHIVED_ONLY) == ["1", "2", "7", "8"]
    ml_client.data.restore("many")
    assert versions(ListViewType.ACTIVE_ONLY) == ["1", "2", "7", "8"]
    ml_client.data.archive("many", label="latest")
    ml_client.data.restore("many", version="8")
    assert names(ListViewType.ARCHIVED_ONLY) == []


def test_versions_and_archive_of_models(ml_client: Any, folder: Path) -> None:
    from azure.ai.ml.constants import ListViewType
    from azure.ai.ml.entities import Model
    from azure.core.exceptions import ResourceNotFoundError

    for stage in ("dev", "prod"):
        ml_client.models.create_or_update(
            Model(name="staged", path=str(folder), type="custom_model", tags={"stage": stage})
        )
    assert ml_client.models.get("staged", label="latest").version == "2"
    ml_client.models.archive("staged", version="2")
    assert ml_client.models.get("staged", label="latest").version == "1"
    assert [m.version for m in ml_client.models.list("staged")] == ["1"]
    ml_client.models.archive("staged")
    assert "staged" not in [m.name for m in ml_client.models.list()]
    assert "staged" in [m.name for m in ml_client.models.list(list_view_type=ListViewType.ARCHIVED_ONLY)]
    ml_client.models.restore("staged")
    assert sorted(m.version for m in ml_client.models.list("staged")) == ["1", "2"]
    with pytest.raises(ResourceNotFoundError):
        ml_client.models.archive("never-made")


def test_lists_are_filtered_by_tags(ml_client: Any, server: Any, folder: Path) -> None:
    from azure.ai.ml.entities import Model

    for tags in ({"team": "a", "x": "1"}, {"team": "b"}, {}):
        ml_client.models.create_or_update(
            Model(name="tagged", path=str(folder), type="custom_model", tags=tags)
        )

    def found(query: str) -> list[str]:
        return [i["name"] for i in ask(server, "GET", f"/models/tagged/versions?{query}")[2]["value"]]

    assert found("tags=team") == ["1", "2"]
    assert found("tags=team%3Db") == ["2"]
    assert found("tags=team%3Da,x%3D1") == ["1"]
    assert found("tags=team%3Da,x%3D2") == []
    assert found("tags=te'%22%5C") == []
    assert found("tags=team&$top=1") == ["1"]
    code, _, body = ask(server, "GET", "/models/tagged/versions?tags=%3Da")
    assert code == 400 and body["error"]["target"] == "tags"


def test_every_page_is_followed(ml_client: Any, folder: Path) -> None:
    from azure.ai.ml.entities import AmlCompute

    before = {compute.name for compute in ml_client.compute.list()}
    made = {f"paged-{number:03d}" for number in range(230)}
    for name in sorted(made):
        ml_client.compute._operation.begin_create_or_update(
            ml_client.resource_group_name,
            ml_client.workspace_name,
            name,
            AmlCompute(name=name, location="local")._to_rest_object(),
        )
    names = [compute.name for compute in ml_client.compute.list()]
    assert len(names) == len(set(names)) and set(names) == before | made


def test_etags_and_statuses(server: Any) -> None:
    body = {"location": "local", "properties": {"computeType": "AmlCompute"}}
    code, headers, _ = ask(server, "PUT", "/computes/etagged", body)
    assert code == 201
    first = headers["etag"]
    code, headers, _ = ask(server, "PUT", "/computes/etagged", body)
    assert (code, headers["etag"]) == (200, first)
    changed = {**body, "tags": {"a": "b"}}
    assert ask(server, "PUT", "/computes/etagged", changed, If_Match='"other"')[0] == 412
    assert ask(server, "GET", "/computes/etagged")[1]["etag"] == first
    code, headers, _ = ask(server, "PUT", "/computes/etagged", changed, If_Match=f'"other", {first}')
    assert code == 200 and headers["etag"] != first
    assert ask(server, "PUT", "/computes/etagged", body, If_None_Match="*")[0] == 412
    assert ask(server, "DELETE", "/computes/etagged", If_Match=first)[0] == 412
    assert ask(server, "DELETE", "/computes/etagged")[0] == 200
    assert ask(server, "DELETE", "/computes/etagged")[0] == 204


@pytest.mark.parametrize(
    ("version", "code"),
    [
        ("2025-12-01", 200),
        ("2024-01-01-preview", 200),
        ("2021-10-01-dataplanepreview", 200),
        ("v1.0", 200),
        ("2024-13-01", 400),
        ("latest", 400),
        ("2024-01-01-preview%00", 400),
    ],
)
def test_api_versions(server: Any, version: str, code: int) -> None:
    found, _, body = ask(server, "GET", f"/data?api-version={version}")
    assert found == code
    if code == 400:
        assert body["error"]["code"] == "InvalidApiVersionParameter"


def test_clusters(ml_client: Any) -> None:
    from azure.ai.ml.entities import AmlCompute
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    made = ml_client.compute.begin_create_or_update(
        AmlCompute(name="team-gpus", size="Standard_NC6s_v3", min_instances=0, max_instances=2)
    ).result()
    assert (made.size, made.max_instances, made.provisioning_state) == ("Standard_NC6s_v3", 2, "Succeeded")
    made.max_instances, made.tags = 4, {"team": "vision"}
    ml_client.compute.begin_update(made).result()
    again = ml_client.compute.get("team-gpus")
    assert (again.max_instances, again.tags) == (4, {"team": "vision"})
    nodes = list(ml_client.compute.list_nodes("team-gpus"))
    assert [(vars(n)["nodeState"], vars(n)["nodeId"]) for n in nodes] == [("idle", os.uname().nodename)]
    again.min_instances = 9
    with pytest.raises(HttpResponseError) as caught:
        ml_client.compute.begin_update(again).result()
    assert caught.value.status_code == 400 and "minNodeCount 9" in caught.value.message
    with pytest.raises(HttpResponseError) as refused:
        ml_client.compute.begin_delete("cpu-cluster").result()
    assert refused.value.status_code == 409
    ml_client.compute.begin_delete("team-gpus").result()
    with pytest.raises(ResourceNotFoundError):
        ml_client.compute.get("team-gpus")


def test_instances_keep_their_state(ml_client: Any) -> None:
    from azure.ai.ml.entities import ComputeInstance
    from azure.core.exceptions import HttpResponseError

    ml_client.compute.begin_create_or_update(
        ComputeInstance(name="my-notebook", size="STANDARD_DS3_V2")
    ).result()
    assert ml_client.compute.get("my-notebook").state == "Running"
    ml_client.compute.begin_stop("my-notebook").result()
    assert ml_client.compute.get("my-notebook").state == "Stopped"
    listed = {c.name: c.type for c in ml_client.compute.list(compute_type="computeinstance")}
    assert listed["my-notebook"] == "computeinstance" and set(listed.values()) == {"computeinstance"}
    ml_client.compute.begin_start("my-notebook").result()
    assert ml_client.compute.get("my-notebook").state == "Running"
    ml_client.compute.begin_stop("my-notebook").result()
    ml_client.compute.begin_restart("my-notebook").result()
    assert ml_client.compute.get("my-notebook").state == "Running"
    with pytest.raises(HttpResponseError) as caught:
        ml_client.compute.begin_stop("cpu-cluster").result()
    assert caught.value.status_code == 409


def test_sizes_and_usage(ml_client: Any, server: Any) -> None:
    from azure.ai.ml.entities import AmlCompute

    sizes = ml_client.compute.list_sizes()
    assert [(size.name, vars(size)["vCPUs"]) for size in sizes] == [("local", os.cpu_count())]
    before = [vars(usage)["currentValue"] for usage in ml_client.compute.list_usage()]
    ml_client.compute.begin_create_or_update(AmlCompute(name="one-more", size="any")).result()
    after = [vars(usage)["currentValue"] for usage in ml_client.compute.list_usage()]
    assert after == [before[0] + 1]
    subscription = server.workspace_path.split("/resourceGroups")[0]
    place = f"{subscription}/providers/Microsoft.MachineLearningServices/locations/mars/vmSizes"
    code, body = server.call("GET", place)
    assert code == 404 and "mars" in body["error"]["message"]
