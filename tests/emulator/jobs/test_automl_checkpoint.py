"""Incremental training: what checkpoint_run_id and checkpoint_model may name, and what the trainer gets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.arm import documents
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.store.workspaces import Workspaces

D = "taskDetails"
S = f"{D}.modelSettings"
RUN = f"{S}.checkpointRunId"
MODEL = f"{S}.checkpointModel"
STORE = "azureml://datastores/workspaceblobstore/paths"


def write_model(folder: Path, **changes: Any) -> Path:
    """What a trial leaves as outputs/mlflow-model, as far as a start needs it."""
    files = {
        "model.safetensors": "tensors",
        "labels.json": '["a", "b"]',
        "model.json": '{"schema": 1, "model_name": "resnet18"}',
        **changes,
    }
    (folder / "artifacts").mkdir(parents=True)
    for name, text in files.items():
        if text is not None:
            (folder / "artifacts" / name).write_text(text)
    return folder


@pytest.fixture
def first(desk: Any, helpers: Any) -> Any:
    """A service whose job1 is Completed and left what a training leaves."""

    def train(engine: Any, job: Any) -> None:
        artifacts = desk.artifacts(job.job_dir.name)
        for file in ("outputs/model.pt", "train_artifacts/labels.json"):
            (artifacts / file).parent.mkdir(parents=True, exist_ok=True)
            (artifacts / file).write_text("[]")
        write_model(artifacts / "outputs/mlflow-model")
        helpers.train(engine, job)

    desk.engine.on_submit = train
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    service.wait_idle()
    return service


def spec_of(desk: Any, service: Any, name: str, **changes: Any) -> dict[str, Any]:
    service.submit(desk.workspace, name, desk.body(**changes))
    service.wait_idle()
    assert desk.record(name).state == "Completed", desk.record(name).error
    found: dict[str, Any] = json.loads((desk.job_dir(f"{name}_HD_0") / "spec.json").read_text())
    return found


def refusal(desk: Any, service: Any, target: str, **changes: Any) -> str:
    with pytest.raises(AzureError) as caught:
        service.submit(desk.workspace, "job2", desk.body(**changes))
    assert (caught.value.status, caught.value.target) == (400, target), caught.value.message
    assert desk.workspace and service.list(desk.workspace)[0].name != "job2"
    return str(caught.value.message)


def test_a_run_is_named_by_its_job_its_sweep_or_its_trial(desk: Any, first: Any) -> None:
    artifacts = desk.artifacts("job1_HD_0")
    for number, run in enumerate(("job1", "job1_HD", "job1_HD_0")):
        # No pretrained weights are on this machine, and none are needed.
        spec = spec_of(desk, first, f"next{number}", **{RUN: run, f"{S}.advancedSettings": None})
        assert spec["start"] == {
            "run_id": "job1_HD_0",
            "model_name": "resnet18",
            "weights": str(artifacts / "outputs/model.pt"),
            "labels": str(artifacts / "train_artifacts/labels.json"),
        }
        assert "checkpoint_run_id" not in spec["parameters"]
    assert desk.record("next0").body[D]["modelSettings"]["checkpointRunId"] == "job1"


def test_without_a_model_name_the_checkpoints_model_goes_on(desk: Any, first: Any) -> None:
    changes = {RUN: "job1", f"{S}.modelName": None, f"{D}.taskType": "ImageClassificationMultilabel"}
    desk.data(labels=(["a"], ["b", "c"]))
    spec = spec_of(desk, first, "job2", **changes)
    assert spec["parameters"]["model_name"] == "resnet18" and spec["start"]["model_name"] == "resnet18"
    assert desk.record("job2_HD_0").properties["run_algorithm"] == "resnet18"
    generator = json.loads(desk.record("job2_HD").tags["_aml_system_generator_config"])
    assert generator == {"name": "GRID", "parameter_space": {"model_name": ["choice", [["resnet18"]]]}}
    log = (desk.artifacts("job2_HD_0") / "user_logs/std_log.txt").read_text()
    assert "the model is resnet18, that of the checkpoint" in log


def test_another_model_is_refused_by_both_names(desk: Any, first: Any) -> None:
    message = refusal(desk, first, RUN, **{RUN: "job1", f"{S}.modelName": "mobilenetv2"})
    assert message.startswith("model_name is mobilenetv2, but the checkpoint 'job1_HD_0' holds a resnet18.")


def test_a_run_that_is_not_completed(desk: Any, first: Any, helpers: Any) -> None:
    desk.engine.on_submit = lambda engine, job: engine.end(job, 1)
    first.submit(desk.workspace, "failed", desk.body())
    first.wait_idle()
    assert "failed is Failed; only a run that is Completed" in refusal(desk, first, RUN, **{RUN: "failed"})
    assert "failed_HD_0 is Failed" in refusal(desk, first, RUN, **{RUN: "failed_HD_0"})
    desk.engine.on_submit = lambda engine, job: None
    first.submit(desk.workspace, "running", desk.body())
    helpers.until(lambda: ("running_HD_0", 1) in desk.engine.started)
    helpers.until(lambda: desk.record("running_HD_0").state == "Running")
    assert "running_HD_0 is Running" in refusal(desk, first, RUN, **{RUN: "running_HD_0"})
    assert "running is Running" in refusal(desk, first, RUN, **{RUN: "running"})
    first.cancel(desk.workspace, "running")
    first.wait_idle()
    assert "running is Canceled" in refusal(desk, first, RUN, **{RUN: "running"})


def test_a_command_job_leaves_no_checkpoint(desk: Any, first: Any) -> None:
    desk.engine.on_submit = lambda engine, job: engine.end(job, 0)
    command = {"jobType": "Command", "command": "true", "environmentId": "azureml:host:1"}
    first.submit(desk.workspace, "command1", command)
    first.wait_idle()
    assert desk.record("command1").state == "Completed"
    assert "command1 is a command job" in refusal(desk, first, RUN, **{RUN: "command1"})


def test_runs_that_are_not_there(desk: Any, first: Any) -> None:
    for run in ("nothing", "../job1", "job1_HD_1", "x" * 5000, "job1\n", "azureml:job1:1"):
        message = refusal(desk, first, RUN, **{RUN: run})
        assert "workspace ws-1 has no such run" in message and len(message) < 500 and "\n" not in message


def test_a_run_of_another_workspace_is_not_seen(desk: Any, first: Any) -> None:
    other = Workspaces(desk.store).add("sub-2", "group-2", "ws-2")
    desk.store.write(lambda c: None)
    body = desk.body(computeId="cpu-cluster", **{RUN: "job1"})
    with pytest.raises(AzureError, match="workspace ws-2 has no such run"):
        first.submit(other, "job2", body)


def test_a_tag_that_was_changed_names_no_foreign_run(desk: Any, first: Any) -> None:
    spec_of(desk, first, "other")
    for name in ("other_HD_0", "nothing"):
        first.patch(desk.workspace, "job1", tags={"automl_best_child_run_id": name})
        message = refusal(desk, first, RUN, **{RUN: "job1"})
        assert f"job1 names '{name}' as its best trial, and has no such trial" in message


def test_files_of_a_run_that_are_gone_or_lead_elsewhere(desk: Any, first: Any) -> None:
    artifacts = desk.artifacts("job1_HD_0")
    (artifacts / "train_artifacts/labels.json").unlink()
    assert spec_of(desk, first, "job3", **{RUN: "job1"})["start"]["labels"] is None
    weights = artifacts / "outputs/model.pt"
    weights.unlink()
    assert "job1_HD_0 has no file outputs/model.pt" in refusal(desk, first, RUN, **{RUN: "job1"})
    weights.symlink_to("/etc/hostname")
    assert "goes through a link that leaves" in refusal(desk, first, RUN, **{RUN: "job1"})


def test_a_checkpoint_that_goes_between_submit_and_start_fails_the_job(desk: Any, first: Any) -> None:
    first.stop()
    waiting = desk.service(start=False)
    waiting.submit(desk.workspace, "job2", desk.body(**{RUN: "job1"}))
    shutil.rmtree(desk.artifacts("job1_HD_0") / "outputs")
    desk.service().wait_idle()
    record = desk.record("job2")
    assert record.state == "Failed" and record.error["code"] == "UserError"
    assert "job1_HD_0 has no file outputs/model.pt" in record.error["message"]


def register(desk: Any, name: str, version: str, uri: str) -> None:
    stored = {"properties": {"modelUri": uri, "modelType": "mlflow_model"}}
    desk.store.write(lambda c: documents.put(c, desk.workspace.id, "models", name, version, stored))


def start_from(uri: Any) -> dict[str, Any]:
    return {MODEL: {"jobInputType": "mlflow_model", "uri": uri}}


def test_a_model_is_named_by_its_asset_or_its_folder(desk: Any, first: Any) -> None:
    folder = write_model(desk.blobs / "models/mlflow-model")
    register(desk, "digits", "1", f"{STORE}/models/mlflow-model/")
    trained = desk.artifacts("job1_HD_0") / "outputs/mlflow-model"
    cases = {
        "azureml:digits:1": folder,
        "azureml:digits@latest": folder,
        f"{desk.workspace.arm_id}/models/digits/versions/1": folder,
        f"{STORE}/models/mlflow-model": folder,
        "azureml://jobs/job1_HD_0/outputs/artifacts/paths/outputs/mlflow-model/": trained,
    }
    for number, (uri, expected) in enumerate(cases.items()):
        changes = {**start_from(uri), f"{S}.modelName": None, f"{S}.advancedSettings": None}
        spec = spec_of(desk, first, f"next{number}", **changes)
        assert spec["start"] == {
            "run_id": uri,
            "model_name": "resnet18",
            "weights": str(expected / "artifacts/model.safetensors"),
            "labels": str(expected / "artifacts/labels.json"),
        }
        assert spec["parameters"]["model_name"] == "resnet18"
        assert "checkpoint_model" not in spec["parameters"]


NOT_OURS: list[tuple[dict[str, Any], str]] = [
    ({"model.safetensors": None}, "has no file artifacts/model.safetensors"),
    ({"labels.json": None}, "has no file artifacts/labels.json"),
    ({"model.json": None}, "has no file artifacts/model.json"),
    ({"model.json": "{"}, "has a file artifacts/model.json that cannot be read"),
    ({"model.json": "[" * 100_000}, "has a file artifacts/model.json that cannot be read"),
    ({"model.json": " " * 2**21}, "artifacts/model.json that is too large"),
    ({"model.json": "[]"}, "names no model in artifacts/model.json"),
    ({"model.json": '{"model_name": 5}'}, "names no model in artifacts/model.json"),
]


def test_folders_that_are_no_model_of_ours(desk: Any, first: Any) -> None:
    for number, (changes, message) in enumerate(NOT_OURS):
        write_model(desk.blobs / f"model{number}", **changes)
        found = refusal(desk, first, f"{MODEL}.uri", **start_from(f"{STORE}/model{number}"))
        assert message in found and len(found) < 700
    write_model(desk.blobs / "other", **{"model.json": '{"model_name": "resnet50"}'})
    found = refusal(desk, first, MODEL, **start_from(f"{STORE}/other"))
    assert found.startswith(f"model_name is resnet18, but the checkpoint '{STORE}/other' holds a resnet50.")


def test_what_was_meant_at_submit_is_what_is_started_from(desk: Any, first: Any) -> None:
    write_model(desk.blobs / "one")
    write_model(desk.blobs / "two")
    register(desk, "digits", "1", f"{STORE}/one")
    first.stop()
    waiting = desk.service(start=False)
    waiting.submit(desk.workspace, "job2", desk.body(**start_from("azureml:digits@latest")))
    waiting.submit(desk.workspace, "job3", desk.body(**{RUN: "job1"}))
    assert desk.record("job2").properties["amlocal.checkpoint"] == f"{STORE}/one"
    assert desk.record("job3").properties["amlocal.checkpoint"] == "job1_HD_0"
    register(desk, "digits", "2", f"{STORE}/two")
    waiting.patch(desk.workspace, "job1", tags={"automl_best_child_run_id": "nothing"})
    desk.service().wait_idle()
    starts = {}
    for name in ("job2", "job3"):
        spec = json.loads((desk.job_dir(f"{name}_HD_0") / "spec.json").read_text())
        starts[name] = (spec["start"]["run_id"], spec["start"]["weights"])
    assert starts["job2"] == ("azureml:digits@latest", str(desk.blobs / "one/artifacts/model.safetensors"))
    assert starts["job3"] == ("job1_HD_0", str(desk.artifacts("job1_HD_0") / "outputs/model.pt"))


def test_sizes_that_the_checkpoints_model_cannot_take_are_refused(desk: Any, first: Any) -> None:
    write_model(desk.blobs / "model", **{"model.json": '{"model_name": "vits16r224"}'})
    changes = {**start_from(f"{STORE}/model"), f"{S}.modelName": None, f"{S}.validationCropSize": 8}
    assert "cannot be used: validation_crop_size: 8" in refusal(desk, first, MODEL, **changes)


def test_a_model_of_an_unknown_network_is_refused(desk: Any, first: Any) -> None:
    write_model(desk.blobs / "model", **{"model.json": '{"model_name": "resnet81"}'})
    changes = {**start_from(f"{STORE}/model"), f"{S}.modelName": None}
    message = refusal(desk, first, MODEL, **changes)
    assert "cannot be used: model_name: 'resnet81'" in message and "did you mean resnet18" in message


def test_links_and_files_are_no_models(desk: Any, first: Any) -> None:
    target = f"{MODEL}.uri"
    write_model(desk.blobs / "model", **{"model.safetensors": None})
    (desk.blobs / "model/artifacts/model.safetensors").symlink_to("/etc/hostname")
    found = refusal(desk, first, target, **start_from(f"{STORE}/model"))
    assert "has a link artifacts/model.safetensors that leaves the folder" in found
    (desk.blobs / "file").write_text("x")
    assert "is no folder" in refusal(desk, first, target, **start_from(f"{STORE}/file"))
    assert "is no folder" in refusal(desk, first, target, **start_from(f"{STORE}/nothing"))
    assert "'..'" in refusal(desk, first, target, **start_from(f"{STORE}/../x"))
    assert "is not an azureml reference" in refusal(desk, first, target, **start_from("/etc"))
    assert "has no version" in refusal(desk, first, target, **start_from("azureml:digits"))
