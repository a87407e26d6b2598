"""Mistakes in a job, told at submit through the unmodified SDK; nothing half-made is left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

from amlocal.fixtures.datasets import write_digits, write_mltable


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_digits(folder, train=20, validation=10, held_out=0, size=16, classes=(0, 1))
    return folder


def job(
    folder: Path,
    name: str,
    *,
    compute: str = "cpu-cluster",
    limits: dict[str, Any] | None = None,
    **parameters: Any,
) -> Any:
    from azure.ai.ml import Input, automl

    made = automl.image_classification(
        training_data=Input(type="mltable", path=str(folder / "train")),
        validation_data=Input(type="mltable", path=str(folder / "validation")),
        target_column_name="label",
        compute=compute,
        experiment_name="bad-input",
    )
    made.name = name
    if limits:
        made.set_limits(**limits)
    made.set_training_parameters(
        **{
            "model_name": "resnet18",
            "number_of_epochs": 1,
            "training_crop_size": 16,
            "validation_crop_size": 16,
            "validation_resize_size": 16,
            "advanced_settings": '{"pretrained": false}',
            **parameters,
        }
    )
    return made


def refusal(client: Any, made: Any) -> Any:
    """The error of a submit, after a look that nothing was stored."""
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    with pytest.raises(HttpResponseError) as caught:
        client.jobs.create_or_update(made)
    with pytest.raises(ResourceNotFoundError):
        client.jobs.get(made.name)
    assert made.name not in [found.name for found in client.jobs.list()]
    return caught.value


@pytest.mark.parametrize(
    ("parameters", "compute", "limits", "code", "wanted"),
    [
        ({"model_name": "resnet81"}, "cpu-cluster", None, 400, ["resnet81", "resnet18"]),
        ({"model_name": "nobody/no-model"}, "cpu-cluster", None, 400, ["nobody/no-model", "onfig.json"]),
        ({}, "gpu-clutser", None, 400, ["gpu-clutser", "cpu-cluster", "gpu-cluster"]),
        ({}, "cpu-cluster", {"max_trials": 0}, 400, ["max_trials", "0"]),
        ({"learning_rate": -1.0}, "cpu-cluster", None, 400, ["learning_rate", "-1"]),
        ({"number_of_epochs": 0}, "cpu-cluster", None, 400, ["number_of_epochs", "0"]),
        ({"advanced_settings": "{}"}, "cpu-cluster", None, 400, ["resnet18", "weights", ".safetensors"]),
    ],
    ids=["model", "hub-model", "compute", "max-trials", "learning-rate", "epochs", "weights"],
)
def test_refused_at_submit(
    ml_client: Any,
    tables: Path,
    parameters: dict[str, Any],
    compute: str,
    limits: dict[str, Any] | None,
    code: int,
    wanted: list[str],
    request: pytest.FixtureRequest,
) -> None:
    name = "refused-" + request.node.callspec.id
    error = refusal(ml_client, job(tables, name, compute=compute, limits=limits, **parameters))
    assert error.status_code == code
    for text in wanted:
        assert text in error.message, error.message


def test_a_folder_without_mltable(ml_client: Any, tables: Path, tmp_path: Path) -> None:
    """The SDK itself refuses a local one, so the folder is named by its datastore address."""
    from azure.ai.ml.entities import Data

    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.txt").write_text("a")
    asset = ml_client.data.create_or_update(
        Data(name="plain", path=str(tmp_path / "plain"), type="uri_folder")
    )
    made = job(tables, "no-mltable")
    made.training_data.path = asset.path
    error = refusal(ml_client, made)
    assert error.status_code == 400
    assert "MLTable" in error.message and "plain" in error.message


def changed(tables: Path, tmp_path: Path, change: Callable[[list[str]], list[str]]) -> Path:
    """The tables with other lines in the training JSONL."""
    import shutil

    folder = tmp_path / "changed"
    shutil.copytree(tables, folder)
    file = next((folder / "train").glob("*.jsonl"))
    file.write_text("".join(line + "\n" for line in change(file.read_text().splitlines())))
    return folder


def test_too_few_rows(ml_client: Any, tables: Path, tmp_path: Path) -> None:
    error = refusal(ml_client, job(changed(tables, tmp_path, lambda lines: lines[:9]), "few-rows"))
    assert error.status_code == 400
    assert "9" in error.message and "10" in error.message


def test_a_line_that_is_not_json(ml_client: Any, tables: Path, tmp_path: Path) -> None:
    folder = changed(tables, tmp_path, lambda lines: [*lines[:3], '{"image_url": ', *lines[4:]])
    error = refusal(ml_client, job(folder, "not-json"))
    assert error.status_code == 400
    assert "train_annotations.jsonl:4" in error.message


def test_a_label_column_that_is_not_there(ml_client: Any, tables: Path) -> None:
    made = job(tables, "no-column")
    made.target_column_name = "klass"
    error = refusal(ml_client, made)
    assert "klass" in error.message and "label" in error.message


def test_an_unknown_workspace(server: Any, client_environment: None, tables: Path) -> None:
    from azure.ai.ml import MLClient
    from azure.core.exceptions import ResourceNotFoundError
    from azure.identity import DefaultAzureCredential

    client = MLClient(DefaultAzureCredential(), "0a0a", "nowhere", "missing")
    with pytest.raises(ResourceNotFoundError, match="amlocal workspace add 0a0a/nowhere/missing"):
        client.jobs.create_or_update(job(tables, "nowhere"))


def test_what_is_not_there_yet_is_named(ml_client: Any) -> None:
    from azure.ai.ml import RayDistribution, command
    from azure.core.exceptions import HttpResponseError

    made = command(command="echo hello", environment="azureml:host:1", compute="cpu-cluster")
    made.distribution = RayDistribution()
    with pytest.raises(HttpResponseError) as caught:
        ml_client.jobs.create_or_update(made)
    assert caught.value.status_code == 501
    assert "Ray" in caught.value.message and "not there yet" in caught.value.message


def test_a_pipeline_is_not_there_yet(server: Any) -> None:
    body = {"properties": {"jobType": "Pipeline", "jobs": {}}}
    code, answer = server.call("PUT", f"{server.workspace_path}/jobs/a-pipeline", body)
    assert code == 501
    assert answer["error"]["message"] == "Running Pipeline jobs is not there yet in amlocal."


def test_dropped_rows_are_listed(ml_client: Any, tables: Path, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Data

    def change(lines: list[str]) -> list[str]:
        rows = [json.loads(line) for line in lines]
        del rows[2]["label"]
        rows[5]["image_url"] = "images/missing.jpg"
        return [json.dumps(row) for row in rows]

    folder = changed(tables, tmp_path, change)
    training, validation = (
        ml_client.data.create_or_update(Data(name=f"dropped-{part}", path=str(folder / part), type="mltable"))
        for part in ("train", "validation")
    )
    made = job(folder, "dropped-rows")
    # A registered asset and a datastore address: the other two ways to name an MLTable.
    made.training_data.path = f"azureml:{training.name}:{training.version}"
    made.validation_data.path = validation.path
    submitted = ml_client.jobs.create_or_update(made)
    wait_for(lambda: ml_client.jobs.get(submitted.name).status in ("Completed", "Failed"), 180, "the job")
    assert ml_client.jobs.get(submitted.name).status == "Completed"
    ml_client.jobs.download(f"{submitted.name}_HD_0", download_path=str(tmp_path / "out"))
    artifacts = tmp_path / "out" / "artifacts"
    report = json.loads(next(artifacts.rglob("data_report.json")).read_text())
    dropped = {(Path(row["file"]).name, row["line"]) for row in report["dropped"]}
    assert dropped == {("train_annotations.jsonl", 3), ("train_annotations.jsonl", 6)}
    log = (artifacts / "user_logs" / "std_log.txt").read_text()
    assert "train_annotations.jsonl:3" in log and "train_annotations.jsonl:6" in log


def test_rows_beside_the_images_of_another_workspace(
    server: Any, ml_client: Any, other_client: Callable[[str, str, str], Any], tmp_path: Path
) -> None:
    other = other_client("other-sub", "other-group", "other-space")
    uri = f"azureml://subscriptions/{other.subscription_id}/resourcegroups/other-group/workspaces/other-space/datastores/workspaceblobstore/paths/x.jpg"
    for part in ("train", "validation"):
        write_mltable(tmp_path / part, [{"image_url": uri, "label": "a"}] * 12)
    error = refusal(ml_client, job(tmp_path, "foreign-rows"))
    assert error.status_code == 400
    assert "other-space" in error.message
