"""Every training parameter of the two classification tasks refuses what it cannot use, by the real SDK."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amlocal.compat import names
from amlocal.fixtures.datasets import write_digits

TASKS = ("image-classification", "image-classification-multilabel")


@pytest.fixture(scope="module")
def training_uri(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLTable folder in the workspace's datastore."""
    from azure.ai.ml.entities import Data

    folder = tmp_path_factory.mktemp("values")
    digits = write_digits(folder, train=12, validation=2, held_out=0, size=8, classes=(0, 1))
    made = ml_client.data.create_or_update(Data(name="values", path=str(digits.train), type="mltable"))
    return str(made.path)


def bad_numbers(row: names.Hyperparameter) -> Iterator[Any]:
    assert row.minimum is not None and row.maximum is not None
    step = 1 if row.type == "int" else 0.001
    yield from (row.minimum - step, row.maximum + step, "many", "nan", "1e400", True, [1], {"a": 1})
    yield from (math.nan, math.inf, 10**400)
    if row.type == "int":
        yield from (row.minimum + 0.5, str(row.minimum + 0.5))


def bad(row: names.Hyperparameter) -> list[Any]:
    """What the parameter must not take, as it can stand in JSON."""
    if row.type in ("int", "float"):
        return list(bad_numbers(row))
    return {
        "bool": ["maybe", 2, 0.5, [True], math.nan],
        "enum": ["lion", 1, True, ["sgd"]],
        "str": [5, 0.5, True, ["text"]],
        "model": ["azureml:digits:1", 5, [], {}, {"uri": "azureml:digits:1"}],
    }[row.type]


@pytest.mark.parametrize("task", TASKS)
def test_the_sdk_passes_on_what_the_server_refuses(ml_client: Any, training_uri: str, task: str) -> None:
    """The SDK checks the types of YAML files only, not of what is set in Python."""
    from azure.ai.ml import Input, automl
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    make = getattr(automl, names.task(task).yaml)
    rows = [row for row in names.hyperparameters(task).values() if row.type in ("int", "float", "bool")]
    assert len(rows) > 20
    for row in rows:
        value = "maybe" if row.type == "bool" else row.minimum - 1
        job = make(
            training_data=Input(type="mltable", path=training_uri),
            target_column_name="label",
            compute="cpu-cluster",
            experiment_name="values",
        )
        job.name = f"refused_{row.name}"
        job.set_training_parameters(model_name="resnet18", **{row.name: value})
        with pytest.raises(HttpResponseError) as caught:
            ml_client.jobs.create_or_update(job)
        assert caught.value.status_code == 400
        text = str(caught.value)
        assert f"training_parameters.{row.name}: {value!r} is not allowed" in text, text
        assert row.allowed() in text
        with pytest.raises(ResourceNotFoundError):
            ml_client.jobs.get(job.name)


@pytest.mark.parametrize("task", TASKS)
def test_every_refused_value(server: Any, ml_client: Any, training_uri: str, task: str) -> None:
    """By plain REST, where nothing stands between the value and the server."""
    before = {job.name for job in ml_client.jobs.list()}
    path = f"{server.workspace_path}/jobs/refused"
    token = server.user_token()
    for row in names.hyperparameters(task).values():
        for value in bad(row):
            details = {
                "taskType": names.task(task).rest,
                "targetColumnName": "label",
                "trainingData": {"jobInputType": "mltable", "uri": training_uri},
                "modelSettings": {"modelName": "resnet18", row.rest: value},
            }
            body = {"properties": {"jobType": "AutoML", "taskDetails": details}}
            status, answer = server.call("PUT", path, body, token=token)
            assert status == 400, (row.name, value, answer)
            error = answer["error"]
            assert error["code"] == "UserError" and row.name in error["message"], (row.name, value, error)
            assert error["target"].startswith(f"taskDetails.modelSettings.{row.rest}")
    assert server.call("GET", path)[0] == 404
    assert {job.name for job in ml_client.jobs.list()} == before


YAML = """\
type: automl
name: {name}
experiment_name: values
compute: azureml:{compute}
task: {task}
log_verbosity: {verbosity}
primary_metric: {metric}
target_column_name: label
training_data:
  path: {uri}
  type: mltable
validation_data_size: 0.2
limits:
  timeout_minutes: 60
properties:
  node_count_per_trial: "2"
training_parameters:
  model_name: resnet18
  early_stopping: True
  evaluation_frequency: 1
  learning_rate_scheduler: step
  advanced_settings: '{{"pretrained": false, "stream_image_files": true}}'
"""


@pytest.mark.parametrize(
    ("task", "metric", "verbosity", "stored"),
    [
        ("image_classification", "norm_macro_recall", "not_set", "NotSet"),
        ("image_classification_multilabel", "average_precision_score_weighted", "critical", "Critical"),
    ],
)
def test_a_job_of_a_yaml_file(
    server: Any,
    ml_client: Any,
    training_uri: str,
    tmp_path: Path,
    task: str,
    metric: str,
    verbosity: str,
    stored: str,
) -> None:
    from azure.ai.ml import load_job
    from azure.ai.ml.entities import AmlCompute
    from azure.core.exceptions import HttpResponseError

    file = tmp_path / "job.yml"
    values = {"task": task, "metric": metric, "verbosity": verbosity, "uri": training_uri}
    file.write_text(YAML.format(name=f"yaml_{stored}", compute="cpu-cluster", **values))
    job = ml_client.jobs.create_or_update(load_job(str(file)))
    ml_client.jobs.begin_cancel(job.name).result()
    assert (job.log_verbosity, job.properties["node_count_per_trial"]) == (stored, "2")
    assert job.primary_metric == names.primary_metric(task, metric).rest
    assert job.validation_data_size == 0.2 and job.target_column_name == "label"
    assert job.training_parameters.learning_rate_scheduler == "Step"
    _, shown = server.call("GET", f"{server.workspace_path}/jobs/{job.name}")
    assert shown["properties"]["taskDetails"]["taskType"] == names.task(task).rest
    ml_client.compute.begin_create_or_update(AmlCompute(name="one-node", max_instances=1)).result()
    file.write_text(YAML.format(name="too_large", compute="one-node", **values))
    with pytest.raises(HttpResponseError, match="node_count_per_trial is 2 and compute one-node") as caught:
        ml_client.jobs.create_or_update(load_job(str(file)))
    assert caught.value.status_code == 400
    assert "at most 1 node." in str(caught.value)


def test_a_yaml_file_with_an_unknown_key_does_not_leave_the_client(tmp_path: Path) -> None:
    """So that only plain REST can send one: the SDK's own check is on our users' side."""
    from azure.ai.ml import load_job

    file = tmp_path / "job.yml"
    file.write_text(
        "type: automl\ntask: image_classification\ntarget_column_name: label\n"
        "training_data: {path: azureml:x:1, type: mltable}\ntraining_parameters: {learning_rat: 0.1}\n"
    )
    with pytest.raises(Exception, match="learning_rat"):
        load_job(str(file))
