"""One registry for two clients: what MLflow's client registers azure-ai-ml has, and the other way round."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MLMODEL = "flavors:\n  python_function:\n    loader_module: answering\n    code: code\n"
CODE = """
import json, pathlib


class Answering:
    def __init__(self, path):
        self.settings = json.loads(pathlib.Path(path, "artifacts/settings.json").read_text())

    def predict(self, frame, params=None):
        return self.settings["answer"]


def _load_pyfunc(path):
    return Answering(path)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "mlflow-model"
    for name, text in {
        "MLmodel": MLMODEL,
        "code/answering.py": CODE,
        "artifacts/settings.json": json.dumps({"answer": 1}),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def tracking(ml_client: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    import mlflow

    # Enough for MLflow to start; a fault of the server is to be seen soon.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

    mlflow.set_tracking_uri(f"{server.base_url}/mlflow/v1.0{server.workspace_path}")
    return mlflow.MlflowClient()


@pytest.fixture
def run(tracking: Any, folder: Path) -> str:
    """A run of MLflow's own with the model among its artifacts."""
    found = tracking.create_run(tracking.create_experiment(f"of-{folder.parent.name}"))
    tracking.log_artifacts(found.info.run_id, str(folder), "model")
    run_id: str = found.info.run_id
    return run_id


def predicted(uri: str) -> Any:
    import mlflow
    import pandas as pd

    return mlflow.pyfunc.load_model(uri).predict(pd.DataFrame({"x": [1]}))


def test_a_model_of_mlflow_is_one_of_azure_ai_ml(
    ml_client: Any, tracking: Any, run: str, tmp_path: Path
) -> None:
    import mlflow

    made = mlflow.register_model(f"runs:/{run}/model", "both-ways", tags={"by": "mlflow"})
    assert (made.version, made.run_id) == ("1", run)
    found = ml_client.models.get("both-ways", version="1")
    assert (found.type, found.job_name, found.tags) == ("mlflow_model", run, {"by": "mlflow"})
    assert found.flavors["python_function"]["loader_module"] == "answering"
    assert "both-ways" in [model.name for model in ml_client.models.list()]
    ml_client.models.download("both-ways", "1", download_path=str(tmp_path / "back"))
    assert (tmp_path / "back/both-ways/model/MLmodel").read_text() == MLMODEL
    assert predicted("models:/both-ways/1") == 1

    # Texts changed on one side are seen on the other; the place stays what it was.
    found.tags["also"] = "azure"
    found.description = "changed"
    ml_client.models.create_or_update(found)
    seen = tracking.get_model_version("both-ways", "1")
    assert (seen.tags, seen.description) == ({"by": "mlflow", "also": "azure"}, "changed")
    assert (seen.run_id, seen.source) == (made.run_id, made.source)
    tracking.set_model_version_tag("both-ways", "1", "third", "3")
    tracking.update_model_version("both-ways", "1", "again")
    found = ml_client.models.get("both-ways", label="latest")
    assert (found.tags["third"], found.description) == ("3", "again")


def test_a_model_of_azure_ai_ml_is_one_of_mlflow(ml_client: Any, tracking: Any, folder: Path) -> None:
    from azure.ai.ml.entities import Model

    def model(**more: Any) -> Any:
        return Model(name="uploaded", path=str(folder), type="mlflow_model", **more)

    assert ml_client.models.create_or_update(model(tags={"a": "b"})).version == "1"
    assert predicted("models:/uploaded/1") == 1
    # The way of the seeds: settings edited, the folder registered again, and inference is another one.
    (folder / "artifacts/settings.json").write_text(json.dumps({"answer": 2}))
    assert ml_client.models.create_or_update(model()).version == "2"
    assert (predicted("models:/uploaded/1"), predicted("models:/uploaded/latest")) == (1, 2)
    assert [v.version for v in tracking.search_model_versions("name = 'uploaded'")] == ["2", "1"]
    assert [v.version for v in tracking.search_model_versions("tags.a = 'b' AND name LIKE 'upl%'")] == ["1"]
    assert [m.name for m in tracking.search_registered_models("name ILIKE 'UPLOAD%'")] == ["uploaded"]
    # Numbers are given in one place: a version of MLflow's follows, a copy keeps the files.
    copied = tracking.copy_model_version("models:/uploaded/2", "copied")
    assert (copied.version, predicted("models:/copied/1")) == ("1", 2)
    again = tracking.create_model_version("uploaded", "models:/uploaded/1")
    assert (again.version, predicted("models:/uploaded/3")) == ("3", 1)
    assert ml_client.models.create_or_update(model()).version == "4"
    assert ml_client.models.create_or_update(model(version="v-five")).version == "v-five"
    assert tracking.get_model_version("uploaded", "v-five").version == "v-five"


def test_stages_aliases_and_ends(ml_client: Any, tracking: Any, run: str) -> None:
    import mlflow
    from azure.core.exceptions import ResourceNotFoundError
    from mlflow.exceptions import MlflowException

    for _ in range(2):
        mlflow.register_model(f"runs:/{run}/model", "staged")
    tracking.transition_model_version_stage("staged", "1", "Production")
    assert ml_client.models.get("staged", version="1").stage == "Production"
    assert [m.version for m in ml_client.models.list("staged", stage="Production")] == ["1"]
    tracking.transition_model_version_stage("staged", "2", "production", archive_existing_versions=True)
    assert [m.version for m in ml_client.models.list("staged")] == ["2"]
    assert tracking.get_model_version("staged", "1").current_stage == "Archived"
    ml_client.models.restore("staged", version="1")
    assert tracking.get_model_version("staged", "1").current_stage == "Production"
    tracking.set_registered_model_alias("staged", "champion", "2")
    tracking.set_registered_model_tag("staged", "team", "vision")
    assert predicted("models:/staged@champion") == 1
    model = tracking.get_registered_model("staged")
    assert (model.aliases, model.tags) == ({"champion": "2"}, {"team": "vision"})
    with pytest.raises(MlflowException, match="cannot be renamed"):
        tracking.rename_registered_model("staged", "renamed")
    with pytest.raises(MlflowException, match=r"has 2 version\(s\)"):
        tracking.delete_registered_model("staged")
    for version in ("2", "1"):
        tracking.delete_model_version("staged", version)
        with pytest.raises(ResourceNotFoundError):
            ml_client.models.get("staged", version=version)
    assert tracking.get_registered_model("staged").aliases == {}
    tracking.delete_registered_model("staged")
    with pytest.raises(MlflowException) as caught:
        tracking.get_registered_model("staged")
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_a_logged_model_and_a_model_without_versions(ml_client: Any, tracking: Any, folder: Path) -> None:
    import mlflow

    class Doubling(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: list[int], params: Any = None) -> Any:
            return [2 * value for value in model_input]

    tracking.create_registered_model("logged", description="first")
    assert tracking.get_registered_model("logged").latest_versions == []
    with mlflow.start_run() as started:
        info = mlflow.pyfunc.log_model(
            name="doubling", python_model=Doubling(), registered_model_name="logged", pip_requirements=[]
        )
    found = ml_client.models.get("logged", version="1")
    assert (found.type, found.job_name) == ("mlflow_model", started.info.run_id)
    assert tracking.get_model_version("logged", "1").source == f"models:/{info.model_id}"
    assert tracking.get_registered_model("logged").description == "first"


SOURCES = {
    "file": "file:///etc",
    "path": "/etc",
    "http": "http://127.0.0.1/x",
    "other account": "mlflow-artifacts:/aml000000000000/azureml/x/y",
    "up": "mlflow-artifacts:/ACCOUNT/azureml/ExperimentRun/../../x",
    "other container": "mlflow-artifacts:/ACCOUNT/secrets/x/y",
    "encoded": "mlflow-artifacts:/ACCOUNT/azureml/x/%252e%252e/%252e%252e/y",
    "unknown run": "runs:/no-such-run/model",
    "up from a run": "runs:/RUN/../../x",
    "unknown model": "models:/no-such-model/1",
    "unknown logged model": "models:/m-00000000000000000000000000000000",
    "nothing there": "runs:/RUN/nothing",
    "dbfs": "dbfs:/x",
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_outside_is_refused(
    ml_client: Any, server: Any, tracking: Any, run: str, source: str
) -> None:
    from mlflow.exceptions import MlflowException

    account = tracking.get_run(run).info.artifact_uri.split("/")[1]
    given = SOURCES[source].replace("ACCOUNT", account).replace("RUN", run)
    name = f"guarded-{source.replace(' ', '-')}"
    tracking.create_registered_model(name)
    with pytest.raises(MlflowException):
        tracking.create_model_version(name, given)
    token = os.environ["MLFLOW_TRACKING_TOKEN"]
    path = f"/mlflow/v1.0{server.workspace_path}/api/2.0/mlflow/model-versions/create"
    status, body = server.call("POST", path, {"name": name, "source": given}, token)
    assert (status, body["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert tracking.search_model_versions(f"name = '{name}'") == []
    assert name not in [model.name for model in ml_client.models.list()]


def test_other_workspaces_see_nothing(
    server: Any, other_client: Callable[[str, str, str], Any], tracking: Any, run: str
) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.register_model(f"runs:/{run}/model", "private")
    address = tracking.get_run(run).info.artifact_uri
    other = other_client("0a0a", "bridge", "beside")
    uri = other.workspaces.get("beside").mlflow_tracking_uri
    stranger = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    assert list(stranger.search_registered_models()) == []
    assert [model.name for model in other.models.list()] == []
    stranger.create_registered_model("theft")
    for source in (
        f"runs:/{run}/model",
        f"{address}/model",
        "models:/private/1",
        "mlflow-artifacts:/models/private/1",
    ):
        with pytest.raises(MlflowException):
            stranger.create_model_version("theft", source)
    assert stranger.search_model_versions("name = 'theft'") == []


def test_the_files_of_a_version_are_read_only(
    server: Any, ml_client: Any, tracking: Any, folder: Path
) -> None:
    from azure.ai.ml.entities import Model

    ml_client.models.create_or_update(Model(name="files", path=str(folder), type="mlflow_model"))
    base = f"/mlflow/v1.0{server.workspace_path}/api/2.0/mlflow-artifacts/artifacts"
    status, found = server.call("GET", f"{base}?path=models/files/1")
    assert status == 200 and {"path": "MLmodel", "is_dir": False, "file_size": len(MLMODEL)} in found["files"]
    for path, expected in (
        ("models/files/1/%252e%252e/x", 400),
        ("models/files/1/nothing", 404),
        ("models/files/7/MLmodel", 404),
        ("models/files", 400),
    ):
        assert server.call("GET", f"{base}/{path}")[0] == expected, path
    assert server.call("DELETE", f"{base}/models/files/1/MLmodel")[0] == 403
