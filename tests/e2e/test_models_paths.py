"""Every form of path from which a model can be registered, and those that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

MLMODEL = "flavors:\n  python_function:\n    loader_module: x\n"


@pytest.fixture(scope="module")
def run(ml_client: Any, server: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that MLflow's client made, with a model, a triton repository and a link that leads out."""
    import mlflow

    root = tmp_path_factory.mktemp("artifacts")
    for name, text in {
        "outputs/mlflow-model/MLmodel": MLMODEL,
        "outputs/model.pt": "weights",
        "repository/net/1/model.onnx": "O",
        "flat/model.onnx": "O",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    mlflow.set_tracking_uri(f"{server.base_url}/mlflow/v1.0{server.workspace_path}")
    client = mlflow.MlflowClient()
    found = client.create_run(client.create_experiment("of-paths"))
    client.log_artifacts(found.info.run_id, str(root))
    folder = server.folder.blobs / found.info.artifact_uri.partition(":/")[2]
    (folder / "linked").mkdir(mode=0o700)
    (folder / "linked" / "MLmodel").symlink_to("/etc/hostname")
    run_id: str = found.info.run_id
    return run_id


def put(server: Any, name: str, uri: str, model_type: str = "mlflow_model") -> tuple[int, Any]:
    body = {"properties": {"modelUri": uri, "modelType": model_type}}
    answer: tuple[int, Any] = server.call(
        "PUT", f"{server.workspace_path}/models/{name}/versions/1?api-version=2023-08-01-preview", body
    )
    return answer


FORMS = {
    "job": "azureml://jobs/RUN/outputs/artifacts/paths/outputs/mlflow-model/",
    "job-short": "azureml://jobs/RUN/outputs/artifacts/outputs/mlflow-model/",
    "runs": "runs:/RUN/outputs/mlflow-model",
    "experiment": "azureml://experiments/of-paths/runs/RUN/artifacts/outputs/mlflow-model",
}


@pytest.mark.parametrize("form", FORMS)
def test_the_sdk_registers_from_a_run(ml_client: Any, run: str, tmp_path: Path, form: str) -> None:
    from azure.ai.ml.entities import Model

    path = FORMS[form].replace("RUN", run)
    made = ml_client.models.create_or_update(Model(name=f"from-{form}", path=path, type="mlflow_model"))
    assert (made.version, made.job_name) == ("1", run)
    assert "/datastores/workspaceartifactstore/paths/" in made.path
    ml_client.models.download(made.name, "1", download_path=str(tmp_path))
    assert (tmp_path / made.name / "mlflow-model" / "MLmodel").read_text() == MLMODEL
    # The long form that is shown names the same place again, and so does the asset.
    long = ml_client.models.create_or_update(Model(name=f"long-{form}", path=made.path, type="mlflow_model"))
    assert long.path == made.path


def test_a_model_of_a_model_and_a_file(ml_client: Any, server: Any, run: str, tmp_path: Path) -> None:
    assert put(server, "paths-origin", f"runs:/{run}/outputs/mlflow-model")[0] == 201
    for name, uri in (
        ("paths-by-version", "azureml:paths-origin:1"),
        ("paths-by-label", "azureml:paths-origin@latest"),
    ):
        status, found = put(server, name, uri)
        assert (status, found["properties"]["jobName"]) == (201, run)
    assert put(server, "paths-weights", f"runs:/{run}/outputs/model.pt", "custom_model")[0] == 201
    ml_client.models.download("paths-weights", "1", download_path=str(tmp_path))
    assert [path.read_text() for path in tmp_path.rglob("model.pt")] == ["weights"]
    assert put(server, "paths-triton", f"runs:/{run}/repository", "triton_model")[0] == 201


BEIT = "azureml://registries/azureml/models/microsoft-beit-base-patch16-224-pt22k-ft22k/versions/1"
REFUSED = {
    "up": ("runs:/RUN/../../x", 400),
    "job-up": ("azureml://jobs/RUN/outputs/artifacts/paths/../../x", 400),
    "encoded": ("runs:/RUN/%2e%2e/x", 400),
    "file": ("file:///etc", 400),
    "http": ("http://127.0.0.1/x", 400),
    "absolute": ("/etc", 400),
    "no-run": ("runs:/nobody/model", 400),
    "no-job": ("azureml://jobs/nobody/outputs/artifacts/paths/model", 400),
    "host": ("runs://RUN/model", 400),
    "elsewhere": (
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/jobs/RUN/outputs/artifacts/paths/x",
        400,
    ),
    "link": ("runs:/RUN/linked", 400),
    "no-asset": ("azureml:nobody:1", 400),
    "curated": (BEIT, 404),
    "nothing": ("runs:/RUN/nothing", 400),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_paths_are_refused(ml_client: Any, server: Any, run: str, case: str) -> None:
    uri, expected = REFUSED[case]
    status, found = put(server, f"refused-{case}", uri.replace("RUN", run))
    assert status == expected, found
    assert (
        server.call(
            "GET", f"{server.workspace_path}/models/refused-{case}/versions/1?api-version=2023-08-01-preview"
        )[0]
        == 404
    )


def test_layouts_are_looked_at(ml_client: Any, server: Any, run: str) -> None:
    for path, kind, text in (
        ("flat", "triton_model", "holds no folder"),
        ("repository/net/1", "triton_model", "holds no folder"),
        ("repository/net/1/model.onnx", "triton_model", "is a file"),
        ("flat", "mlflow_model", "no file named MLmodel"),
        ("flat", "pickle_model", "modelType 'pickle_model'"),
    ):
        status, found = put(server, "layouts", f"runs:/{run}/{path}", kind)
        assert status == 400 and text in found["error"]["message"], found
