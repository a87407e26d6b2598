"""Sweep jobs on an engine in memory: what is drawn, what a trial has, how it counts, what is left."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.arm import documents
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import queue
from amlocal.emulator.jobs.runners import sweep_metric
from amlocal.emulator.jobs.runners.base import JobFailure
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps import request as sweep_request
from amlocal.emulator.jobs.sweeps.plan import Played


def body(*values: Any, **changes: Any) -> dict[str, Any]:
    """A grid over x, one trial at a time."""
    return {
        "jobType": "Sweep",
        "searchSpace": {"x": ["choice", [list(values) or [0.5]]]},
        "samplingAlgorithm": {"samplingAlgorithmType": "Grid"},
        "objective": {"goal": "Maximize", "primaryMetric": "acc"},
        "limits": {"jobLimitsType": "Sweep", "maxTotalTrials": 8, "maxConcurrentTrials": 1},
        "trial": {"command": "echo ${{search_space.x}}", "environmentId": "azureml:host:1"},
        "computeId": "cpu-cluster",
        **changes,
    }


def logging(desk: Any, key: str = "acc") -> Callable[[Any, Any], None]:
    """Trials that end well at once and have logged the value that they were given, and half of it after."""

    def run(engine: Any, job: Any) -> None:
        value = float(job.env["AZUREML_SWEEP_x"])
        rows = [
            {"key": key, "value": one, "step": step, "timestamp": 7}
            for step, one in enumerate((value, value / 2))
        ]
        desk.mlflow.log_metrics(desk.workspace.id, job.env["MLFLOW_RUN_ID"], rows)
        engine.end(job)

    return run


def ran(desk: Any, content: dict[str, Any], run: Callable[[Any, Any], None] | None = None) -> Any:
    """The job at its end."""
    desk.engine.on_submit = run or logging(desk)
    service = desk.service()
    service.submit(desk.workspace, "s", content)
    service.wait_idle()
    return desk.record("s")


def log(desk: Any, run: str) -> str:
    return str((desk.artifacts(run) / "user_logs/std_log.txt").read_text())


def test_each_trial_is_a_command_with_its_own_values_and_files(desk: Any) -> None:
    given = {"a": {"jobInputType": "literal", "value": "it's"}}
    trial = {
        "command": "echo ${{search_space.x}} ${{inputs.a}} ${{outputs.o}}",
        "environmentId": "azureml:host:1",
        "environmentVariables": {"MINE": "1"},
        "resources": {"instanceCount": 1},
    }
    outputs = {"o": {"jobOutputType": "uri_folder"}}
    root = ran(desk, body(2, 1, inputs=given, outputs=outputs, trial=trial))
    assert root.state is JobState.COMPLETED, root.error
    assert desk.children("s") == ["s_0", "s_1"]
    assert root.properties["best_child_run_id"] == "s_0" and root.properties["score"] == "2.0"
    for index, value in enumerate((2, 1)):
        name = f"s_{index}"
        job = desk.engine.jobs[desk.job_dir(name), 1]
        place = desk.blobs / "azureml" / name / "o"
        assert job.argv[-1] == f"echo {value} 'it'\"'\"'s' {place}"
        assert place.is_dir() and job.cwd == desk.job_dir(name) / "wd"
        swept = {key[14:]: text for key, text in job.env.items() if key.startswith("AZUREML_SWEEP_")}
        assert swept == {"x": str(value), "a": "it's", "o": str(place)}
        assert (job.env["MINE"], job.env["AZUREML_ROOT_RUN_ID"]) == ("1", "s")
        assert not job.cwd.exists()
        record = desk.record(name)
        assert (record.kind, record.parent, record.body["parameters"]) == ("command", "s", {"x": value})
        assert json.loads(record.tags["hyperparameters"]) == {"x": value}
        assert record.properties["azureml.runtimeEnvironment"] == "host:1"
        assert f"trial {index} of sweep s, drawn by grid sampling: " in log(desk, name)
    assert desk.mlflow.runs["s_1"]["parent"] == "s"


def test_the_best_value_counts_and_of_a_goal_to_minimize_the_smallest(desk: Any) -> None:
    goal = {"goal": "minimize", "primaryMetric": "acc"}
    root = ran(desk, body(3, 1, 1, 2, objective=goal))
    assert root.properties["best_child_run_id"] == "s_1" and root.properties["score"] == "0.5"
    assert [desk.record(f"s_{index}").properties["score"] for index in range(4)] == [
        "1.5",
        "0.5",
        "0.5",
        "1.0",
    ]


def test_azures_defaults_of_limits(desk: Any) -> None:
    job = sweep_request.read(body(1, limits=None, samplingAlgorithm=None))
    assert (job.max_trials, job.max_concurrent, job.timeout, job.trial_timeout) == (1000, 1000, 5184000, None)
    assert job.sampling.algorithm == "random" and job.policy is None
    job = sweep_request.read(
        body(1, limits={"maxTotalTrials": 3, "maxConcurrentTrials": 9, "timeout": "PT1M"})
    )
    assert (job.max_trials, job.max_concurrent, job.timeout) == (3, 3, 60)


def test_what_is_drawn_depends_on_the_seed_and_without_one_on_the_name() -> None:
    def drawn(name: str, **algorithm: Any) -> list[Any]:
        sampling = {"samplingAlgorithmType": "Random", **algorithm}
        job = sweep_request.read(body(searchSpace={"x": ["uniform", [0, 1]]}, samplingAlgorithm=sampling))
        return [sweep_request.draw(job, name, (), index) for index in range(3)]

    assert drawn("a", seed=7) == drawn("b", seed=7) != drawn("a", seed=8)
    assert drawn("a") == drawn("a") != drawn("b")


def test_the_tags_tell_the_generator(desk: Any) -> None:
    algorithm = {"samplingAlgorithmType": "random", "seed": 4, "rule": "Random", "logbase": 10}
    space = {"x": ["loguniform", [-3, 0]], "y": ["choice", [["a", {"z": ["randint", [3]]}]]]}
    root = ran(desk, body(searchSpace=space, samplingAlgorithm=algorithm, limits={"maxTotalTrials": 2}))
    assert json.loads(root.tags["_aml_system_generator_config"]) == {
        "name": "RANDOM",
        "parameter_space": space,
        "properties": {"rule": "random", "seed": 4, "logbase": 10.0},
    }


def test_a_trial_can_have_several_processes(desk: Any) -> None:
    trial = {
        "command": "echo ${{search_space.x}}",
        "environmentId": "azureml:host:1",
        "distribution": {"distributionType": "TensorFlow", "workerCount": 2},
    }
    # azure-ai-ml has the resources of a trial in the job too, or there alone.
    root = ran(desk, body(1, 2, trial=trial, resources={"instanceCount": 2}))
    assert root.state is JobState.COMPLETED, root.error
    for index, value in enumerate((1, 2)):
        order = json.loads((desk.job_dir(f"s_{index}") / "launch.json").read_text())
        assert [one["argv"][-1] for one in order["processes"]] == [f"echo {value}"] * 2
        assert desk.record(f"s_{index}").body["resources"] == {"instanceCount": 2}
        assert "2 processes (tensorflow); 2 instances" in log(desk, f"s_{index}")


def test_a_trial_whose_input_is_gone_fails_alone(desk: Any) -> None:
    table = desk.blobs / "table.csv"
    table.write_text("1")
    uri = "azureml://datastores/workspaceblobstore/paths/table.csv"
    good = logging(desk)

    def run(engine: Any, job: Any) -> None:
        table.unlink()
        good(engine, job)

    root = ran(desk, body(1, 2, inputs={"t": {"jobInputType": "uri_file", "uri": uri}}), run)
    assert root.state is JobState.COMPLETED and root.properties["best_child_run_id"] == "s_0"
    failed = desk.record("s_1")
    assert failed.state is JobState.FAILED and failed.error["code"] == "UserError"
    assert "there is nothing at" in failed.error["message"]


def test_an_input_from_the_web_is_fetched_once_for_all_trials(desk: Any) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"rows")

        def log_message(self, *arguments: Any) -> None:
            pass

    good = logging(desk)
    read: list[str] = []

    def run(engine: Any, job: Any) -> None:
        read.append(Path(job.env["AZUREML_SWEEP_t"]).read_text())
        Path(job.env["AZUREML_SWEEP_t"]).write_text("changed")
        good(engine, job)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/table.csv"
        root = ran(desk, body(1, 2, 3, inputs={"t": {"jobInputType": "uri_file", "uri": uri}}), run)
        server.shutdown()
    assert root.state is JobState.COMPLETED, root.error
    assert asked == ["/table.csv"] and read == ["rows"] * 3
    assert not (desk.job_dir("s") / "inputs").exists()


def test_the_end_waits_for_mlflow_however_long(
    desk: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_RETRY", 0.01)
    asked: list[str] = []
    history = desk.mlflow.metric_history

    def counted(workspace_id: str, run_id: str) -> Any:
        asked.append(run_id)
        return history(workspace_id, run_id)

    def run(engine: Any, job: Any) -> None:
        # Another thread shows MLflow the run; a start waits for that only as long as its patience.
        helpers.until(lambda: job.env["MLFLOW_RUN_ID"] in desk.mlflow.runs)
        logging(desk)(engine, job)
        desk.mlflow.down = True

    monkeypatch.setattr(desk.mlflow, "metric_history", counted)
    service = desk.service(mlflow_patience=0.0)
    desk.engine.on_submit = run
    service.submit(desk.workspace, "s", body(1))
    # More often than a step may fail.
    helpers.until(lambda: len(asked) > 8)
    assert desk.record("s_0").state in (JobState.STARTING, JobState.RUNNING)
    desk.mlflow.down = False
    service.wait_idle()
    assert desk.record("s_0").properties["score"] == "1.0"
    assert desk.record("s").state is JobState.COMPLETED


def test_a_run_that_mlflow_does_not_know_has_logged_nothing(desk: Any) -> None:
    desk.mlflow.refused.add("s_0")
    root = ran(desk, body(1), lambda engine, job: engine.end(job))
    assert root.state is JobState.COMPLETED and "no metric was logged at all" in root.tags["amlocal.score"]


def test_what_is_not_a_number_is_an_interval_and_no_score() -> None:
    rows = [
        {"key": "acc", "value": 1.0, "step": 1, "timestamp": 9},
        {"key": "acc", "value": None, "step": 0, "timestamp": 9},
        {"key": "acc", "value": 3.0, "step": 5, "timestamp": 2},
        {"key": "loss", "value": 7.0, "step": 0, "timestamp": 1},
    ]
    found = sweep_metric.read(rows, "acc")
    assert found.values[0] == 3.0 and found.values[1] != found.values[1] and found.values[2] == 1.0
    assert found.names == ("acc", "loss")
    assert (found.best(True), found.best(False)) == (3.0, 1.0)
    assert sweep_metric.read(rows[1:2], "acc").best(True) is None


def test_samplers_learn_from_scores_of_which_the_larger_is_better(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = sweep_request.draw

    def draw(job: Any, name: str, history: Any, index: int) -> Any:
        seen.append([(dict(trial.sample), trial.score) for trial in history])
        return real(job, name, history, index)

    monkeypatch.setattr(sweep_request, "draw", draw)
    ran(desk, body(4, 2, objective={"goal": "Minimize", "primaryMetric": "acc"}))
    assert seen[1] == [({"x": 4}, -2.0)] and seen[2] == [({"x": 4}, -2.0), ({"x": 2}, -1.0)]


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_bayesian_sampling_goes_where_the_goal_is(desk: Any, goal: str) -> None:
    ran(
        desk,
        body(
            searchSpace={"x": ["uniform", [1, 2]]},
            samplingAlgorithm={"samplingAlgorithmType": "Bayesian"},
            objective={"goal": goal, "primaryMetric": "acc"},
            limits={"maxTotalTrials": 16, "maxConcurrentTrials": 1},
        ),
    )
    drawn = [desk.record(f"s_{index}").body["parameters"]["x"] for index in range(16)]
    assert len(set(drawn)) == 16
    late = sorted(drawn[8:])[3:5]
    assert max(late) < 1.35 if goal == "minimize" else min(late) > 1.65, drawn


def model(desk: Any, **more: Any) -> dict[str, Any]:
    return {"m": {"jobOutputType": "custom_model", "assetName": "best", **more}}


def writing(desk: Any) -> Callable[[Any, Any], None]:
    good = logging(desk)

    def run(engine: Any, job: Any) -> None:
        if float(job.env["AZUREML_SWEEP_x"]) < 9:
            place = desk.blobs / "azureml" / job.env["MLFLOW_RUN_ID"] / "m"
            (place / "w").write_text(job.env["AZUREML_SWEEP_x"])
        good(engine, job)

    return run


def test_the_best_ones_output_is_registered_once_whatever_is_repeated(desk: Any) -> None:
    # The best of all lacks the output and fails for that.
    root = ran(desk, body(1, 3, 9, outputs=model(desk)), writing(desk))
    assert root.properties["best_child_run_id"] == "s_1"
    assert desk.record("s_2").state is JobState.FAILED
    assert "is empty after the command's end" in desk.record("s_2").error["message"]
    kept = root.properties["amlocal.outputs.m.version"]
    assert kept == desk.record("s_1").properties["amlocal.outputs.m.version"] == "1"
    sweeper = desk.services[0]._runners["sweep"].sweeper
    family = [root, *(desk.record(name) for name in desk.children("s"))]
    best = Played(1, "s_1", {"x": 3}, JobState.COMPLETED, (3.0,), 3.0, 1.0)
    sweeper.ended(desk.workspace, family, best)
    found = desk.store.read(lambda c: documents.listing(c, desk.workspace.id, "models", name="best"))
    assert [document.version for document in found if document.version] == ["1"]
    assert found[-1].properties["modelUri"].rstrip("/").endswith("azureml/s_1/m")


def test_a_best_one_that_was_ended_before_its_output_was_whole_registers_nothing(desk: Any) -> None:
    service = desk.service(start=False)
    root, _ = service.submit(desk.workspace, "s", body(1, outputs=model(desk)))
    sweeper = service._runners["sweep"].sweeper
    new = sweeper.next_trial(desk.workspace, root, [])
    trial = dataclasses.replace(root, name="s_0", parent="s", kind="command", body=dict(new.run.body))
    best = Played(0, "s_0", {"x": 1}, JobState.CANCELED, (1.0,), 1.0, 1.0)
    ended = dataclasses.replace(trial, state=JobState.CANCELED)
    assert sweeper.ended(desk.workspace, [root, ended], best) == {}
    told = (desk.artifacts("s") / "azureml-logs/hyperdrive.txt").read_text()
    assert "[WARNING]Nothing is registered: The output 'm' was to become the model 'best'" in told
    with pytest.raises(JobFailure, match="is empty after the command's end"):
        completed = dataclasses.replace(trial, state=JobState.COMPLETED)
        sweeper.ended(desk.workspace, [root, completed], best)


def test_a_version_that_was_taken_meanwhile_fails_the_sweep(desk: Any) -> None:
    good = writing(desk)

    def run(engine: Any, job: Any) -> None:
        desk.store.write(
            lambda c: documents.put(c, desk.workspace.id, "models", "best", "7", {"properties": {}})
        )
        good(engine, job)

    root = ran(desk, body(1, outputs=model(desk, assetVersion="7")), run)
    assert root.state is JobState.FAILED and "has a version 7 already" in root.error["message"]


def test_an_output_with_one_place_for_all_is_warned_of(desk: Any) -> None:
    place = "azureml://datastores/workspaceblobstore/paths"
    outputs = {
        "one": {"jobOutputType": "uri_folder", "uri": f"{place}/one"},
        "own": {"jobOutputType": "uri_folder", "uri": f"{place}/${{{{name}}}}/own"},
    }
    ran(desk, body(1, outputs=outputs))
    text = log(desk, "s_0")
    assert f"WARNING: every trial writes the output 'one' to {place}/one" in text and "'own'" not in text
    assert (desk.blobs / "s_0" / "own").is_dir()


def test_what_became_of_another_sweep_is_not_taken_over(desk: Any) -> None:
    """azure-ai-ml sends tags and properties of a job that was read back with the new one."""
    old = ran(desk, body(1, 2, outputs=model(desk)), writing(desk))
    assert old.properties["amlocal.outputs.m.version"] == "1"
    service = desk.services[0]
    tags = {**old.tags, "mine": "t", "amlocal.time_limit": "x", "amlocal.generation_ended": "y"}
    content = body(3, 2, 1, outputs=model(desk), tags=tags, properties={**old.properties, "own": "p"})
    new, _ = service.submit(desk.workspace, "again", content)
    assert not [name for name in new.tags if name.startswith("_aml_system_s_")]
    assert new.tags["mine"] == "t" and new.properties["own"] == "p"
    assert "best_child_run_id" not in new.properties
    service.wait_idle()
    new = desk.record("again")
    assert new.state is JobState.COMPLETED and desk.children("again") == [f"again_{n}" for n in range(3)]
    assert new.properties["best_child_run_id"] == "again_0"
    assert new.properties["amlocal.outputs.m.version"] == "2"


def test_names_of_trials_are_kept_for_them(desk: Any) -> None:
    service = desk.service(start=False)
    service.submit(desk.workspace, "s", body(1))
    command = {"jobType": "Command", "command": "true", "environmentId": "azureml:host:1"}
    with pytest.raises(AzureError) as refused:
        service.submit(desk.workspace, "s_12", command)
    assert refused.value.status == 409 and "kept for the runs of the job 's'" in refused.value.message
    service.submit(desk.workspace, "t", command)
    service.submit(desk.workspace, "t_3", command)
    service.submit(desk.workspace, "u_4", command)
    with pytest.raises(AzureError) as refused:
        service.submit(desk.workspace, "u", body(1))
    assert refused.value.status == 409 and "'u_4'" in refused.value.message


def test_a_reference_into_a_search_space_is_a_trials_alone(desk: Any) -> None:
    service = desk.service(start=False)
    command = {"jobType": "Command", "command": "echo ${{search_space.x}}", "environmentId": "azureml:host:1"}
    with pytest.raises(AzureError) as refused:
        service.submit(desk.workspace, "c", {**command, "parameters": {"x": 1}})
    assert "is not understood; use ${{inputs.NAME}} or ${{outputs.NAME}}" in refused.value.message
