"""The whole path by the unmodified SDK: data, AutoML job, run tree, metrics, model, endpoint, predictions."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amlocal.fixtures.datasets import write_digits

SUBSCRIPTION = "1f3a52c7-60c5-4b3e-9d9d-0c2b7a9c1e11"
GROUP = "vision-team-rg"
WORKSPACE = "Vision-Prod"
JOB = "digits_first_light"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A team's own config.json, as Azure's portal gives it."""
    file = tmp_path_factory.mktemp("team") / "config.json"
    names = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": WORKSPACE}
    file.write_text(json.dumps(names))
    return file


@pytest.fixture(scope="module")
def client(server: Any, client_environment: None, config: Path) -> Any:
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    added = server.command("workspace", "add", str(config), "--data-dir", str(server.root))
    assert added.returncode == 0, added.stderr
    return MLClient.from_config(DefaultAzureCredential(), path=str(config))


@pytest.fixture(scope="module")
def digits(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Images uploaded as a data asset; MLTables whose JSONL names the team's own workspace in full."""
    from azure.ai.ml.constants import AssetTypes
    from azure.ai.ml.entities import Data

    folder = tmp_path_factory.mktemp("digits")
    raw = write_digits(folder / "raw", train=60, validation=20, held_out=3, size=32, classes=(0, 1, 2))
    asset = client.data.create_or_update(
        Data(name="digit-images", path=str(folder / "raw"), type=AssetTypes.URI_FOLDER)
    )
    assert (asset.name, asset.version) == ("digit-images", "1")
    assert f"/subscriptions/{SUBSCRIPTION}/" in asset.id
    assert asset.path.startswith(
        f"azureml://subscriptions/{SUBSCRIPTION}/resourcegroups/{GROUP}/workspaces/{WORKSPACE}/"
    )
    for part in (raw.train, raw.validation):
        jsonl = next(part.glob("*.jsonl"))
        rows = [json.loads(line) for line in jsonl.read_text().splitlines()]
        for row in rows:
            row["image_url"] = f"{asset.path.rstrip('/')}/{part.name}/{row['image_url']}"
        target = folder / "tables" / part.name
        target.mkdir(parents=True)
        (target / jsonl.name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        (target / "MLTable").write_text((part / "MLTable").read_text())
    return folder / "tables", raw.held_out


@pytest.fixture(scope="module")
def finished(client: Any, digits: Any) -> Any:
    """The job, run to its end."""
    from azure.ai.ml import Input, automl
    from azure.ai.ml.constants import AssetTypes

    tables, _ = digits
    job = automl.image_classification(
        training_data=Input(type=AssetTypes.MLTABLE, path=str(tables / "train")),
        validation_data=Input(type=AssetTypes.MLTABLE, path=str(tables / "validation")),
        target_column_name="label",
        primary_metric="accuracy",
        compute="cpu-cluster",
        experiment_name="digits",
        tags={"team": "vision"},
    )
    job.name = JOB
    job.set_limits(timeout_minutes=30)
    job.set_training_parameters(
        model_name="resnet18",
        number_of_epochs=3,
        learning_rate=0.05,
        training_batch_size=10,
        validation_batch_size=20,
        training_crop_size=32,
        validation_resize_size=32,
        validation_crop_size=32,
        early_stopping=False,
        random_seed=1,
        advanced_settings='{"pretrained": false}',
    )
    submitted = client.jobs.create_or_update(job)
    assert submitted.name == JOB
    assert submitted.status in ("NotStarted", "Queued", "Preparing", "Running")
    client.jobs.stream(JOB)
    return client.jobs.get(JOB)


def test_the_job_completes(finished: Any) -> None:
    assert finished.status == "Completed"
    assert finished.type == "automl"
    assert finished.experiment_name == "digits"
    assert finished.tags["team"] == "vision"
    assert finished.tags["automl_best_child_run_id"] == f"{JOB}_HD_0"


def test_run_tree(client: Any, finished: Any) -> None:
    sweep = client.jobs.get(f"{JOB}_HD")
    trial = client.jobs.get(f"{JOB}_HD_0")
    assert [child.name for child in client.jobs.list(parent_job_name=JOB)] == [f"{JOB}_HD"]
    assert [child.name for child in client.jobs.list(parent_job_name=f"{JOB}_HD")] == [f"{JOB}_HD_0"]
    assert (sweep.status, trial.status) == ("Completed", "Completed")
    assert sweep.properties["best_child_run_id"] == f"{JOB}_HD_0"
    assert trial.properties["run_algorithm"] == "resnet18"
    assert JOB in [job.name for job in client.jobs.list()]
    assert f"{JOB}_HD" not in [job.name for job in client.jobs.list()]


def test_metrics_of_every_epoch_are_in_mlflow(client: Any, finished: Any) -> None:
    import mlflow

    workspace = client.workspaces.get(WORKSPACE)
    tracking = mlflow.MlflowClient(tracking_uri=workspace.mlflow_tracking_uri)
    run = tracking.get_run(f"{JOB}_HD_0")
    history = tracking.get_metric_history(f"{JOB}_HD_0", "accuracy")
    assert [metric.step for metric in sorted(history, key=lambda m: m.step)] == [0, 1, 2]
    for name in ("log_loss", "log_loss_train", "f1_score_macro", "AUC_weighted", "precision_score_weighted"):
        assert name in run.data.metrics, sorted(run.data.metrics)
    best = max(metric.value for metric in history)
    trial = client.jobs.get(f"{JOB}_HD_0")
    assert float(trial.properties["score"]) == pytest.approx(best, abs=1e-5)
    assert run.info.status == "FINISHED"
    parent = tracking.get_run(JOB)
    assert parent.data.tags["automl_best_child_run_id"] == f"{JOB}_HD_0"
    assert run.data.tags["mlflow.parentRunId"] == f"{JOB}_HD"


def test_logs_and_artifacts_download(client: Any, finished: Any, tmp_path: Path) -> None:
    client.jobs.download(f"{JOB}_HD_0", download_path=str(tmp_path))
    artifacts = tmp_path / "artifacts"
    log = (artifacts / "user_logs" / "std_log.txt").read_text()
    assert "resnet18" in log and "accuracy" in log
    model = artifacts / "outputs" / "mlflow-model"
    settings = json.loads((model / "artifacts" / "settings.json").read_text())
    assert settings["valid_crop_size"] == 32 and settings["valid_resize_size"] == 32
    assert not list(model.rglob("*.pkl"))
    assert json.loads((artifacts / "train_artifacts" / "labels.json").read_text()) == ["0", "1", "2"]
    data = json.loads((artifacts / "confusion_matrix").read_text())["data"]
    assert data["class_labels"] == ["0", "1", "2"]
    assert sum(map(sum, data["matrix"])) == 20
    assert (artifacts / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")


def test_the_studio_page_shows_the_run(server: Any, finished: Any) -> None:
    import requests

    browser = requests.Session()
    page = browser.get(finished.services["Studio"].endpoint)
    assert page.status_code == 200
    assert "Completed" in page.text and f"{JOB}_HD_0" in page.text and "log_loss" in page.text
    assert "&t=" not in page.url
    ui = browser.get(
        f"{server.base_url}/mlflow/v1.0/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
        f"/providers/Microsoft.MachineLearningServices/workspaces/{WORKSPACE}/"
    )
    assert ui.status_code == 200 and "MLflow" in ui.text
    assert requests.get(page.url).status_code == 401


@pytest.fixture(scope="module")
def model(client: Any, finished: Any) -> Any:
    from azure.ai.ml.constants import AssetTypes
    from azure.ai.ml.entities import Model

    best = finished.tags["automl_best_child_run_id"]
    return client.models.create_or_update(
        Model(
            name="digits-resnet18",
            path=f"azureml://jobs/{best}/outputs/artifacts/outputs/mlflow-model/",
            type=AssetTypes.MLFLOW_MODEL,
        )
    )


def test_the_model_is_registered(client: Any, model: Any, tmp_path: Path) -> None:
    assert (model.name, model.version, model.type) == ("digits-resnet18", "1", "mlflow_model")
    latest = client.models.get("digits-resnet18", label="latest")
    assert latest.version == "1"
    assert "python_function" in latest.flavors
    client.models.download("digits-resnet18", "1", download_path=str(tmp_path))
    assert list(tmp_path.rglob("MLmodel"))


@pytest.fixture(scope="module")
def endpoint(client: Any, model: Any) -> Any:
    from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint

    client.online_endpoints.begin_create_or_update(
        ManagedOnlineEndpoint(name="digits-endpoint", auth_mode="key")
    ).result()
    client.online_deployments.begin_create_or_update(
        ManagedOnlineDeployment(
            name="blue",
            endpoint_name="digits-endpoint",
            model=model.id,
            instance_type="Standard_DS3_v2",
            instance_count=1,
        )
    ).result()
    created = client.online_endpoints.get("digits-endpoint")
    created.traffic = {"blue": 100}
    client.online_endpoints.begin_create_or_update(created).result()
    return client.online_endpoints.get("digits-endpoint")


def body(images: list[Path]) -> dict[str, Any]:
    rows = [[base64.encodebytes(path.read_bytes()).decode()] for path in images]
    return {"input_data": {"columns": ["image"], "index": list(range(len(rows))), "data": rows}}


def test_invoke(client: Any, endpoint: Any, digits: Any, tmp_path: Path) -> None:
    held_out = [path for path, _ in digits[1]]
    request = tmp_path / "request.json"
    request.write_text(json.dumps(body(held_out)))
    answer = json.loads(
        client.online_endpoints.invoke(endpoint_name="digits-endpoint", request_file=str(request))
    )
    assert len(answer) == 3
    for row in answer:
        assert row["labels"] == ["0", "1", "2"]
        assert sum(row["probs"]) == pytest.approx(1.0, abs=1e-4)
    # The same as the model gives without a server in between.
    import mlflow
    import pandas

    local = mlflow.pyfunc.load_model(str(client_artifacts(client, tmp_path)))
    frame = pandas.DataFrame({"image": [base64.encodebytes(path.read_bytes()).decode() for path in held_out]})
    expected = pandas.DataFrame(local.predict(frame))
    for row, probabilities in zip(answer, expected["probs"], strict=True):
        assert row["probs"] == pytest.approx(list(probabilities), abs=1e-2)


def client_artifacts(client: Any, folder: Path) -> Path:
    client.models.download("digits-resnet18", "1", download_path=str(folder / "model"))
    return next((folder / "model").rglob("MLmodel")).parent


def test_keys_open_only_their_own_endpoint(client: Any, endpoint: Any, digits: Any) -> None:
    import requests

    keys = client.online_endpoints.get_keys("digits-endpoint")
    held_out = [digits[1][0][0]]

    def status(key: str | None) -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return requests.post(endpoint.scoring_uri, json=body(held_out), headers=headers).status_code

    assert status(keys.primary_key) == 200
    assert status(keys.secondary_key) == 200
    assert status(None) == 401
    assert status("x" * 43) == 401
    client.online_endpoints.begin_regenerate_keys("digits-endpoint", key_type="primary").result()
    assert status(keys.primary_key) == 401
    assert status(client.online_endpoints.get_keys("digits-endpoint").primary_key) == 200
    assert os.environ["IDENTITY_HEADER"] not in (keys.primary_key, keys.secondary_key)


def test_bad_scoring_input_names_the_row(client: Any, endpoint: Any, digits: Any) -> None:
    import requests

    key = client.online_endpoints.get_keys("digits-endpoint").primary_key
    good = body([digits[1][0][0]])
    good["input_data"]["data"].append(["bm90IGFuIGltYWdl"])
    good["input_data"]["index"] = [0, 1]
    answer = requests.post(endpoint.scoring_uri, json=good, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 424
    assert answer.headers["ms-azureml-model-error-statuscode"] == "400"
    assert "row 1" in answer.text.lower()


def test_deployment_logs_and_state(client: Any, endpoint: Any) -> None:
    deployment = client.online_deployments.get("blue", "digits-endpoint")
    assert deployment.provisioning_state == "Succeeded"
    assert "/score" in client.online_deployments.get_logs("blue", "digits-endpoint", lines=50)


def test_another_workspace_sees_nothing_of_it(
    other_client: Callable[[str, str, str], Any], model: Any, endpoint: Any
) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    other = other_client(SUBSCRIPTION, GROUP, "somebody-else")
    assert list(other.jobs.list()) == []
    assert list(other.models.list()) == []
    assert list(other.online_endpoints.list()) == []
    for read in (
        lambda: other.jobs.get(JOB),
        lambda: other.models.get("digits-resnet18", "1"),
        lambda: other.data.get("digit-images", "1"),
        lambda: other.online_endpoints.get("digits-endpoint"),
    ):
        with pytest.raises(ResourceNotFoundError):
            read()


def test_a_deployment_with_traffic_cannot_be_deleted_and_the_endpoint_can(client: Any, endpoint: Any) -> None:
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    with pytest.raises(HttpResponseError, match="100 % of the traffic"):
        client.online_deployments.begin_delete("blue", "digits-endpoint").result()
    client.online_endpoints.begin_delete("digits-endpoint").result()
    with pytest.raises(ResourceNotFoundError):
        client.online_endpoints.get("digits-endpoint")
