"""The real mlflow client and the server against MLflow behind the proxy: runs, artifacts, registry, pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from amlocal.emulator.history.mlflow_client import MlflowError

JOB = "calm_table_0123456789abcdefghijklmnopqrstuvwxyz_trial_HD_0123456789"
START_MS = 1_700_000_000_000


def test_a_run_has_the_name_of_its_job(bench):
    first = bench.ensure(bench.one, JOB, "named", parent="parent_job")
    assert bench.ensure(bench.one, JOB, "named", tags={"second": "call"}) == first
    run = bench.client(bench.one).get_run(JOB)
    assert (run.info.run_id, run.info.run_name, run.info.status) == (JOB, "a trial", "RUNNING")
    assert (run.info.start_time, run.info.artifact_uri) == (START_MS, bench.one.run_uri(JOB))
    assert run.data.tags["mlflow.parentRunId"] == "parent_job"
    assert (run.data.tags["amlocal.kind"], run.data.tags["second"]) == ("trial", "call")
    experiment = bench.client(bench.one).get_experiment(first)
    assert experiment.name == "named"
    assert experiment.artifact_location == f"mlflow-artifacts:/{bench.one.account}/azureml/MLflow/{first}"
    assert [found.info.run_id for found in bench.client(bench.one).search_runs([first])] == [JOB]


def test_a_run_and_its_experiment_come_back_after_a_users_delete(bench):
    experiment = bench.ensure(bench.one, "deleted_job", "deleted")
    bench.client(bench.one).delete_run("deleted_job")
    bench.client(bench.one).delete_experiment(experiment)
    assert bench.ensure(bench.one, "deleted_job", "deleted") == experiment
    assert bench.client(bench.one).get_run("deleted_job").info.lifecycle_stage == "active"
    assert bench.client(bench.one).get_experiment(experiment).lifecycle_stage == "active"


def test_a_script_resumes_the_run_and_its_artifacts_are_the_run_artifacts(bench, tmp_path):
    bench.ensure(bench.one, "script_job")
    script = tmp_path / "train.py"
    script.write_text(
        "import mlflow, pathlib\n"
        "with mlflow.start_run() as run:\n"
        "    print(run.info.run_id)\n"
        "    mlflow.log_param('learning_rate', 0.01)\n"
        "    for epoch in range(3): mlflow.log_metric('accuracy', 0.5 + epoch / 10, step=epoch)\n"
        "    mlflow.set_tag('note', 'ü')\n"
        "    mlflow.log_dict({'labels': ['0', '1']}, 'outputs/labels.json')\n"
        "    pathlib.Path('a b%20ü.txt').write_text('odd name')\n"
        "    pathlib.Path('empty.txt').write_text('')\n"
        "    mlflow.log_artifact('a b%20ü.txt', 'outputs'); mlflow.log_artifact('empty.txt', 'outputs')\n"
        "    pathlib.Path('big.bin').write_bytes(b'0123456789abcdef' * 65536 * 3)\n"
        "    mlflow.log_artifact('big.bin', 'outputs')\n"
    )
    variables = {
        "MLFLOW_TRACKING_URI": bench.uri(bench.one, groups="resourcegroups"),
        "MLFLOW_RUN_ID": "script_job",
    }
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "script_job"
    run = bench.client(bench.one).get_run("script_job")
    assert run.data.params == {"learning_rate": "0.01"}
    assert run.data.metrics == {"accuracy": 0.7}
    assert (run.data.tags["note"], run.info.status) == ("ü", "FINISHED")
    folder = bench.blobs / bench.one.account / "azureml" / "ExperimentRun" / "dcid.script_job" / "outputs"
    assert json.loads((folder / "labels.json").read_text()) == {"labels": ["0", "1"]}
    assert (folder / "big.bin").stat().st_size == 3 * 1024 * 1024
    assert (folder / "empty.txt").read_bytes() == b""
    assert (folder / "labels.json").stat().st_mode & 0o777 == 0o600
    listed = {
        item.path: item.file_size for item in bench.client(bench.one).list_artifacts("script_job", "outputs")
    }
    assert listed["outputs/big.bin"] == 3 * 1024 * 1024
    # No half-written upload may be seen among the artifacts.
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.partition("/")[2] for path in listed)
    (folder / "by_the_job.txt").write_text("written as a plain file")
    fetched = bench.client(bench.one).download_artifacts("script_job", "outputs", str(tmp_path))
    assert (Path(fetched) / "by_the_job.txt").read_text() == "written as a plain file"
    assert (Path(fetched) / "big.bin").read_bytes() == (folder / "big.bin").read_bytes()


def test_metrics_of_the_server_are_idempotent_and_the_end_is_set(bench):
    bench.ensure(bench.one, "metric_job")
    rows = [{"key": "loss", "value": 1 / (n + 1), "step": n, "timestamp": START_MS + n} for n in range(1500)]
    rows.append({"key": "gap", "value": float("nan"), "step": 0, "timestamp": START_MS})
    bench.server.log_metrics(bench.one.id, "metric_job", rows)
    bench.server.log_metrics(bench.one.id, "metric_job", rows[:700] + rows)
    found = bench.server.metric_history(bench.one.id, "metric_job")
    assert len(found) == 1501
    assert found[0] == {"key": "gap", "value": None, "step": 0, "timestamp": START_MS}
    assert found[2] == {"key": "loss", "value": 0.5, "step": 1, "timestamp": START_MS + 1}
    for _ in range(2):
        bench.server.finish_run(bench.one.id, "metric_job", "FAILED", START_MS + 9, {"why": "signal 9"})
    bench.server.set_tags(bench.one.id, "metric_job", {"why": "signal 11"})
    run = bench.client(bench.one).get_run("metric_job")
    assert (run.info.status, run.info.end_time, run.data.tags["why"]) == ("FAILED", START_MS + 9, "signal 11")
    with pytest.raises(MlflowError, match="no terminal status"):
        bench.server.finish_run(bench.one.id, "metric_job", "RUNNING", START_MS)
    with pytest.raises(MlflowError, match="not found"):
        bench.server.log_metrics(bench.two.id, "metric_job", rows[:1])


def test_a_run_may_have_more_tags_than_mlflow_takes_at_once(bench):
    tags = {f"_aml_system_sweep_{number}": f'{{"lr": {number}}}' for number in range(1000)}
    bench.ensure(bench.one, "tagged_sweep")
    bench.server.set_tags(bench.one.id, "tagged_sweep", tags)
    bench.server.set_tags(bench.one.id, "tagged_sweep", {})
    found = bench.client(bench.one).get_run("tagged_sweep").data.tags
    assert {key: found[key] for key in tags} == tags


def test_many_writers_at_once_lose_nothing(bench):
    experiment = bench.ensure(bench.one, "writer_0", "crowd")

    def write(number: int) -> None:
        run_id = f"writer_{number}"
        assert bench.ensure(bench.one, run_id, "crowd") == experiment
        for step in range(10):
            row = {"key": "loss", "value": float(number), "step": step, "timestamp": START_MS}
            bench.server.log_metrics(bench.one.id, run_id, [row])
            bench.client(bench.one).log_metric(run_id, "from_script", step, timestamp=START_MS, step=step)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    for number in range(8):
        rows = bench.server.metric_history(bench.one.id, f"writer_{number}")
        assert [(row["key"], row["step"]) for row in rows] == [
            *(("from_script", step) for step in range(10)),
            *(("loss", step) for step in range(10)),
        ]


def test_the_registry_and_a_run_without_an_experiment(bench, tmp_path):
    own = bench.client(bench.one)
    loose = own.create_run("0")
    assert own.get_experiment(loose.info.experiment_id).name == "Default"
    assert loose.info.artifact_uri.startswith(f"mlflow-artifacts:/{bench.one.account}/azureml/MLflow/")
    bench.ensure(bench.one, "model_job")
    own.log_text("model_job", "flavors: {}", "outputs/mlflow-model/MLmodel")
    own.create_registered_model("digits-model")
    source = f"{bench.one.run_uri('model_job')}/outputs/mlflow-model"
    version = own.create_model_version("digits-model", source, "model_job")
    assert [str(found.version) for found in own.search_model_versions("name='digits-model'")] == ["1"]
    assert own.get_model_version_download_uri("digits-model", version.version) == source
    query = {"name": "digits-model", "version": version.version, "path": "MLmodel"}
    assert bench.call("GET", bench.one, "model-versions/get-artifact", params=query).text == "flavors: {}"


def test_without_a_token_nothing_is_served(bench):
    for route in ("", "/", "/static-files/x.js", "/api/2.0/mlflow/experiments/search", "/health"):
        answer = requests.get(
            bench.uri(bench.one) + route, verify=bench.bundle, timeout=30, allow_redirects=False
        )
        assert answer.status_code == 401, route
    unknown = bench.uri(bench.one).removesuffix("one") + "unknown"
    headers = bench.headers
    assert requests.get(unknown + "/", headers=headers, verify=bench.bundle, timeout=30).status_code == 404
    wrong = bench.uri(bench.one).replace("/v1.0/", "/v9.0/")
    assert requests.get(wrong + "/", headers=headers, verify=bench.bundle, timeout=30).status_code == 404


def test_the_user_interface_works_below_the_prefix(bench):
    moved = bench.call("GET", bench.one, "")
    assert moved.status_code == 200
    headers = bench.headers
    bare = requests.get(
        bench.uri(bench.one), headers=headers, verify=bench.bundle, timeout=30, allow_redirects=False
    )
    assert (bare.status_code, bare.headers["Location"]) == (
        308,
        bench.uri(bench.one).removeprefix(bench.base) + "/",
    )
    page = moved.text
    script = page.split('src="', 1)[1].split('"', 1)[0].removeprefix("./")
    assert script.startswith("static-files/")
    file = bench.call("GET", bench.one, script)
    assert file.status_code == 200
    assert "javascript" in file.headers["Content-Type"]
    assert int(file.headers["Content-Length"]) == len(file.content) > 1000
    info = bench.call("GET", bench.one, "ajax-api/3.0/mlflow/server-info").json()
    assert (info["store_type"], info["workspaces_enabled"]) == ("SqlStore", False)
    telemetry = bench.call("GET", bench.one, "ajax-api/3.0/mlflow/ui-telemetry").json()
    assert telemetry["disable_ui_telemetry"] is True
    listed = requests.post(
        f"{bench.uri(bench.one, 'v2.0')}/ajax-api/2.0/mlflow/experiments/search",
        json={"max_results": 5},
        headers=headers,
        verify=bench.bundle,
        timeout=30,
    )
    assert listed.status_code == 200
