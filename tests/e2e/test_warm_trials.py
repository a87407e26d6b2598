"""Trials of a real server as forks of its warm parent: counted, killed, and gone with the server."""

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

from amlocal.fixtures.datasets import write_digits

PATIENCE = 300.0
ENDED = ("Completed", "Failed", "Canceled")
SUBMIT = """
import os, sys
from azure.ai.ml import Input, MLClient, automl
from azure.ai.ml.sweep import Choice
from azure.identity import DefaultAzureCredential
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
                  os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
name, data, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
job = automl.image_classification(
    training_data=Input(type="mltable", path=f"{data}/train"),
    validation_data=Input(type="mltable", path=f"{data}/validation"),
    target_column_name="label", compute="cpu-cluster", experiment_name="warm")
job.name = name
job.set_training_parameters(
    model_name="resnet18", number_of_epochs=epochs, training_batch_size=10, validation_resize_size=32,
    validation_crop_size=32, early_stopping=False, random_seed=3, advanced_settings='{"pretrained": false}')
job.extend_search_space([automl.SearchSpace(training_crop_size=Choice([32, 40]))])
job.set_sweep(sampling_algorithm="grid")
job.set_limits(max_trials=2, max_concurrent_trials=1)
client.jobs.create_or_update(job)
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warm-digits")
    write_digits(folder, train=20, validation=10, held_out=0, size=32, classes=(0, 1))
    return folder


def submit(server: Any, name: str, data: Path, epochs: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SUBMIT, name, str(data), str(epochs)],
        env=server.environment(),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr + server.logs()


def ended(server: Any, name: str) -> str:
    def look() -> str | None:
        code, body = server.call("GET", f"{server.workspace_path}/jobs/{name}")
        assert code == 200, body
        status = str(body["properties"]["status"])
        return status if status in ENDED else None

    return str(wait_for(look, PATIENCE, f"the end of {name}"))


def log_of(server: Any, trial: str) -> str:
    (path,) = server.folder.root.glob(f"blobs/**/dcid.{trial}/user_logs/std_log.txt")
    return str(path.read_text())


def folder_of(server: Any, trial: str) -> Path:
    return Path(wait_for(lambda: next(server.folder.jobs.glob(f"*/{trial}"), None), PATIENCE, trial))


def parents(server: Any) -> list[str]:
    """The sockets of the parents that were ready, in the order in which they were started."""
    path = server.folder.logs / "warm.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.removeprefix("ready ") for line in lines if line.startswith("ready ")]


def processes(socket: str) -> list[int]:
    """Those of the parent that listens there, its trials and their clients."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if socket.encode() in command.split(b"\0"):
                found.append(int(entry.name))
    return found


def parent_of(socket: str) -> int:
    """The process that listens: the clients are not below it, and its trials are."""
    known = processes(socket)
    stats = {pid: Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split() for pid in known}
    (found,) = {int(stat[1]) for stat in stats.values()} & set(known)
    return found


def test_the_trials_of_a_server_are_forks_of_one_process_that_ends_with_it(
    new_server: Any, digits: Path
) -> None:
    server = new_server()
    server.start()
    submit(server, "forked", digits, 1)
    assert ended(server, "forked") == "Completed", server.logs()
    (socket,) = parents(server)
    logs = [log_of(server, f"forked_HD_{number}") for number in range(2)]
    for log in logs:
        # What a process says that has to import it first.
        assert "loading PyTorch" not in log
        assert "no warm start" not in log
    specs = [json.loads((folder_of(server, f"forked_HD_{n}") / "spec.json").read_text()) for n in range(2)]
    assert sorted(spec["parameters"]["training_crop_size"] for spec in specs) == [32, 40]
    # The training images of the larger size serve both.
    assert ["decoding 20 training images once" in log for log in logs] == [True, False]
    assert len(processes(socket)) == 1
    server.stop()
    wait_for(lambda: not processes(socket), PATIENCE, "the end of the warm parent")


@pytest.mark.slow
def test_a_trial_goes_on_in_its_next_attempt_when_the_parent_is_killed(new_server: Any, digits: Path) -> None:
    server = new_server()
    server.start()
    submit(server, "orphan", digits, 12)
    first = folder_of(server, "orphan_HD_0")
    metrics = first / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count('"accuracy"') > 1, PATIENCE, "two epochs")
    (socket,) = parents(server)
    os.kill(parent_of(socket), signal.SIGKILL)
    assert ended(server, "orphan") == "Completed", server.logs()
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows if row["key"] == "accuracy"] == list(range(12))
    assert len(list(first.glob("attempt-*.started"))) == 2
    log = log_of(server, "orphan_HD_0")
    assert "the warm parent ended before the trial did" in log
    assert "resuming from the checkpoint" in log
    # A second parent took the place of the first.
    assert len(parents(server)) == 2
    assert "loading PyTorch" not in log_of(server, "orphan_HD_1")
    server.stop()
    wait_for(lambda: not processes(parents(server)[1]), PATIENCE, "the end of the second parent")


@pytest.mark.slow
def test_the_warm_start_can_be_switched_off(
    new_server: Any, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMLOCAL_WARM_START", "never")
    server = new_server()
    server.start()
    submit(server, "cold", digits, 1)
    assert ended(server, "cold") == "Completed", server.logs()
    assert parents(server) == []
    assert "loading PyTorch" in log_of(server, "cold_HD_1")
