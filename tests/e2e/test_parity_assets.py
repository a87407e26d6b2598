"""Data, models, evaluators and environments by the SDK: round trips, and how each operation fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

FLOW = "inputs: {}\noutputs: {}\nnodes: []\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    return tmp_path / "folder"


def test_models_come_back_as_they_were_sent(ml_client: Any, folder: Path, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Model

    made = ml_client.models.create_or_update(
        Model(name="there-and-back", path=str(folder), type="custom_model", tags={"a": "b"}, description="d")
    )
    found = ml_client.models.get("there-and-back", version=made.version)
    assert (found.tags, found.description, found.type) == ({"a": "b"}, "d", "custom_model")
    assert [m.version for m in ml_client.models.list("there-and-back")] == [made.version]
    ml_client.models.download("there-and-back", made.version, download_path=str(tmp_path / "back"))
    assert [p.read_text() for p in (tmp_path / "back").rglob("a.txt")] == ["a"]


def test_a_model_whose_files_are_not_there(ml_client: Any) -> None:
    from azure.ai.ml.entities import Model
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    with pytest.raises(HttpResponseError, match="nothing-here") as caught:
        ml_client.models.create_or_update(
            Model(
                name="no-files",
                path="azureml://datastores/workspaceblobstore/paths/nothing-here/",
                type="custom_model",
            )
        )
    assert (caught.value.status_code, caught.value.error.code) == (400, "InvalidModelUri")
    with pytest.raises(ResourceNotFoundError, match="no-files"):
        ml_client.models.get("no-files", version="1")
    with pytest.raises(ResourceNotFoundError, match="no-files"):
        ml_client.models.download("no-files", "1")
    for change in (ml_client.models.archive, ml_client.models.restore):
        with pytest.raises(ResourceNotFoundError, match="no-files"):
            change("no-files", version="1")


def test_archiving_what_was_never_made(ml_client: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    for call in (
        lambda: ml_client.models.archive("never-made", version="1"),
        lambda: ml_client.models.restore("never-made", version="1"),
        lambda: ml_client.models.restore("never-made"),
        lambda: ml_client.data.archive("never-made", version="1"),
        lambda: ml_client.data.restore("never-made", version="1"),
        lambda: ml_client.data.archive("never-made"),
        lambda: ml_client.environments.archive("never-made", version="1"),
        lambda: ml_client.environments.restore("never-made", version="1"),
    ):
        with pytest.raises(ResourceNotFoundError, match="never-made") as caught:
            call()
        assert caught.value.error.code == "ResourceNotFound"


def test_data_comes_back_as_it_was_sent(ml_client: Any, server: Any, folder: Path) -> None:
    from azure.ai.ml.entities import Data

    made = ml_client.data.create_or_update(
        Data(name="data-and-back", path=str(folder), type="uri_folder", tags={"a": "b"}, description="d")
    )
    found = ml_client.data.get("data-and-back", version=made.version)
    assert (found.tags, found.description, found.type) == ({"a": "b"}, "d", "uri_folder")
    inside = found.path.partition("/paths/")[2]
    assert [p.read_text() for p in server.folder.blobs.glob(f"*/*/{inside}a.txt")] == ["a"]
    assert [d.version for d in ml_client.data.list("data-and-back")] == ["1"]


def test_data_that_is_not_there(ml_client: Any) -> None:
    from azure.ai.ml.entities import Data
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    with pytest.raises(HttpResponseError, match="is not a file") as caught:
        ml_client.data.create_or_update(
            Data(
                name="no-data",
                path="azureml://datastores/workspaceblobstore/paths/nothing/here.csv",
                type="uri_file",
            )
        )
    assert (caught.value.status_code, caught.value.error.code) == (400, "InvalidDataUri")
    with pytest.raises(ResourceNotFoundError, match="no-data"):
        ml_client.data.get("no-data", version="1")


def evaluator(folder: Path, **more: Any) -> Any:
    """A model as the SDK takes it for an evaluator: a prompt flow's folder."""
    from azure.ai.ml.entities import Model

    return Model(**{"name": "judge", "path": str(folder), "type": "custom_model", **more})


def test_evaluators(ml_client: Any, folder: Path, tmp_path: Path) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    (folder / "flow.dag.yaml").write_text(FLOW)
    for version in ("1", "2"):
        made = ml_client.evaluators.create_or_update(evaluator(folder, tags={"number": version}))
        assert made.version == version
    ml_client.models.create_or_update(evaluator(folder, name="no-judge"))
    assert ml_client.models.get("judge", version="1").properties["is-evaluator"] == "true"
    assert ml_client.evaluators.get("judge", version="2").tags == {"number": "2"}
    assert ml_client.evaluators.get("judge", label="latest").version == "2"
    assert sorted(m.version for m in ml_client.evaluators.list("judge")) == ["1", "2"]
    # A plain model is none, whatever it is called.
    assert [m.version for m in ml_client.models.list("no-judge")] == ["1"]
    assert list(ml_client.evaluators.list("no-judge")) == []
    with pytest.raises(ResourceNotFoundError, match="Evaluator no-judge with version 1 not found"):
        ml_client.evaluators.get("no-judge", version="1")
    ml_client.evaluators.download("judge", "1", download_path=str(tmp_path / "back"))
    assert [p.read_text() for p in (tmp_path / "back").rglob("flow.dag.yaml")] == [FLOW]


def test_evaluators_that_are_not_there(ml_client: Any) -> None:
    from azure.ai.ml.exceptions import UnsupportedOperationError
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    with pytest.raises(HttpResponseError, match="no-flow") as caught:
        ml_client.evaluators.create_or_update(
            evaluator(Path(), path="azureml://datastores/workspaceblobstore/paths/no-flow/")
        )
    assert caught.value.error.code == "InvalidModelUri"
    with pytest.raises(ResourceNotFoundError, match="never-made"):
        ml_client.evaluators.download("never-made", "1")
    with pytest.raises(UnsupportedOperationError):
        ml_client.evaluators.list(None)


def test_environments_are_archived_and_restored(ml_client: Any) -> None:
    from azure.ai.ml.constants import ListViewType
    from azure.ai.ml.entities import Environment

    for image in ("one:1", "two:1"):
        ml_client.environments.create_or_update(Environment(name="env-life", image=image, tags={"a": "b"}))
    assert ml_client.environments.get("env-life", version="2").image == "two:1"
    assert sorted(e.version for e in ml_client.environments.list("env-life")) == ["1", "2"]
    ml_client.environments.archive("env-life", version="2")
    assert ml_client.environments.get("env-life", label="latest").version == "1"
    assert [
        e.version for e in ml_client.environments.list("env-life", list_view_type=ListViewType.ARCHIVED_ONLY)
    ] == ["2"]
    ml_client.environments.restore("env-life", version="2")
    assert ml_client.environments.get("env-life", label="latest").version == "2"


def test_environments_that_are_not_there(ml_client: Any) -> None:
    from azure.ai.ml.entities import Environment
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    ml_client.environments.create_or_update(Environment(name="env-fixed", version="1", image="one:1"))
    with pytest.raises(HttpResponseError, match="image") as caught:
        ml_client.environments.create_or_update(Environment(name="env-fixed", version="1", image="two:1"))
    assert caught.value.status_code == 409
    assert ml_client.environments.get("env-fixed", version="1").image == "one:1"
    with pytest.raises(ResourceNotFoundError, match="env-fixed:7"):
        ml_client.environments.get("env-fixed", version="7")


# What has no other way to fail: a workspace that is not there.
READS = {
    "compute.list": lambda c: c.compute.list(),
    "data.list": lambda c: c.data.list(),
    "datastores.get_default": lambda c: [c.datastores.get_default()],
    "datastores.list": lambda c: c.datastores.list(),
    "environments.list": lambda c: c.environments.list(),
    "indexes.list": lambda c: c.indexes.list(),
    "evaluators.list": lambda c: c.evaluators.list("judge"),
    "jobs.list": lambda c: c.jobs.list(),
    "models.list": lambda c: c.models.list(),
    "online_deployments.list": lambda c: c.online_deployments.list("an-endpoint"),
    "online_endpoints.list": lambda c: c.online_endpoints.list(),
}


@pytest.mark.parametrize("operation", READS)
def test_an_unknown_workspace_is_not_read(client_environment: None, operation: str) -> None:
    from azure.ai.ml import MLClient
    from azure.core.exceptions import ResourceNotFoundError
    from azure.identity import DefaultAzureCredential

    client = MLClient(DefaultAzureCredential(), "0b0b", "nowhere", "missing")
    with pytest.raises(ResourceNotFoundError, match="amlocal workspace add 0b0b/nowhere/missing"):
        list(READS[operation](client))


def test_indexes(ml_client: Any, server: Any, folder: Path) -> None:
    from azure.ai.ml.entities import Index
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    made = [
        ml_client.indexes.create_or_update(Index(name="texts", path=str(folder), tags={"number": number}))
        for number in ("1", "2")
    ]
    assert [index.version for index in made] == ["1", "2"]
    found = ml_client.indexes.get("texts", version="1")
    assert (found.name, found.tags, found.stage) == ("texts", {"number": "1"}, "Development")
    inside = found.path.partition("/paths/")[2].rstrip("/")
    assert [p.read_text() for p in server.folder.blobs.glob(f"*/*/{inside}/a.txt")] == ["a"]
    assert ml_client.indexes.get("texts", label="latest").version == "2"
    assert [i.version for i in ml_client.indexes.list("texts")] == ["1", "2"]
    assert [(i.name, i.version) for i in ml_client.indexes.list() if i.name == "texts"] == [("texts", "2")]
    made[1].stage = "Archived"
    ml_client.indexes.create_or_update(made[1])
    assert [i.version for i in ml_client.indexes.list("texts")] == ["1"]
    with pytest.raises(HttpResponseError, match="storageUri") as caught:
        ml_client.indexes.create_or_update(Index(name="texts", version="1", path=made[1].path + "/a.txt"))
    assert caught.value.status_code == 409
    with pytest.raises(HttpResponseError, match="There is nothing at") as nothing:
        ml_client.indexes.create_or_update(Index(name="texts", version="3", path=made[1].path + "/b.txt"))
    assert (nothing.value.status_code, nothing.value.error.code) == (400, "InvalidStorageUri")
    with pytest.raises(ResourceNotFoundError, match="texts:3"):
        ml_client.indexes.get("texts", version="3")
