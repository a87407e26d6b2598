"""Image classification with several labels an image, by SDK and YAML, and going on from earlier runs."""

from __future__ import annotations

import base64
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

from amlocal.fixtures.datasets import jpeg, write_mltable

SIDE = 32
PARAMETERS = {
    "model_name": "resnet18",
    "number_of_epochs": 2,
    "training_batch_size": 6,
    "training_crop_size": SIDE,
    "validation_crop_size": SIDE,
    "validation_resize_size": SIDE,
    "random_seed": 1,
}
SETTINGS = '{"pretrained": false}'
YAML = """\
$schema: https://azuremlsdk2.blob.core.windows.net/preview/0.0.1/autoMLJob.schema.json
type: automl
name: pairs_yaml
experiment_name: pairs
compute: azureml:cpu-cluster
task: image_classification_multilabel
log_verbosity: debug
primary_metric: iou
target_column_name: digits in it
training_data:
  path: {data}
  type: mltable
validation_data_size: 0.25
limits:
  timeout_minutes: 30
properties:
  node_count_per_trial: "1"
training_parameters:
  checkpoint_run_id: {run}
  early_stopping: False
  optimizer: adamw
  learning_rate: 0.001
  advanced_settings: '{settings}'
  random_seed: 2
"""


def write_pairs(folder: Path, classes: Sequence[int], count: int = 24) -> Path:
    """An MLTable of images with two of scikit-learn's digits side by side; the labels say which."""
    from numpy import hstack
    from sklearn.datasets import load_digits

    data = load_digits()
    draw = random.Random(3)
    rows: list[dict[str, object]] = []
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        pair = [classes[number % len(classes)], draw.choice(classes)]
        halves = [data.images[draw.choice((data.target == digit).nonzero()[0])] for digit in pair]
        (folder / "images" / f"{number}.jpg").write_bytes(jpeg(hstack(halves), SIDE))
        labels = sorted({str(digit) for digit in pair})
        rows.append({"image_url": f"images/{number}.jpg", "digits in it": labels})
    return write_mltable(folder, rows)


def ended(client: Any, name: str) -> Any:
    def done() -> Any:
        job = client.jobs.get(name)
        return job if job.status in ("Completed", "Failed", "Canceled") else None

    return wait_for(done, 240, f"the end of {name}")


@pytest.fixture(scope="module")
def first(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A multilabel job by the SDK, at its end."""
    from azure.ai.ml import Input, automl

    folder = tmp_path_factory.mktemp("pairs")
    job = automl.image_classification_multilabel(
        training_data=Input(type="mltable", path=str(write_pairs(folder / "train", (0, 1, 2)))),
        validation_data=Input(type="mltable", path=str(write_pairs(folder / "valid", (0, 1, 2), 12))),
        target_column_name="digits in it",
        primary_metric="iou",
        compute="cpu-cluster",
        experiment_name="pairs",
        properties={"node_count_per_trial": 1},
    )
    job.name = "pairs_sdk"
    job.log_verbosity = "debug"
    job.set_limits(timeout_minutes=30)
    job.set_training_parameters(**PARAMETERS, advanced_settings=SETTINGS)
    ml_client.jobs.create_or_update(job)
    return ended(ml_client, "pairs_sdk")


@pytest.fixture(scope="module")
def artifacts(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The downloaded files of a job's only trial."""

    def download(job: str) -> Path:
        folder = tmp_path_factory.mktemp("artifacts")
        ml_client.jobs.download(f"{job}_HD_0", download_path=str(folder))
        return folder / "artifacts"

    return download


def why(client: Any, job: Any, artifacts: Callable[[str], Path]) -> str:
    log = artifacts(job.name) / "user_logs" / "std_log.txt"
    return f"{job.status}: {log.read_text()[-3000:] if log.exists() else 'no log'}"


def test_a_multilabel_job_from_the_sdk(ml_client: Any, first: Any, artifacts: Any) -> None:
    import mlflow

    assert first.status == "Completed", why(ml_client, first, artifacts)
    assert first.primary_metric == "IOU" and first.log_verbosity == "Debug"
    assert first.properties["node_count_per_trial"] == "1"
    assert first.training_parameters.model_name == "resnet18"
    tracking = mlflow.MlflowClient(
        tracking_uri=ml_client.workspaces.get(ml_client.workspace_name).mlflow_tracking_uri
    )
    history = tracking.get_metric_history("pairs_sdk_HD_0", "iou")
    assert sorted(metric.step for metric in history) == [0, 1]
    assert all(0 <= metric.value <= 1 for metric in history)
    logged = set(tracking.get_run("pairs_sdk_HD_0").data.metrics)
    assert logged >= {
        "iou",
        "iou_macro",
        "iou_micro",
        "iou_weighted",
        "accuracy",
        "log_loss",
        "log_loss_train",
    }
    trial = ml_client.jobs.get("pairs_sdk_HD_0")
    assert float(trial.properties["score"]) == pytest.approx(max(m.value for m in history), abs=1e-5)
    files = artifacts("pairs_sdk")
    assert json.loads((files / "train_artifacts/labels.json").read_text()) == ["0", "1", "2"]
    model = files / "outputs/mlflow-model"
    assert (
        json.loads((model / "artifacts/model.json").read_text())["task"] == "image-classification-multilabel"
    )


def test_a_yaml_job_goes_on_from_it_with_one_more_label(
    ml_client: Any, first: Any, artifacts: Any, tmp_path: Path
) -> None:
    from azure.ai.ml import load_job

    assert first.status == "Completed"
    data = write_pairs(tmp_path / "train", (0, 1, 2, 3))
    file = tmp_path / "job.yml"
    file.write_text(YAML.format(data=data, run="pairs_sdk", settings=SETTINGS))
    sizes = {key: value for key, value in PARAMETERS.items() if key not in ("random_seed", "model_name")}
    job = load_job(str(file), params_override=[{f"training_parameters.{key}": sizes[key]} for key in sizes])
    ml_client.jobs.create_or_update(job)
    found = ended(ml_client, "pairs_yaml")
    assert found.status == "Completed", why(ml_client, found, artifacts)
    assert found.training_parameters.checkpoint_run_id == "pairs_sdk"
    files = artifacts("pairs_yaml")
    assert json.loads((files / "train_artifacts/labels.json").read_text()) == ["0", "1", "2", "3"]
    log = (files / "user_logs/std_log.txt").read_text()
    assert "the model is resnet18, that of the checkpoint" in log
    # The classifier's weight and bias belong to other labels now.
    assert "120 of 122 tensors come from run pairs_sdk_HD_0" in log, log
    assert ml_client.jobs.get("pairs_yaml_HD_0").properties["run_algorithm"] == "resnet18"


def test_a_registered_model_goes_on_in_two_processes_and_an_unknown_key_changes_nothing(
    server: Any, ml_client: Any, first: Any, artifacts: Any
) -> None:
    """By plain REST: the SDK has no field for such a model, nor for unknown keys."""
    from azure.ai.ml.entities import Model

    assert first.status == "Completed"
    path = "azureml://jobs/pairs_sdk_HD_0/outputs/artifacts/paths/outputs/mlflow-model/"
    ml_client.models.create_or_update(Model(name="pairs", path=path, type="mlflow_model"))
    status, stored = server.call("GET", f"{server.workspace_path}/jobs/pairs_sdk")
    assert status == 200
    details = stored["properties"]["taskDetails"]
    settings = {
        **details["modelSettings"],
        "numberOfEpochs": 1,
        "checkpointModel": {"jobInputType": "mlflow_model", "uri": "azureml:pairs:1"},
        "learningrate": 0.5,
    }
    body = {
        "jobType": "AutoML",
        "taskDetails": {**details, "modelSettings": settings},
        "properties": {"node_count_per_trial": 2},
    }
    job = f"{server.workspace_path}/jobs/pairs_rest"
    status, answer = server.call("PUT", job, {"properties": body})
    assert status == 201, answer
    found = ended(ml_client, "pairs_rest")
    assert found.status == "Completed", why(ml_client, found, artifacts)
    _, shown = server.call("GET", job)
    assert shown["properties"]["taskDetails"]["modelSettings"]["learningrate"] == 0.5
    assert shown["properties"]["tags"]["amlocal.ignored"] == "modelSettings.learningrate"
    assert shown["properties"]["properties"]["node_count_per_trial"] == "2"
    log = (artifacts("pairs_rest") / "user_logs/std_log.txt").read_text()
    assert "'modelSettings.learningrate' (did you mean learningRate" in log
    assert "node_count_per_trial is 2; this one host trains, in 2 processes" in log
    assert "122 of 122 tensors come from run azureml:pairs:1" in log, log


def test_a_checkpoint_of_another_model_is_refused_at_submit(ml_client: Any, first: Any) -> None:
    from azure.ai.ml import Input, automl
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    job = automl.image_classification_multilabel(
        training_data=Input(type="mltable", path=first.training_data.path),
        target_column_name="digits in it",
        compute="cpu-cluster",
    )
    job.name = "pairs_other"
    job.set_training_parameters(model_name="mobilenetv2", checkpoint_run_id="pairs_sdk_HD_0")
    with pytest.raises(HttpResponseError, match="model_name is mobilenetv2") as caught:
        ml_client.jobs.create_or_update(job)
    assert "checkpoint 'pairs_sdk_HD_0' holds a resnet18" in str(caught.value)
    job.set_training_parameters(checkpoint_run_id="pairs_nobody")
    with pytest.raises(HttpResponseError, match="has no such run"):
        ml_client.jobs.create_or_update(job)
    with pytest.raises(ResourceNotFoundError):
        ml_client.jobs.get("pairs_other")


def test_the_scoring_script_answers_as_the_mlflow_model(
    ml_client: Any, first: Any, artifacts: Any, tmp_path: Path
) -> None:
    """Both as users deploy them, and the MLflow model once more with a setting changed."""
    import endpoint_desk
    from azure.ai.ml.entities import CodeConfiguration, Environment, Model

    assert first.status == "Completed"
    outputs = artifacts("pairs_sdk") / "outputs"
    script, conda = "scoring_file_v_1_0_0.py", "conda_env_v_1_0_0.yml"
    code, edited = tmp_path / "code", tmp_path / "edited"
    code.mkdir()
    shutil.copy(outputs / script, code)
    shutil.copytree(outputs / "mlflow-model", edited)
    settings = json.loads((edited / "artifacts/settings.json").read_text())
    (edited / "artifacts/settings.json").write_text(json.dumps({**settings, "valid_resize_size": 2 * SIDE}))

    root = "azureml://jobs/pairs_sdk_HD_0/outputs/artifacts/outputs"
    models = {
        "script": Model(name="pairs-weights", path=f"{root}/model.pt", type="custom_model"),
        "mlflow": Model(name="pairs-mlflow", path=f"{root}/mlflow-model", type="mlflow_model"),
        "edited": Model(name="pairs-mlflow", path=str(edited), type="mlflow_model"),
    }
    image = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest"
    environment = Environment(name="pairs-scoring", image=image, conda_file=str(outputs / conda))
    by_script = {
        "code_configuration": CodeConfiguration(code=str(code), scoring_script=script),
        "environment": environment,
    }
    endpoint = endpoint_desk.endpoint(ml_client, "pairs-answers")
    key = ml_client.online_endpoints.get_keys("pairs-answers").primary_key
    one_engine = {"AMLOCAL_SCORING_ENGINE": "eager"}
    begun = []
    for name, model in models.items():
        registered = ml_client.models.create_or_update(model)
        more = {"environment_variables": one_engine, **(by_script if name == "script" else {})}
        made = endpoint_desk.deployment("pairs-answers", name, registered.id, **more)
        begun.append(ml_client.online_deployments.begin_create_or_update(made))
    deployed, *_ = [one.result() for one in begun]
    assert deployed.properties["azureml.runtimeEnvironment"] == "pairs-scoring:1"
    assert "amlocal.environment_differences" not in deployed.properties

    raw = (write_pairs(tmp_path / "more", (0, 1, 2)) / "images/5.jpg").read_bytes()
    text = base64.encodebytes(raw).decode()

    def invoke(deployment: str, body: Any) -> Any:
        (tmp_path / "body.json").write_text(json.dumps(body))
        return json.loads(
            ml_client.online_endpoints.invoke(
                endpoint_name="pairs-answers",
                deployment_name=deployment,
                request_file=str(tmp_path / "body.json"),
            )
        )

    table = {"input_data": {"columns": ["image"], "index": [0], "data": [[text]]}}
    (goal,) = invoke("mlflow", table)
    assert goal["labels"] == ["0", "1", "2"] and all(0 < p < 1 for p in goal["probs"])
    assert invoke("script", table) == [goal]
    assert invoke("script", {"image": text}) == {"filename": "image", **goal}
    uri, headers = endpoint.scoring_uri, {"azureml-model-deployment": "script"}
    sent = {"json": None, "headers": {**headers, "Authorization": f"Bearer {key}"}}
    answer = endpoint_desk.score(uri, None, data=raw, **sent)
    assert (answer.status_code, answer.json()) == (200, {"filename": "image", **goal})
    answer = endpoint_desk.score(uri, None, data=raw[:100], **sent)
    assert answer.status_code == 424 and "row 0" not in answer.text and "bytes" in answer.text
    assert answer.headers["ms-azureml-model-error-statuscode"] == "400"
    assert invoke("edited", table)[0]["probs"] != goal["probs"]
