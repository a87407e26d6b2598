"""A server with the setting caps: a sweep from YAML is made small, and every run of it says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amlocal.fixtures.datasets import write_digits

YAML = """\
$schema: https://azuremlsdk2.blob.core.windows.net/preview/0.0.1/autoMLJob.schema.json
type: automl
name: capped_sweep
experiment_name: capped
compute: azureml:gpu-cluster
task: image_classification
primary_metric: accuracy
target_column_name: label
training_data: {path: data/train, type: mltable}
validation_data: {path: data/validation, type: mltable}
limits: {timeout_minutes: 60, max_trials: 10, max_concurrent_trials: 4}
tags: {amlocal.caps: none}
training_parameters: {training_crop_size: 224, training_batch_size: 4}
sweep:
  sampling_algorithm: random
  early_termination: {type: bandit, evaluation_interval: 2, slack_factor: 0.2, delay_evaluation: 6}
search_space:
  - model_name: {type: choice, values: [resnet18]}
    learning_rate: {type: uniform, min_value: 0.001, max_value: 0.01}
    number_of_epochs: {type: choice, values: [15, 30]}
  - model_name: mobilenetv2
    layers_to_freeze: {type: choice, values: [0, 2]}
"""
PROGRAM = """
import json, os, sys, time
from azure.ai.ml import MLClient, load_job
from azure.core.exceptions import ResourceNotFoundError
from azure.identity import DefaultAzureCredential

client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
                  os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
name = client.jobs.create_or_update(load_job(sys.argv[1])).name
deadline = time.monotonic() + 540
while client.jobs.get(name).status not in ("Completed", "Failed", "Canceled"):
    assert time.monotonic() < deadline, client.jobs.get(name).status
    time.sleep(0.2)
runs = {}
for suffix in ("", "_HD", "_HD_0", "_HD_1", "_HD_2"):
    try:
        run = client.jobs.get(name + suffix)
    except ResourceNotFoundError:
        continue
    runs[suffix] = {"status": run.status, "tags": dict(run.tags)}
for trial in ("_HD_0", "_HD_1"):
    client.jobs.download(name + trial, download_path=sys.argv[2] + "/" + trial)
print("ANSWERS" + json.dumps(runs))
"""
CAPS = {"trials": 2, "images": 12, "epochs": 1, "image_size": 32}


@pytest.mark.slow
def test_a_sweep_is_made_small_and_says_so(
    new_server: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMLOCAL_MISSING_WEIGHTS", "random")
    server = new_server()
    text = "\n".join(f"{name} = {most}" for name, most in CAPS.items())
    (server.root / "config.toml").write_text(f"[caps]\n{text}\n")
    server.start()
    write_digits(tmp_path / "data", train=20, validation=13, held_out=0, size=32, classes=(0, 1, 2))
    yaml = tmp_path / "job.yml"
    yaml.write_text(YAML)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(yaml), str(tmp_path)],
        cwd=tmp_path, env=server.environment(), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    server.stop()
    assert done.returncode == 0, done.stderr[-3000:] + server.logs()
    runs = json.loads(done.stdout.partition("ANSWERS")[2])
    assert {suffix: run["status"] for suffix, run in runs.items()} == dict.fromkeys(
        ("", "_HD", "_HD_0", "_HD_1"), "Completed"
    )
    assert [json.loads(run["tags"]["amlocal.caps"]) for run in runs.values()] == [CAPS] * 4
    tags = runs["_HD"]["tags"]
    assert (tags["_aml_system_max_total_jobs"], tags["_aml_system_max_concurrent_jobs"]) == ("2", "2")
    for trial in ("_HD_0", "_HD_1"):
        drawn = json.loads(runs[trial]["tags"]["hyperparameters"])
        assert drawn.get("number_of_epochs", 15) in (15, 30)
        sample = json.loads(tags[f"_aml_system_capped_sweep{trial}"])
        assert (sample["number_of_epochs"], sample["training_crop_size"]) == (1, 32)
        log = (tmp_path / trial / "artifacts/user_logs/std_log.txt").read_text()
        for part in (
            "WARNING: this server caps AutoML jobs (setting caps): at most trials 2, images 12, epochs 1, "
            "image_size 32",
            "training_data: 12 images, ",
            "12 of 20 images are used",
            "12 of 13 images are used",
            f"number_of_epochs 1 (instead of {drawn.get('number_of_epochs', 15)})",
            "training_crop_size 32 (instead of 224)",
        ):
            assert part in log, (trial, part)
        epochs = [line for line in log.splitlines() if "epoch 2" in line.lower()]
        assert epochs == []
