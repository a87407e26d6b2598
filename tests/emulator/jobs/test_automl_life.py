"""The life of AutoML image jobs on an engine in memory: states, runs, tags, attempts, cancel, limits."""

from __future__ import annotations

import json
import stat
from typing import Any

import pytest


def test_a_job_from_submit_to_completed(desk: Any, helpers: Any) -> None:
    desk.engine.on_submit = helpers.train
    service = desk.service()
    body = desk.body()
    record, created = service.submit(desk.workspace, "job1", body)
    assert created and record.state == "NotStarted" and record.body == body
    service.wait_idle()

    assert desk.states("job1") == ["NotStarted", "Preparing", "Queued", "Running", "Finalizing", "Completed"]
    assert desk.states("job1_HD") == ["Queued", "Running", "Finalizing", "Completed"]
    assert desk.states("job1_HD_0") == ["Queued", "Starting", "Running", "Finalizing", "Completed"]
    root, sweep, trial = (desk.record(name) for name in ("job1", "job1_HD", "job1_HD_0"))
    assert (root.kind, sweep.kind, trial.kind) == ("automl", "sweep", "trial")
    assert (sweep.parent, trial.parent, trial.attempt) == ("job1", "job1_HD", 1)
    assert root.body == body and root.started_at and root.ended_at
    assert root.tags["automl_best_child_run_id"] == "job1_HD_0"
    assert root.tags["a"] == "b" and root.properties["p"] == "q"
    assert root.tags["score_000"] == "0.9375" and root.tags["run_algorithm_000"] == "resnet18"
    assert root.properties["primary_metric"] == "accuracy" and root.properties["runTemplate"] == "AutoML"
    assert json.loads(root.properties["AMLSettingsJsonString"])["label_column_name"] == "label"
    assert sweep.properties["best_child_run_id"] == "job1_HD_0" and sweep.properties["score"] == "0.9375"
    assert json.loads(sweep.properties["primary_metric_config"]) == {"name": "accuracy", "goal": "maximize"}
    assert json.loads(sweep.tags["_aml_system_job1_HD_0"]) == {
        "number_of_epochs": 2,
        "model_name": "resnet18",
    }
    assert trial.properties["score"] == "0.9375" and trial.properties["run_algorithm"] == "resnet18"
    # Under these names Azure's notebooks look for the scoring script and its environment.
    outputs = "aml://artifact/ExperimentRun/dcid.job1_HD_0/outputs"
    assert trial.properties["model_data_location"] == f"{outputs}/model.pt"
    assert trial.properties["scoring_data_location"] == f"{outputs}/scoring_file_v_1_0_0.py"
    assert trial.properties["conda_env_data_location"] == f"{outputs}/conda_env_v_1_0_0.yml"
    assert [child.name for child in service.children(desk.workspace, "job1")] == ["job1_HD"]
    assert desk.engine.started == [("job1_HD_0", 1)]


def test_what_the_trainer_gets(desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "a secret of the server's")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    desk.engine.on_submit = helpers.train
    desk.data("validation", rows=3)
    uri = "azureml://datastores/workspaceblobstore/paths/validation"
    service = desk.service()
    changes = {
        "taskDetails.validationData": {"jobInputType": "mltable", "uri": uri},
        "taskDetails.modelSettings.logTrainingMetrics": "Enable",
        "taskDetails.logVerbosity": "debug",
    }
    service.submit(desk.workspace, "job1", desk.body(**changes))
    service.wait_idle()
    ((folder, _), job), *others = desk.engine.jobs.items()
    assert not others and folder == desk.job_dir("job1_HD_0")
    spec = json.loads((folder / "spec.json").read_text())
    # The data and its report are the job's, whatever the number of its trials.
    artifacts, shared = desk.artifacts("job1_HD_0"), desk.job_dir("job1")
    assert spec == {
        "schema": 1,
        "run_id": "job1_HD_0",
        "task": "image-classification",
        "primary_metric": "accuracy",
        "parameters": {"model_name": "resnet18", "number_of_epochs": 2},
        "advanced_settings": {"pretrained": False},
        "train_manifest": str(shared / "train_manifest.jsonl"),
        "validation_manifest": str(shared / "validation_manifest.jsonl"),
        "validation_data_size": None,
        "data_report": str(desk.artifacts("job1") / "outputs/data_report.json"),
        "artifacts_dir": str(artifacts),
        "state_dir": str(folder),
        "cache_dir": str(desk.folder.cache),
        "weights_dir": str(desk.root / "weights"),
        "missing_weights": "error",
        "start": None,
        "node_count": 1,
        "cache_max_gb": 10.0,
        "cache_sizes": {},
        "log_verbosity": "Debug",
        "ignored": ["'modelSettings.logTrainingMetrics'"],
        "attempt": 1,
    }
    rows = [json.loads(line) for line in (shared / "train_manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and len((shared / "validation_manifest.jsonl").read_text().splitlines()) == 3
    assert rows[0]["path"] == str(desk.blobs / "train/images/0.jpg")
    assert rows[0]["label"] == "a" and rows[0]["source"] == "train.jsonl:1"
    assert list(job.argv)[1:] == ["-m", "amlocal.trainers", "train", str(folder / "spec.json")]
    assert job.stdout == artifacts / "user_logs/std_log.txt"
    assert 3560 < job.timeout <= 3660
    env = dict(job.env)
    assert env["MLFLOW_TRACKING_URI"] == f"https://localhost:4265/mlflow/v1.0{desk.workspace.arm_id}"
    assert env["MLFLOW_TRACKING_TOKEN"] == "token-of-job1_HD_0" and env["MLFLOW_RUN_ID"] == "job1_HD_0"
    assert env["REQUESTS_CA_BUNDLE"] == str(desk.folder.tls / "bundle.pem")
    assert env["CUDA_VISIBLE_DEVICES"] == "1" and env["OMP_NUM_THREADS"] == "2"
    assert "a secret of the server's" not in str(env)
    assert desk.record("job1").tags["amlocal.ignored"] == "modelSettings.logTrainingMetrics"
    assert stat.S_IMODE((folder / "spec.json").stat().st_mode) == 0o600


def test_mlflow_shows_the_tree(desk: Any, helpers: Any) -> None:
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body(tags={"a": "b", "not for MLflow!": "x"}))
    service.wait_idle()
    helpers.until(lambda: (desk.job_dir("job1") / "tracking.done").exists())
    runs = desk.mlflow.runs
    assert {name: run["status"] for name, run in runs.items()} == dict.fromkeys(
        ("job1", "job1_HD", "job1_HD_0"), "FINISHED"
    )
    assert runs["job1_HD_0"]["parent"] == "job1_HD" and runs["job1"]["parent"] is None
    assert runs["job1"]["tags"]["automl_best_child_run_id"] == "job1_HD_0"
    assert runs["job1"]["tags"]["a"] == "b" and "not for MLflow!" not in runs["job1"]["tags"]
    assert runs["job1"]["experiment"] == "exp1" and runs["job1"]["run_name"] == "dn"
    account = desk.workspace.account
    uri = f"mlflow-artifacts:/{account}/azureml/ExperimentRun/dcid.job1_HD_0"
    assert runs["job1_HD_0"]["artifact_uri"] == uri
    assert desk.mlflow.metrics == {"job1_HD_0": {("accuracy", 0, 7, 0.5), ("accuracy", 1, 7, 0.6)}}
    service.patch(desk.workspace, "job1", tags={"later": "yes"})
    helpers.until(lambda: runs["job1"]["tags"].get("later") == "yes")


def test_a_job_runs_and_ends_without_mlflow_which_catches_up(desk: Any, helpers: Any) -> None:
    desk.mlflow.down = True
    desk.engine.on_submit = helpers.train
    service = desk.service(mlflow_patience=0.1)
    service.submit(desk.workspace, "job1", desk.body())
    service.wait_idle()
    assert desk.record("job1").state == "Completed" and desk.mlflow.runs == {}
    service.stop()
    desk.mlflow.down = False
    desk.service()
    helpers.until(lambda: (desk.job_dir("job1") / "tracking.done").exists())
    assert desk.mlflow.runs["job1_HD_0"]["status"] == "FINISHED"
    assert len(desk.mlflow.metrics["job1_HD_0"]) == 2


def test_a_run_that_mlflow_refuses_does_not_hold_up_the_others(desk: Any, helpers: Any) -> None:
    desk.mlflow.refused = {"job1_HD"}
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    service.wait_idle()
    helpers.until(lambda: (desk.job_dir("job1") / "tracking.done").exists())
    assert desk.mlflow.runs["job1_HD_0"]["status"] == "FINISHED"


def test_dropped_rows_are_in_the_log_and_the_report(desk: Any, helpers: Any) -> None:
    extra = '{"image_url": "./images/0.jpg"}\n{"image_url": "./images/99.jpg", "label": "a"}\n'
    desk.data(extra=extra)
    desk.engine.on_submit = helpers.train
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    service.wait_idle()
    log = (desk.artifacts("job1_HD_0") / "user_logs/std_log.txt").read_text()
    assert "training_data: 12 images, 2 labels, 2 rows dropped" in log
    assert "dropped train.jsonl:13: no label" in log
    assert "dropped train.jsonl:14: image not found: ./images/99.jpg" in log
    report = json.loads((desk.artifacts("job1") / "outputs/data_report.json").read_text())
    assert [(row["file"], row["line"]) for row in report["dropped"]] == [
        ("train.jsonl", 13),
        ("train.jsonl", 14),
    ]
    assert report["training_data"]["labels"] == {"a": 6, "b": 6}


def test_faults_found_in_preparing_fail_the_job_and_leave_no_runs(desk: Any) -> None:
    # The request's look is over after its budget; what it has not seen is seen in Preparing.
    service = desk.service(start=False)
    service.submit(desk.workspace, "job1", desk.body())
    (desk.blobs / "train/train.jsonl").write_text('{"image_url": "./images/0.jpg", "label": "a"}\n')
    service = desk.service()
    service.wait_idle()
    record = desk.record("job1")
    assert record.state == "Failed" and record.error["code"] == "UserError"
    assert "training_data: train: 1 of 1 rows can be used, at least 10 are needed" in record.error["message"]
    assert service.children(desk.workspace, "job1") == []
    assert (desk.artifacts("job1") / "outputs/data_report.json").is_file()
    assert not desk.artifacts("job1_HD_0").exists() and desk.engine.started == []


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"returncode": None, "signal": 9}, "attempt 1 killed by signal 9"),
        ({"returncode": None, "signal": 15, "stopped": True}, "attempt 1 stopped on request"),
    ],
)
def test_a_killed_trial_is_resumed_once(desk: Any, helpers: Any, how: dict[str, Any], text: str) -> None:
    def run(engine: Any, job: Any) -> None:
        if job.attempt == 1:
            engine.end(job, **how)
        else:
            helpers.train(engine, job)

    desk.engine.on_submit = run
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    service.wait_idle()
    assert desk.engine.started == [("job1_HD_0", 1), ("job1_HD_0", 2)]
    assert desk.record("job1").state == "Completed" and desk.record("job1_HD_0").attempt == 2
    states = desk.states("job1_HD_0")
    assert states[:2] == ["Queued", "Starting"] and states.count("Starting") == 2
    assert "Queued" in states[2:] and states[-1] == "Completed"
    assert desk.states("job1").count("Running") == 1
    assert json.loads((desk.job_dir("job1_HD_0") / "spec.json").read_text())["attempt"] == 2
    log = (desk.artifacts("job1_HD_0") / "user_logs/std_log.txt").read_text()
    assert f"{text}; attempt 2 resumes from its checkpoint" in log


def test_a_trial_that_is_lost_is_resumed(desk: Any, helpers: Any) -> None:
    from amlocal.emulator.jobs.engines.base import EngineState

    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    helpers.until(lambda: desk.engine.started and desk.record("job1_HD_0").state == "Running")
    desk.engine.on_submit = helpers.train
    desk.engine.states[desk.job_dir("job1_HD_0"), 1] = EngineState("lost")
    service.wait_idle()
    assert desk.record("job1").state == "Completed" and desk.record("job1_HD_0").attempt == 2


def test_a_trial_that_is_killed_twice_fails_the_job(desk: Any) -> None:
    desk.engine.on_submit = lambda engine, job: engine.end(job, None, 9)
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    service.wait_idle()
    assert desk.engine.started == [("job1_HD_0", 1), ("job1_HD_0", 2)]
    trial, root = desk.record("job1_HD_0"), desk.record("job1")
    assert trial.state == root.state == desk.record("job1_HD").state == "Failed"
    assert trial.error["code"] == "SystemError"
    assert "attempt 2 killed by signal 9" in trial.error["message"] and "memory" in trial.error["message"]


def test_a_trial_that_fails_ends_the_job_with_its_last_lines(desk: Any, helpers: Any) -> None:
    def run(engine: Any, job: Any) -> None:
        with job.stdout.open("a") as log:
            log.write("\x1b[1mepoch 1\r\nValueError: the loss is not a number\n")
        engine.end(job, 1)

    desk.engine.on_submit = run
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    service.wait_idle()
    assert desk.engine.started == [("job1_HD_0", 1)]
    trial, root = desk.record("job1_HD_0"), desk.record("job1")
    assert trial.error["code"] == "UserError"
    assert trial.error["message"].endswith("epoch 1\nValueError: the loss is not a number")
    assert "\x1b" not in trial.error["message"]
    assert root.error["message"].startswith(
        "User errors were found in at least one of the child runs. job1_HD_0: "
    )
    assert "ValueError: the loss is not a number" in root.error["message"]
    helpers.until(lambda: desk.mlflow.runs["job1"]["status"] == "FAILED")


@pytest.mark.parametrize("result", [None, {"score": None}, {"score": float("nan")}, {"score": "high"}])
def test_a_trial_without_a_usable_result_fails(desk: Any, helpers: Any, result: Any) -> None:
    def run(engine: Any, job: Any) -> None:
        if result is not None:
            helpers.write_result(job.job_dir, **result)
        engine.end(job)

    desk.engine.on_submit = run
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.body())
    service.wait_idle()
    assert desk.record("job1").state == "Failed"
    assert desk.record("job1_HD_0").error["code"] == "SystemError"
    assert "result.json" in desk.record("job1_HD_0").error["message"]


def test_one_slot_is_given_in_the_order_of_submission(desk: Any, helpers: Any) -> None:
    service = desk.service()
    names = [f"job{number}_HD_0" for number in range(3)]
    service.submit(desk.workspace, "job0", desk.body())
    helpers.until(lambda: desk.engine.started)
    for number in (1, 2):
        service.submit(desk.workspace, f"job{number}", desk.body())
    helpers.until(lambda: all(desk.children(f"job{number}_HD") for number in (1, 2)))
    for number, name in enumerate(names):
        helpers.until(lambda n=number: len(desk.engine.started) == n + 1)
        assert desk.engine.started[-1] == (name, 1)
        for later in names[number + 1 :]:
            assert desk.record(later).state == "Queued"
        helpers.train(desk.engine, desk.engine.jobs[desk.job_dir(name), 1])
    service.wait_idle()
    assert [desk.record(f"job{number}").state for number in range(3)] == ["Completed"] * 3
