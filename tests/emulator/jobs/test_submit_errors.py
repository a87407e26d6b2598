"""Everything that is wrong with a submission is said at once, names the field, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import records

BODIES = Path(__file__).parent
D = "taskDetails"
S = f"{D}.modelSettings"
L = f"{D}.limitSettings"
URI = f"{D}.trainingData.uri"
STORE = "azureml://datastores/workspaceblobstore/paths"
OTHER = "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/workspaceblobstore/paths/train"

MODEL = {"jobInputType": "mlflow_model", "uri": "azureml:digits:1"}

# (changes to a good body, status, target, what the message holds)
CASES: list[tuple[dict[str, Any], int, str | None, tuple[str, ...]]] = [
    ({"jobType": "Pipeline"}, 501, None, ("Running Pipeline jobs is not there yet",)),
    ({"jobType": "sweep"}, 400, "objective.primaryMetric", ("objective.primary_metric is missing",)),
    ({"jobType": "AutoMl2"}, 400, "jobType", ("jobType is 'AutoMl2'", "Did you mean AutoML?")),
    ({"jobType": None}, 400, "jobType", ("jobType is ''", "Pipeline")),
    ({"jobType": 7}, 400, "jobType", ("jobType must be a text, not 7",)),
    ({D: None}, 400, f"{D}.taskType", ("taskType is None", "ImageClassification")),
    ({D: "text"}, 400, D, ("taskDetails must be an object, not 'text'",)),
    (
        {f"{D}.taskType": "ImageObjectDetecton"},
        400,
        f"{D}.taskType",
        ("'ImageObjectDetecton'", "Did you mean ImageObjectDetection"),
    ),
    ({f"{D}.taskType": "TextNER"}, 501, f"{D}.taskType", ("AutoML task TextNER is not there",)),
    (
        {f"{D}.taskType": "ImageClassificationMultilabl"},
        400,
        f"{D}.taskType",
        ("'ImageClassificationMultilabl'", "Did you mean ImageClassificationMultilabel"),
    ),
    ({f"{D}.taskType": "Forecasting"}, 501, f"{D}.taskType", ("AutoML task Forecasting is not there",)),
    (
        {f"{D}.taskType": "ImageClassificatoin"},
        400,
        f"{D}.taskType",
        ("'ImageClassificatoin'", "Did you mean ImageClassification"),
    ),
    (
        {f"{D}.primaryMetric": "acuracy"},
        400,
        f"{D}.primaryMetric",
        ("primary_metric: 'acuracy'", "norm_macro_recall", "Did you mean accuracy"),
    ),
    ({f"{D}.primaryMetric": "IOU"}, 400, f"{D}.primaryMetric", ("primary_metric: 'IOU'", "one of accuracy")),
    (
        {f"{D}.logVerbosity": "loud"},
        400,
        f"{D}.logVerbosity",
        ("log_verbosity is 'loud'", "not_set, debug, info, warning, error, critical"),
    ),
    ({f"{D}.logVerbosity": 20}, 400, f"{D}.logVerbosity", ("must be a text, not 20",)),
    ({f"{D}.targetColumnName": None}, 400, f"{D}.targetColumnName", ("target_column_name is missing",)),
    ({f"{D}.targetColumnName": "a\nb"}, 400, f"{D}.targetColumnName", ("control character",)),
    ({f"{D}.targetColumnName": "lable"}, 400, f"{D}.trainingData", ("'lable'", "Did you mean 'label'?")),
    ({f"{D}.trainingData": None}, 400, f"{D}.trainingData", ("training_data is missing", "mltable")),
    ({f"{D}.trainingData": [1]}, 400, f"{D}.trainingData", ("must be an object",)),
    (
        {f"{D}.trainingData.jobInputType": "uri_folder"},
        400,
        f"{D}.trainingData.jobInputType",
        ("training_data has the type 'uri_folder'", "must be mltable"),
    ),
    ({URI: None}, 400, URI, ("training_data has no path",)),
    ({URI: "/etc"}, 400, URI, ("training_data: '/etc' is not an azureml reference", "upload")),
    ({URI: "file:///etc"}, 400, URI, ("is not an azureml reference",)),
    ({URI: f"{STORE}/../secrets"}, 400, URI, ("'..'",)),
    ({URI: f"{STORE}/%2e%2e/secrets"}, 400, URI, ("'..'",)),
    ({URI: f"{STORE}/nothing"}, 400, URI, ("training_data", "nothing' does not exist", "file named MLTable")),
    ({URI: f"{STORE}/train/MLTable"}, 400, URI, ("is a file; name the folder",)),
    ({URI: f"{STORE}/train/images"}, 400, f"{D}.trainingData", ("no file named MLTable", "read_json_lines")),
    ({URI: "azureml://datastores/mine/paths/x"}, 400, URI, ("no datastore 'mine'", "workspaceblobstore")),
    ({URI: OTHER}, 400, URI, ("workspace s/g/w", "sub-1/group-1/ws-1", "amlocal workspace add s/g/w")),
    ({URI: "azureml:digits:1"}, 400, URI, ("data asset 'digits'", "no version 1")),
    ({URI: "azureml:digits@latest"}, 400, URI, ("data asset 'digits'", "not archived")),
    ({URI: "azureml:digits"}, 400, URI, ("has no version", "azureml:NAME:VERSION")),
    (
        {f"{D}.validationData": {"jobInputType": "mltable", "uri": f"{STORE}/nothing"}},
        400,
        f"{D}.validationData.uri",
        ("validation_data", "does not exist"),
    ),
    ({f"{D}.validationDataSize": 1.0}, 400, f"{D}.validationDataSize", ("validation_data_size is 1.0",)),
    ({f"{D}.validationDataSize": "0.2"}, 400, f"{D}.validationDataSize", ("a number between 0 and 1",)),
    (
        {f"{D}.validationData": {"jobInputType": "mltable", "uri": "x"}, f"{D}.validationDataSize": 0.3},
        400,
        f"{D}.validationDataSize",
        ("validation_data and validation_data_size are both given",),
    ),
    ({f"{L}.maxTrials": 0}, 400, f"{L}.maxTrials", ("limits.max_trials is 0", "from 1 to 1000")),
    ({f"{L}.maxTrials": -3}, 400, f"{L}.maxTrials", ("limits.max_trials is -3",)),
    ({f"{L}.maxTrials": True}, 400, f"{L}.maxTrials", ("limits.max_trials is True",)),
    ({f"{L}.maxTrials": 1001}, 400, f"{L}.maxTrials", ("limits.max_trials is 1001",)),
    (
        {f"{L}.maxConcurrentTrials": 0},
        400,
        f"{L}.maxConcurrentTrials",
        ("limits.max_concurrent_trials is 0",),
    ),
    ({f"{L}.maxConcurrentTrials": 101}, 400, f"{L}.maxConcurrentTrials", ("is 101", "from 1 to 100")),
    ({f"{L}.timeout": "1 hour"}, 400, f"{L}.timeout", ("limits.timeout_minutes is '1 hour'", "PT1H30M")),
    ({f"{L}.timeout": "PT0S"}, 400, f"{L}.timeout", ("limits.timeout_minutes is 'PT0S'", "60 days")),
    ({f"{L}.timeout": "P61D"}, 400, f"{L}.timeout", ("at most 60 days",)),
    ({f"{L}.timeout": 60}, 400, f"{L}.timeout", ("limits.timeout_minutes is 60",)),
    ({L: 3}, 400, L, ("limitSettings must be an object",)),
    (
        {f"{S}.modelName": "resnet81"},
        400,
        f"{S}.modelName",
        ("model_name: 'resnet81'", "did you mean resnet18"),
    ),
    (
        {f"{S}.modelName": "microsoft/beit-x"},
        400,
        f"{S}.modelName",
        ("onfig.json of microsoft/beit-x was found neither",),
    ),
    ({f"{S}.modelName": "../../etc"}, 400, f"{S}.modelName", ("model_name: '../../etc'",)),
    ({f"{S}.modelName": 18}, 400, f"{S}.modelName", ("model_name: 18", "text")),
    ({f"{S}.numberOfEpochs": 0}, 400, f"{S}.numberOfEpochs", ("number_of_epochs: 0", "from 1 to 2147483647")),
    ({f"{S}.learningRate": "1e400"}, 400, f"{S}.learningRate", ("'1e400'", "a number from 0 to 1")),
    ({f"{S}.beta1": True}, 400, f"{S}.beta1", ("beta1: True", "a number from 0 to 1")),
    (
        {f"{S}.modelName": "vits16r224", f"{S}.validationCropSize": 8},
        400,
        f"{S}.validationCropSize",
        ("validation_crop_size: 8", "one patch"),
    ),
    ({f"{S}.numberOfEpochs": "4.2"}, 400, f"{S}.numberOfEpochs", ("number_of_epochs: '4.2'", "whole number")),
    ({f"{S}.learningRate": 2}, 400, f"{S}.learningRate", ("learning_rate: 2", "a number from 0 to 1")),
    ({f"{S}.optimizer": "lion"}, 400, f"{S}.optimizer", ("optimizer: 'lion'", "sgd, adam, adamw")),
    (
        {f"{S}.earlyStopping": "maybe"},
        400,
        f"{S}.earlyStopping",
        ("early_stopping: 'maybe'", "true or false"),
    ),
    (
        {f"{S}.checkpointRunId": "x"},
        400,
        f"{S}.checkpointRunId",
        ("checkpoint_run_id is 'x'", "workspace ws-1 has no such run", "automl_best_child_run_id"),
    ),
    ({f"{S}.checkpointRunId": 5}, 400, f"{S}.checkpointRunId", ("checkpoint_run_id: 5", "text")),
    ({f"{S}.checkpointModel": "m"}, 400, f"{S}.checkpointModel", ("checkpoint_model: 'm'", "mlflow_model")),
    (
        {f"{S}.checkpointModel": {"jobInputType": "custom_model", "uri": "azureml:m:1"}},
        400,
        f"{S}.checkpointModel.jobInputType",
        ("checkpoint_model has the type 'custom_model'",),
    ),
    (
        {f"{S}.checkpointModel": {"jobInputType": "mlflow_model"}},
        400,
        f"{S}.checkpointModel.uri",
        ("checkpoint_model has no uri",),
    ),
    (
        {f"{S}.checkpointModel": MODEL, f"{S}.checkpointRunId": "x"},
        400,
        f"{S}.checkpointModel",
        ("checkpoint_run_id and checkpoint_model are both given",),
    ),
    (
        {f"{S}.checkpointModel": MODEL},
        400,
        f"{S}.checkpointModel.uri",
        ("checkpoint_model: ", "the model 'digits'", "no version 1"),
    ),
    (
        {f"{S}.checkpointModel": {**MODEL, "uri": "https://example.org/model"}},
        400,
        f"{S}.checkpointModel.uri",
        ("checkpoint_model: ", "is not an azureml reference"),
    ),
    (
        {f"{S}.momentum": 0},
        400,
        f"{S}.nesterov",
        ("nesterov: True", "momentum is 0"),
    ),
    (
        {f"{S}.advancedSettings": '{"pretrained": "no"}'},
        400,
        f"{S}.advancedSettings",
        ("advanced_settings.pretrained is 'no'", "true or false"),
    ),
    (
        {f"{S}.advancedSettings": '{"pretrained": false, "stream_image_files": "true"}'},
        400,
        f"{S}.advancedSettings",
        ("advanced_settings.stream_image_files is 'true'", "without quotes"),
    ),
    (
        {f"{S}.advancedSettings": '{"pretrained": false, "apply_automl_train_augmentations": null}'},
        400,
        f"{S}.advancedSettings",
        ("advanced_settings.apply_automl_train_augmentations is None", "true or false"),
    ),
    *(
        (
            {f"{S}.advancedSettings": json.dumps({"pretrained": False, "precision": value})},
            400,
            f"{S}.advancedSettings",
            (f"advanced_settings.precision is {value!r}", "one of auto, fp32, bf16, fp16"),
        )
        for value in ("fp8", 16, [], True)
    ),
    (
        {f"{S}.advancedSettings": None},
        400,
        f"{S}.modelName",
        (
            "Pretrained weights of resnet18 were not found",
            "weights/resnet18.safetensors",
            '{"pretrained": false}',
        ),
    ),
    ({S: "resnet18"}, 400, S, ("modelSettings must be an object",)),
    (
        {"computeId": "big-one"},
        400,
        "computeId",
        ("'big-one' was not found", "cpu-cluster, gpu-cluster, serverless"),
    ),
    (
        {
            "computeId": "/subscriptions/x/resourceGroups/y/providers/Microsoft.MachineLearningServices"
            "/workspaces/z/computes/cpu-cluster"
        },
        400,
        "computeId",
        ("belongs to another workspace than ws-1",),
    ),
    ({"tags": {"a": 1}}, 400, "tags.a", ("tags.a must be a text, not 1",)),
    ({"tags": ["a"]}, 400, "tags", ("tags must be an object",)),
    ({"properties": {"a": {}}}, 400, "properties.a", ("properties.a must be a text",)),
    *(
        (
            {"properties": {"node_count_per_trial": value}},
            400,
            "properties.node_count_per_trial",
            (f"node_count_per_trial is {value!r}", "a whole number from 1 to 1000"),
        )
        for value in (0, -1, 1001, "0", "two", "1.5", "", 1.5, True)
    ),
    (
        {"resources": {"instanceCount": 0}},
        400,
        "resources.instanceCount",
        ("resources.instance_count is 0", "from 1 to 1000"),
    ),
    ({"resources": {"instance_count": "2"}}, 400, "resources.instanceCount", ("instance_count is '2'",)),
    ({"resources": [2]}, 400, "resources", ("resources must be an object",)),
    ({"displayName": "x" * 300}, 400, "displayName", ("longer than 255",)),
    ({"experimentName": 5}, 400, "experimentName", ("experimentName must be a text",)),
]


@pytest.mark.parametrize(
    ("changes", "status", "target", "parts"), CASES, ids=[json.dumps(case[0])[:70] for case in CASES]
)
def test_refused(
    desk: Any, changes: dict[str, Any], status: int, target: str | None, parts: tuple[str, ...]
) -> None:
    service = desk.service(start=False)
    with pytest.raises(AzureError) as caught:
        service.submit(desk.workspace, "job1", desk.body(**changes))
    error = caught.value
    assert (error.status, error.target) == (status, target), error.message
    for part in parts:
        assert part in error.message
    assert error.code == ("UserError" if status == 400 else "NotImplemented")
    assert desk.store.read(records.roots) == []
    assert list(desk.folder.jobs.iterdir()) == []


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "..", "a" * 241, "ä", "a\n"])
def test_bad_names(desk: Any, name: str) -> None:
    service = desk.service(start=False)
    with pytest.raises(AzureError, match="cannot be the name of a job") as caught:
        service.submit(desk.workspace, name, desk.body())
    assert caught.value.status == 400


def test_weights_that_are_there_are_enough(desk: Any) -> None:
    service = desk.service(start=False)
    (desk.root / "weights").mkdir()
    (desk.root / "weights/resnet18.safetensors").write_bytes(b"weights")
    record, created = service.submit(desk.workspace, "job1", desk.body(**{f"{S}.advancedSettings": None}))
    assert created and record.state == "NotStarted"


def test_what_is_accepted(desk: Any) -> None:
    """Spellings and gaps that Azure takes as well."""
    service = desk.service(start=False)
    accepted: list[dict[str, Any]] = [
        {"computeId": None},
        {"computeId": "azureml:CPU-Cluster"},
        {"computeId": "local"},
        {"experimentName": None, "displayName": None, "tags": None, "properties": None},
        {L: None},
        {f"{L}.timeout": "P1DT2H"},
        {f"{D}.primaryMetric": None},
        {f"{D}.primaryMetric": "AUC_weighted"},
        {f"{D}.logVerbosity": "not_set"},
        {f"{D}.logVerbosity": None},
        {f"{S}.modelName": None},
        {"properties": {"node_count_per_trial": 2, "enable_automode": True}},
        {"resources": {"instanceCount": 3}},
        {"resources": {"instance_type": "Standard_NC6", "instance_count": 1}},
        {f"{D}.validationDataSize": 0.3},
        {f"{S}.numberOfEpochs": "4.0", f"{S}.optimizer": "None", f"{S}.momentum": None},
        {f"{S}.advancedSettings": '{"pretrained": false}', f"{S}.somethingNew": [1, 2]},
        {URI: OTHER.replace("/s/", "/SUB-1/").replace("/g/", "/Group-1/").replace("/w/", "/WS-1/") + "/"},
    ]
    for number, changes in enumerate(accepted):
        record, created = service.submit(desk.workspace, f"job{number}", desk.body(**changes))
        assert created and record.compute in ("serverless", "cpu-cluster", "local")
    assert desk.record("job0").compute == "serverless" and desk.record("job1").compute == "cpu-cluster"
    assert desk.record("job3").experiment == "Default" and desk.record("job3").display_name == "job3"
