"""The eight public YAML files of AutoML for images, submitted as they are by the unmodified SDK."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fridge_desk import CAPS, CLI, clone, write_tables

PROGRAM = """
import json, os, sys, time
from azure.ai.ml import MLClient, load_job
from azure.identity import DefaultAzureCredential

client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
                  os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
name = client.jobs.create_or_update(load_job(sys.argv[1])).name
deadline = time.monotonic() + 1100
while (job := client.jobs.get(name)).status not in ("Completed", "Failed", "Canceled"):
    assert time.monotonic() < deadline, f"{name} is {job.status}"
    time.sleep(0.5)
import mlflow
tracking = mlflow.MlflowClient(client.workspaces.get(client.workspace_name).mlflow_tracking_uri)
run = tracking.get_run(name)
below = {}
for parent in (name, f"{name}_HD"):
    rows = tracking.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
    below[parent] = sorted(row.info.run_id for row in rows)
runs = {}
for one in (name, f"{name}_HD", *below[f"{name}_HD"]):
    found = client.jobs.get(one)
    logged = tracking.get_run(one).data
    runs[one] = {"status": found.status, "tags": dict(found.tags), "properties": dict(found.properties),
                 "metrics": logged.metrics, "error": str(getattr(found, "error", ""))}
for trial in below[f"{name}_HD"]:
    client.jobs.download(trial, download_path=f"{sys.argv[2]}/{trial}")
print("ANSWERS" + json.dumps({"name": name, "experiment": job.experiment_name, "compute": job.compute,
                              "below": below, "runs": runs, "mlflow": run.data.tags}))
"""
MULTICLASS, MULTILABEL = "classification-multiclass", "classification-multilabel"
DETECTION, SEGMENTATION = "object-detection", "instance-segmentation"
EXAMPLES = {
    "cls-mc": (MULTICLASS, "image_classification", "accuracy"),
    "cls-ml": (MULTILABEL, "image_classification_multilabel", "iou"),
    "od": (DETECTION, "image_object_detection", "mean_average_precision"),
    "ins-seg": (SEGMENTATION, "image_instance_segmentation", "mean_average_precision"),
}
SPACES: dict[str, list[tuple[set[str], tuple[float, float], set[str]]]] = {
    "cls-mc": [
        ({"vitb16r224", "vits16r224"}, (0.001, 0.01), {"number_of_epochs"}),
        ({"seresnext", "resnet50"}, (0.001, 0.01), {"layers_to_freeze"}),
    ],
    "cls-ml": [
        ({"vitb16r224"}, (0.005, 0.05), {"number_of_epochs", "gradient_accumulation_step"}),
        (
            {"seresnext"},
            (0.005, 0.05),
            {"validation_resize_size", "validation_crop_size", "training_crop_size"},
        ),
    ],
    "od": [
        ({"yolov5"}, (0.0001, 0.01), {"model_size"}),
        ({"fasterrcnn_resnet50_fpn"}, (0.0001, 0.001), {"optimizer", "min_size"}),
    ],
    "ins-seg": [({"maskrcnn_resnet50_fpn"}, (0.0001, 0.001), {"optimizer", "min_size"})],
}


@pytest.fixture(scope="module")
def capped(new_server: Callable[[], Any]) -> Any:
    """A server that caps AutoML jobs and lets networks start from random weights."""
    clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMLOCAL_MISSING_WEIGHTS", "random")
        patch.setenv("AMLOCAL_CAPS", json.dumps(CAPS))
        server = new_server()
        server.start()
    return server


def submit(server: Any, folder: Path, short: str, suffix: str) -> dict[str, Any]:
    """The job of one YAML file, played to its end, with the runs of its tree."""
    kind, task, _ = EXAMPLES[short]
    source = clone() / CLI / f"cli-automl-image-{kind}-task-fridge-items"
    yaml = folder / f"cli-automl-img-{short}-task-fridge-items{suffix}.yml"
    shutil.copyfile(source / yaml.name, yaml)
    write_tables(folder / "data", task)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(yaml), str(folder)],
        cwd=folder, env=server.environment(), capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + server.logs()
    answers: dict[str, Any] = json.loads(done.stdout.partition("ANSWERS")[2])
    return answers


def log(folder: Path, trial: str) -> str:
    return (folder / trial / "artifacts/user_logs/std_log.txt").read_text()


def check(found: dict[str, Any], folder: Path, metric: str) -> None:
    """The tree of runs, the best trial, and that the caps are said everywhere."""
    name, runs = found["name"], found["runs"]
    head, trials = f"{name}_HD", [f"{name}_HD_0", f"{name}_HD_1"]
    told = {run: (row["status"], row["error"]) for run, row in runs.items()}
    assert {run: status for run, (status, _) in told.items()} == dict.fromkeys(
        (name, head, *trials), "Completed"
    ), told
    assert found["below"] == {name: [head], head: trials}
    assert found["experiment"].startswith("dpv2-cli-automl-image-")
    assert found["compute"].endswith("/computes/gpu-cluster")
    for run, row in runs.items():
        assert json.loads(row["tags"]["amlocal.caps"]) == CAPS
        assert row["tags"]["amlocal.weights"].startswith("random: no pretrained weights")
        assert run == name or row["tags"]["amlocal.device"].startswith("CPU: this host has no GPU")
    scores = [float(runs[trial]["properties"]["score"]) for trial in trials]
    best = trials[scores.index(max(scores))]
    assert runs[name]["tags"]["automl_best_child_run_id"] == best
    assert found["mlflow"]["automl_best_child_run_id"] == best
    assert runs[head]["properties"]["best_child_run_id"] == best
    assert float(runs[head]["properties"]["score"]) == max(scores)
    tags = runs[head]["tags"]
    assert (tags["_aml_system_max_total_jobs"], tags["_aml_system_max_concurrent_jobs"]) == ("2", "2")
    assert json.loads(tags["_aml_system_primary_metric_config"]) == {"name": metric, "goal": "maximize"}
    for trial, score in zip(trials, scores, strict=True):
        assert runs[trial]["metrics"][metric] == pytest.approx(score, abs=1e-5)
        text = log(folder, trial)
        assert "this server caps AutoML jobs (setting caps): at most trials 2, images 24" in text
        assert "24 of 32 images are used" in text
        assert "number_of_epochs 1 (instead of " in text
        assert (folder / trial / "artifacts/outputs/mlflow-model/MLmodel").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("short", EXAMPLES)
def test_a_manual_sweep_from_yaml(capped: Any, tmp_path: Path, short: str) -> None:
    found = submit(capped, tmp_path, short, "")
    check(found, tmp_path, EXAMPLES[short][2])
    head = f"{found['name']}_HD"
    tags = found["runs"][head]["tags"]
    policy = json.loads(tags["_aml_system_policy_config"])
    assert policy["name"].lower() == "bandit"
    assert {key: policy["properties"][key] for key in ("evaluation_interval", "slack_factor")} == {
        "evaluation_interval": 2, "slack_factor": 0.2,
    }  # fmt: skip
    assert json.loads(tags["_aml_system_generator_config"])["name"] == "RANDOM"
    for trial in found["below"][head]:
        sample = json.loads(found["runs"][trial]["tags"]["hyperparameters"])
        assert set(json.loads(tags[f"_aml_system_{trial}"])) >= {*sample, "early_stopping"}
        fitting = [
            (low, high, others)
            for models, (low, high), others in SPACES[short]
            if sample["model_name"] in models
        ]
        (low, high, others), *_ = fitting
        assert low <= sample["learning_rate"] <= high
        assert set(sample) == {"model_name", "learning_rate", *others}
        assert found["runs"][trial]["properties"]["run_algorithm"] == sample["model_name"]


@pytest.mark.slow
@pytest.mark.parametrize("short", EXAMPLES)
def test_automode_from_yaml(capped: Any, tmp_path: Path, short: str) -> None:
    found = submit(capped, tmp_path, short, "-automode")
    check(found, tmp_path, EXAMPLES[short][2])
    name = found["name"]
    settings = json.loads(found["runs"][name]["properties"]["AMLSettingsJsonString"])
    assert settings["is_automode"] is True
    default = {"od": "yolov5", "ins-seg": "maskrcnn_resnet50_fpn"}.get(short, "vitb16r224")
    assert found["runs"][f"{name}_HD_0"]["properties"]["run_algorithm"] == default
