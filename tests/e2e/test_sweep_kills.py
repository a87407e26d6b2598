"""kill -9 while an AutoML sweep goes on: of a trial, and of the server; no trial is drawn or lost twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

from amlocal.emulator.cli import instance
from amlocal.fixtures.datasets import write_digits

EPOCHS = 8
PATIENCE = 240.0
ENDED = ("Completed", "Failed", "Canceled")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep-kills")
    write_digits(folder, train=40, validation=20, held_out=0, size=32, classes=(0, 1))
    return folder


SUBMIT = """
import os, sys
from azure.ai.ml import Input, MLClient, automl
from azure.ai.ml.sweep import Uniform
from azure.identity import DefaultAzureCredential
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
                  os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
name, data, epochs, trials = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
job = automl.image_classification(
    training_data=Input(type="mltable", path=f"{data}/train"),
    validation_data=Input(type="mltable", path=f"{data}/validation"),
    target_column_name="label", compute="cpu-cluster", experiment_name="sweep-kills")
job.name = name
job.set_training_parameters(
    model_name="resnet18", number_of_epochs=epochs, training_batch_size=10, training_crop_size=32,
    validation_resize_size=32, validation_crop_size=32, early_stopping=False, random_seed=3,
    advanced_settings='{"pretrained": false}')
job.extend_search_space([automl.SearchSpace(learning_rate=Uniform(0.001, 0.02))])
job.set_sweep(sampling_algorithm="random")
job.set_limits(max_trials=trials, max_concurrent_trials=1)
client.jobs.create_or_update(job)
"""


def submit(server: Any, name: str, data: Path, trials: int) -> None:
    """A sweep whose trials run one after another, each for a few seconds."""
    done = subprocess.run(
        [sys.executable, "-c", SUBMIT, name, str(data), str(EPOCHS), str(trials)],
        env=server.environment(),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr + server.logs()


def folder_of(server: Any, trial: str) -> Path:
    return Path(wait_for(lambda: next(server.folder.jobs.glob(f"*/{trial}"), None), PATIENCE, trial))


def epochs_in(job: Path) -> list[int]:
    file = job / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row["step"] for row in rows if row["key"] == "accuracy"]


def shown(server: Any, name: str) -> dict[str, Any]:
    code, body = server.call("GET", f"{server.workspace_path}/jobs/{name}")
    assert code == 200, body
    return dict(body["properties"])


def pid_of(job: Path, attempt: int = 1) -> int:
    path = job / f"attempt-{attempt}.started"
    wait_for(path.exists, PATIENCE, str(path))
    return int(json.loads(path.read_text())["pid"])


@pytest.mark.slow
def test_a_sweep_survives_the_kill_of_a_trial_and_of_the_server(new_server: Any, digits: Path) -> None:
    server = new_server()
    server.start()
    submit(server, "hydra", digits, 3)
    first = folder_of(server, "hydra_HD_0")
    wait_for(lambda: len(epochs_in(first)) >= 2, PATIENCE, "two epochs of the first trial")
    os.kill(pid_of(first), signal.SIGKILL)
    pid_of(first, 2)

    second = folder_of(server, "hydra_HD_1")
    wait_for(lambda: epochs_in(second), PATIENCE, "an epoch of the second trial")
    main, worker = (
        instance.read(server.folder).pid,
        instance.health(server.port, server.folder.tls / "ca.pem")["pid"],
    )
    for victim in (worker, main):
        os.kill(victim, signal.SIGKILL)
    # The trial goes on without a server, and has ended when there is one again.
    wait_for(lambda: (second / "exit-1.json").exists(), PATIENCE, "the end of the second trial")
    assert not list(server.folder.jobs.glob("*/hydra_HD_2"))
    server.start()

    job = wait_for(
        lambda: (found := shown(server, "hydra"))["status"] in ENDED and found, PATIENCE, "the sweep"
    )
    assert job["status"] == "Completed", server.logs()
    names = [f"hydra_HD_{number}" for number in range(3)]
    for name in names:
        assert epochs_in(folder_of(server, name)) == list(range(EPOCHS))
        assert shown(server, name)["status"] == "Completed"
    attempts = [len(list(folder_of(server, name).glob("attempt-*.started"))) for name in names]
    assert attempts == [2, 1, 1]
    tags = shown(server, "hydra_HD")["tags"]
    rates = {json.loads(tags[f"_aml_system_{name}"])["learning_rate"] for name in names}
    assert len(rates) == 3 and tags["_aml_system_samples_generated_count"] == "3"
    scores = [float(shown(server, name)["properties"]["score"]) for name in names]
    assert job["tags"]["automl_best_child_run_id"] == names[scores.index(max(scores))]
    log = next(server.folder.blobs.rglob("dcid.hydra_HD/azureml-logs/hyperdrive.txt")).read_text()
    assert [log.count(f"Scheduling job, id='{name}'") for name in names] == [1, 1, 1]
