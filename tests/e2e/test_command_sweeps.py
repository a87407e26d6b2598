"""Sweep jobs by the SDK and from YAML: what is sent, drawn, read back, downloaded and registered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from job_desk import ended
from raw_client import RawClient
from sweep_desk import code, log_of, samples, sweep, trials


def test_a_seed_draws_the_same_again_and_the_entity_is_read_back(
    ml_client: Any, server: Any, tmp_path: Path
) -> None:
    from azure.ai.ml import UserIdentityConfiguration
    from azure.ai.ml.entities import JobResourceConfiguration, QueueSettings
    from azure.ai.ml.sweep import Choice, RandomSamplingAlgorithm, SweepJob, Uniform

    main = code(tmp_path, "log('acc', 0.1, float(sys.argv[1]), 0.2)")

    first_job = sweep(
        "sweep_seed_a",
        main,
        {"lr": Uniform(0.25, 0.75), "kind": Choice(["a b", "c'd"])},
        sampling_algorithm=RandomSamplingAlgorithm(seed=7, rule="random", logbase="e"),
        limits={"max_total_trials": 3, "max_concurrent_trials": 3, "trial_timeout": 120},
    )
    first_job.identity = UserIdentityConfiguration()
    first_job.queue_settings = QueueSettings(job_tier="Standard", priority="high")
    first_job.resources = JobResourceConfiguration(instance_count=1, shm_size="1g")
    ml_client.jobs.create_or_update(first_job)
    read = ml_client.jobs.get("sweep_seed_a")
    read.name = "sweep_seed_b"
    # azure-ai-ml cannot send again what it reads here.
    read.queue_settings = None
    ml_client.jobs.create_or_update(read)
    found = [ended(ml_client, name) for name in ("sweep_seed_a", "sweep_seed_b")]
    assert [one.status for one in found] == ["Completed"] * 2
    first, again = (samples(server, one.name) for one in found)
    assert first == again
    rates = [one["lr"] for one in first]
    assert len(set(rates)) == 3 and all(0.25 <= rate <= 0.75 for rate in rates)
    best = found[0].properties
    assert best["best_child_run_id"] == f"sweep_seed_a_{rates.index(max(rates))}"
    assert best["score"] == str(max(rates))

    read = ml_client.jobs.get("sweep_seed_a")
    assert isinstance(read, SweepJob)
    assert (read.objective.goal, read.objective.primary_metric) == ("maximize", "acc")
    assert read.search_space == {"lr": Uniform(0.25, 0.75), "kind": Choice(["a b", "c'd"])}
    sampling = read.sampling_algorithm
    assert (sampling.type, sampling.seed, sampling.rule, sampling.logbase) == ("random", 7, "random", "e")
    limits = read.limits
    assert (limits.max_total_trials, limits.max_concurrent_trials) == (3, 3)
    assert (limits.timeout, limits.trial_timeout) == (600, 120)
    assert read.trial.command == "python main.py ${{search_space.lr}} ${{search_space.kind}}"
    assert read.compute.endswith("cpu-cluster") and read.early_termination is None
    assert isinstance(read.identity, UserIdentityConfiguration)
    assert dict(read.queue_settings) == {"jobTier": "Standard", "priority": 3}
    assert (read.resources.instance_count, read.resources.shm_size) == (1, "1g")
    assert "sweep_seed_a" in [one.name for one in ml_client.jobs.list()]
    children = {one.name for one in ml_client.jobs.list(parent_job_name="sweep_seed_a")}
    assert children == {f"sweep_seed_a_{index}" for index in range(3)}
    trial = ml_client.jobs.get("sweep_seed_a_0")
    assert trial.type == "command" and trial.parameters == first[0]
    assert trial.limits.timeout == 120


YAML = """
$schema: https://azuremlschemas.azureedge.net/latest/sweepJob.schema.json
type: sweep
name: sweep_yaml
experiment_name: sweeps
description: a grid
compute: azureml:cpu-cluster
sampling_algorithm: grid
trial:
  code: src
  command: >-
    python main.py --table ${{inputs.table}} --factor ${{inputs.factor}} --x ${{search_space.x}}
    --out ${{outputs.model}} $[[--more ${{inputs.nothing}}]]
  environment: azureml:host:1
inputs:
  table:
    type: uri_file
    path: table.csv
  factor: 2.5
outputs:
  model:
    type: uri_folder
search_space:
  x:
    type: choice
    values: [3, 1, 2]
  y:
    type: choice
    values: ["two words"]
objective:
  goal: minimize
  primary_metric: loss
limits:
  max_total_trials: 10
  max_concurrent_trials: 2
  timeout: 600
"""
SCRIPT = """
import argparse, os, pathlib, mlflow
parser = argparse.ArgumentParser()
for name in ("table", "factor", "x", "out"):
    parser.add_argument(f"--{name}")
given = parser.parse_args()
rows = pathlib.Path(given.table).read_text().split()
swept = {key: value for key, value in os.environ.items() if key.startswith("AZUREML_SWEEP_")}
assert swept["AZUREML_SWEEP_x"] == given.x and swept["AZUREML_SWEEP_y"] == "two words", swept
assert swept["AZUREML_SWEEP_factor"] == given.factor and swept["AZUREML_SWEEP_table"] == given.table
assert swept["AZUREML_SWEEP_model"] == given.out
value = float(given.x) * float(given.factor) + len(rows)
mlflow.log_metric("loss", value)
mlflow.log_metric("loss", value + 1)
pathlib.Path(given.out, "model.txt").write_text(given.x)
pathlib.Path("outputs", "own.txt").write_text(given.x)
"""


def test_a_grid_from_yaml_with_inputs_and_the_download_of_its_best(
    ml_client: Any, server: Any, tmp_path: Path, capsys: Any
) -> None:
    from azure.ai.ml import load_job

    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text(SCRIPT)
    (tmp_path / "table.csv").write_text("a\nb\n")
    (tmp_path / "job.yml").write_text(YAML)
    ml_client.jobs.create_or_update(load_job(tmp_path / "job.yml"))
    ml_client.jobs.stream("sweep_yaml")
    streamed = capsys.readouterr().out
    assert "Scheduling job, id='sweep_yaml_2'" in streamed and "Execution Summary" in streamed
    job = ended(ml_client, "sweep_yaml")
    assert job.status == "Completed", [run["error"] for run in trials(server, "sweep_yaml")]
    assert samples(server, "sweep_yaml") == [{"x": x, "y": "two words"} for x in (3, 1, 2)]
    assert job.properties["best_child_run_id"] == "sweep_yaml_1"
    assert job.properties["score"] == "4.5"
    assert job.outputs["model"].path.endswith("azureml/sweep_yaml_1/model/")
    assert job.description == "a grid" and job.inputs["factor"] == "2.5"

    there = tmp_path / "all"
    ml_client.jobs.download("sweep_yaml", download_path=there, all=True)
    assert (there / "named-outputs" / "model" / "model.txt").read_text() == "1"
    assert (there / "artifacts" / "outputs" / "own.txt").read_text() == "1"
    assert "job sweep_yaml_1 on cpu-cluster" in (there / "artifacts/user_logs/std_log.txt").read_text()
    log = (there / "hd-artifacts" / "azureml-logs" / "hyperdrive.txt").read_text()
    assert re.findall(r"Scheduling job, id='(.+?)'", log) == [f"sweep_yaml_{index}" for index in range(3)]
    only = tmp_path / "only"
    ml_client.jobs.download("sweep_yaml", download_path=only, output_name="model")
    assert [path.name for path in only.rglob("*") if path.is_file()] == ["model.txt"]


def test_an_inner_space_is_one_value_and_only_its_own_parameters_are_drawn(
    ml_client: Any, server: Any, tmp_path: Path
) -> None:
    from azure.ai.ml.sweep import Choice, QUniform, RandomSamplingAlgorithm

    main = "given = json.loads(sys.argv[1]); log('acc', given.get('depth', 0) + given.get('width', 0))"
    inner = [{"name": "tree", "depth": Choice([2, 3])}, {"name": "net", "width": QUniform(10, 30, 10)}]
    job = sweep(
        "sweep_inner",
        code(tmp_path, main),
        {"model": Choice(inner)},
        sampling_algorithm=RandomSamplingAlgorithm(seed=1),
        limits={"max_total_trials": 4, "max_concurrent_trials": 4},
    )
    ml_client.jobs.create_or_update(job)
    found = ended(ml_client, "sweep_inner")
    assert found.status == "Completed"
    drawn = [one["model"] for one in samples(server, "sweep_inner")]
    assert {one["name"] for one in drawn} == {"tree", "net"}
    for one in drawn:
        assert one.keys() == ({"name", "depth"} if one["name"] == "tree" else {"name", "width"})
        assert one.get("depth", 2) in (2, 3) and one.get("width", 10) in (10, 20, 30)
    assert float(found.properties["score"]) == max(one.get("depth", 0) + one.get("width", 0) for one in drawn)


def reader(name: str, path: str) -> Any:
    """A command that prints w.txt of the folder `path`."""
    from azure.ai.ml import Input, command

    job = command(
        command="cat ${{inputs.folder}}/w.txt",
        inputs={"folder": Input(type="uri_folder", path=path)},
        environment="azureml:host:1",
        compute="cpu-cluster",
    )
    job.name = name
    return job


def test_the_best_trials_output_becomes_an_asset_once(ml_client: Any, server: Any, tmp_path: Path) -> None:
    from azure.ai.ml import Output
    from azure.ai.ml.sweep import Choice

    main = "open(sys.argv[2] + '/w.txt', 'w').write(sys.argv[1]); log('acc', float(sys.argv[1]))"
    output = Output(type="custom_model", name="swept")
    job = sweep("sweep_asset", code(tmp_path, main), {"x": Choice([1, 3, 2])}, outputs={"model": output})
    ml_client.jobs.create_or_update(job)
    found = ended(ml_client, "sweep_asset")
    assert found.status == "Completed" and found.properties["best_child_run_id"] == "sweep_asset_1"
    made = list(ml_client.models.list(name="swept"))
    assert [model.version for model in made] == ["1"]
    assert made[0].path.rstrip("/").endswith("azureml/sweep_asset_1/model")
    assert found.outputs["model"].version == "1"
    # The sweep's output is that of its best trial for other jobs too.
    ml_client.jobs.create_or_update(reader("sweep_read", "azureml://jobs/sweep_asset/outputs/model"))
    assert ended(ml_client, "sweep_read").status == "Completed"
    assert log_of(server, "sweep_read").strip().splitlines()[-1] == "3"


def test_the_output_of_a_sweep_without_a_best_trial_is_refused(ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml import Output
    from azure.ai.ml.sweep import Choice
    from azure.core.exceptions import HttpResponseError

    output = Output(type="uri_folder")
    main = "while not os.path.exists('GO'): time.sleep(0.05)".replace("GO", str(tmp_path / "go"))
    job = sweep("sweep_unread", code(tmp_path, main), {"x": Choice([1])}, outputs={"model": output})
    ml_client.jobs.create_or_update(job)
    with pytest.raises(HttpResponseError, match="it has not ended yet"):
        ml_client.jobs.create_or_update(reader("early", "azureml://jobs/sweep_unread/outputs/model"))
    (tmp_path / "go").touch()
    assert ended(ml_client, "sweep_unread").status == "Completed"
    with pytest.raises(HttpResponseError, match="and it has ended without one: "):
        ml_client.jobs.create_or_update(reader("unread", "azureml://jobs/sweep_unread/outputs/model"))


def test_what_is_wrong_is_said_at_submit(server: Any) -> None:
    client = RawClient(server)
    good = {
        "jobType": "Sweep",
        "searchSpace": {"x": ["choice", [[1, 2]]]},
        "samplingAlgorithm": {"samplingAlgorithmType": "Random"},
        "objective": {"goal": "maximize", "primaryMetric": "acc"},
        "limits": {"maxTotalTrials": 2},
        "trial": {"command": "echo ${{search_space.x}}", "environmentId": "azureml:host:1"},
        "computeId": "cpu-cluster",
    }
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"searchSpace": {}}, "searchSpace", "search_space must be an object"),
        ({"searchSpace": {"x": ["uniform", [1]]}}, "searchSpace", "search_space.x: uniform takes 2 numbers"),
        ({"searchSpace": {"a b": ["uniform", [0, 1]]}}, "searchSpace", "'a b' cannot be a name"),
        (
            {
                "searchSpace": {"x": ["uniform", [0, 1]]},
                "samplingAlgorithm": {"samplingAlgorithmType": "Grid"},
            },
            "searchSpace",
            "grid sampling takes choice only",
        ),
        ({"samplingAlgorithm": {"samplingAlgorithmType": "Best"}}, "samplingAlgorithm", "'Best'"),
        ({"objective": {"goal": "up", "primaryMetric": "acc"}}, "objective.goal", "minimize or maximize"),
        ({"objective": {"goal": "maximize"}}, "objective.primaryMetric", "mlflow.log_metric"),
        ({"objective": None}, "objective.primaryMetric", "primary_metric is missing"),
        ({"limits": {"maxTotalTrials": 1001}}, "limits.maxTotalTrials", "from 1 to 1000"),
        ({"limits": {"maxConcurrentTrials": 0}}, "limits.maxConcurrentTrials", "from 1 to 1000"),
        ({"limits": {"timeout": "PT0S"}}, "limits.timeout", "longer than 0"),
        ({"limits": {"trialTimeout": "P61D"}}, "limits.trialTimeout", "at most 60 days"),
        ({"earlyTermination": {"policyType": "Bandit"}}, "earlyTermination.slackFactor", "exactly one"),
        ({"trial": None}, "trial", "trial is missing"),
        (
            {"trial": {"command": "echo ${{search_space.z}}", "environmentId": "azureml:host:1"}},
            "trial.command",
            "names no parameter of the search space of the job (there: x)",
        ),
        (
            {"trial": {"command": "true", "environmentId": "azureml:nowhere:1"}},
            "trial.environmentId",
            "nowhere",
        ),
        ({"inputs": {"a": {"jobInputType": "uri_file"}}}, "inputs.a.uri", "has no path"),
    ]
    for change, target, text in cases:
        status, body = client.arm("PUT", "jobs/sweep_wrong", {"properties": {**good, **change}})
        assert status == 400, (change, body)
        assert body["error"]["target"] == target, (change, body)
        assert text in body["error"]["message"], (change, body)
    assert client.arm("GET", "jobs/sweep_wrong")[0] == 404
    client.close()
