"""kill -9 of everything while a trial trains: the trial goes on, or resumes, and the job ends Completed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from living import gone

from amlocal.emulator.cli import instance
from amlocal.fixtures.datasets import write_digits

SUBMIT = """
import os, sys
from azure.ai.ml import Input, MLClient, automl
from azure.identity import DefaultAzureCredential
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
                  os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
name, folder, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
job = automl.image_classification(
    training_data=Input(type="mltable", path=f"{folder}/train"),
    validation_data=Input(type="mltable", path=f"{folder}/validation"),
    target_column_name="label", compute="cpu-cluster", experiment_name="kills")
job.name = name
job.set_training_parameters(
    model_name="mobilenetv2", number_of_epochs=epochs, learning_rate=0.01, training_batch_size=10,
    training_crop_size=32, validation_resize_size=32, validation_crop_size=32, early_stopping=False,
    random_seed=3, advanced_settings='{"pretrained": false}')
client.jobs.create_or_update(job)
"""


@pytest.fixture
def server(new_server: Callable[[], Any]) -> Iterator[Any]:
    server = new_server()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, train=40, validation=20, held_out=0, size=32, classes=(0, 1))
    return folder


def submit(server: Any, name: str, folder: Path, epochs: int) -> Path:
    """Submit through the SDK; the folder of the trial's job, once its first epoch is over."""
    done = subprocess.run(
        [sys.executable, "-c", SUBMIT, name, str(folder), str(epochs)],
        env=server.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr + server.logs()
    job = wait_for(lambda: next(server.folder.jobs.glob(f"*/{name}_HD_0"), None), 60, "the trial's folder")
    wait_for(lambda: epochs_in(job), 120, "the first epoch")
    return job


def epochs_in(job: Path) -> list[int]:
    """The steps for which the trainer has written an accuracy, in order of writing."""
    file = job / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row["step"] for row in rows if row["key"] == "accuracy"]


def status(server: Any, name: str) -> str | None:
    try:
        code, body = server.call("GET", f"{server.workspace_path}/jobs/{name}")
    except OSError:
        return None
    assert code == 200, body
    return body["properties"]["status"]


def completed(server: Any, name: str) -> bool:
    state = status(server, name)
    assert state not in ("Failed", "Canceled"), server.call(
        "GET", f"/history/v1.0{server.workspace_path}/runs/{name}/details"
    )
    return state == "Completed"


def processes(server: Any) -> tuple[int, int]:
    """(main, worker)."""
    main = instance.read(server.folder).pid
    return main, instance.health(server.port, server.folder.tls / "ca.pem", timeout=30)["pid"]


def trial_process(job: Path, attempt: int = 1) -> int:
    return json.loads((job / f"attempt-{attempt}.started").read_text())["pid"]


def shipped_epochs(server: Any, run: str) -> list[int]:
    code, body = server.call(
        "GET",
        f"/mlflow/v1.0{server.workspace_path}/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=accuracy",
    )
    return sorted(int(metric["step"]) for metric in body["metrics"]) if code == 200 else []


def test_the_server_dies_and_the_trial_goes_on(server: Any, digits: Path) -> None:
    epochs = 60
    job = submit(server, "survivor", digits, epochs)
    pid = trial_process(job)

    main, worker = processes(server)
    os.kill(main, signal.SIGKILL)
    wait_for(lambda: gone(worker), 10, "the worker to follow the main process")
    before = len(epochs_in(job))
    wait_for(lambda: len(epochs_in(job)) > before, 60, "an epoch without a server")
    server.start()
    assert status(server, "survivor") == "Running"

    main, worker = processes(server)
    os.kill(worker, signal.SIGKILL)
    again = wait_for(
        lambda: (instance.health(server.port, server.folder.tls / "ca.pem") or {}).get("pid"),
        60,
        "a new worker",
    )
    assert again != worker and not gone(main)

    main, worker = processes(server)
    for victim in (worker, main):
        os.kill(victim, signal.SIGKILL)
    server.start()

    assert not gone(pid) and trial_process(job) == pid
    wait_for(lambda: completed(server, "survivor"), 240, "the job")
    assert not (job / "attempt-2.started").exists()
    assert epochs_in(job) == list(range(epochs))
    # After ten seconds a job ends without MLflow, which is told later.
    wait_for(lambda: shipped_epochs(server, "survivor_HD_0") == list(range(epochs)), 120, "its metrics")


def test_the_trial_dies_and_resumes_from_its_checkpoint(server: Any, digits: Path) -> None:
    epochs = 25
    job = submit(server, "phoenix", digits, epochs)
    wait_for(lambda: len(epochs_in(job)) >= 3, 60, "three epochs")
    os.kill(trial_process(job), signal.SIGKILL)
    wait_for(lambda: (job / "attempt-2.started").exists(), 30, "attempt 2")
    wait_for(lambda: completed(server, "phoenix"), 240, "the job")
    assert epochs_in(job) == list(range(epochs))
    wait_for(lambda: shipped_epochs(server, "phoenix_HD_0") == list(range(epochs)), 120, "its metrics")
    assert json.loads((job / "exit-1.json").read_text())["signal"] == signal.SIGKILL
    assert not (job / "attempt-3.started").exists()


@pytest.mark.slow
def test_a_trial_that_dies_twice_fails_with_its_log(server: Any, digits: Path) -> None:
    job = submit(server, "unlucky", digits, 500)
    os.kill(trial_process(job), signal.SIGKILL)
    wait_for(lambda: (job / "attempt-2.started").exists(), 30, "attempt 2")
    os.kill(trial_process(job, 2), signal.SIGKILL)
    wait_for(lambda: status(server, "unlucky") == "Failed", 60, "the job to fail")
    code, details = server.call("GET", f"/history/v1.0{server.workspace_path}/runs/unlucky/details")
    assert code == 200
    message = details["error"]["error"]["message"]
    assert "signal 9" in message and "epoch" in message.lower(), message
    assert not (job / "attempt-3.started").exists()


def test_cancel_ends_the_process(server: Any, digits: Path) -> None:
    job = submit(server, "canceled", digits, 500)
    pid = trial_process(job)
    code, _ = server.call("POST", f"{server.workspace_path}/jobs/canceled/cancel")
    assert code == 202
    wait_for(lambda: status(server, "canceled") == "Canceled", 60, "the job to be canceled")
    wait_for(lambda: gone(pid), 20, "the trial's end")
    assert status(server, "canceled_HD_0") == "Canceled"


def test_a_second_server_names_the_first(server: Any) -> None:
    done = server.command("serve", "--data-dir", str(server.root), "--port", str(server.port))
    assert done.returncode == 1
    assert f"process {instance.read(server.folder).pid}" in done.stderr


DEPLOY = """
import json, os, sys
from azure.ai.ml import MLClient
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model, OnlineRequestSettings
from azure.identity import DefaultAzureCredential
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
                  os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
model = client.models.create_or_update(Model(
    name="m", type="mlflow_model", path=f"azureml://jobs/{sys.argv[1]}/outputs/artifacts/outputs/mlflow-model"))
client.online_endpoints.begin_create_or_update(
    ManagedOnlineEndpoint(name="lasting", auth_mode="key")).result()
client.online_deployments.begin_create_or_update(ManagedOnlineDeployment(
    name="blue", endpoint_name="lasting", model=model.id, instance_type="any", instance_count=1,
    request_settings=OnlineRequestSettings(request_timeout_ms=60_000))).result()
endpoint = client.online_endpoints.get("lasting")
endpoint.traffic = {"blue": 100}
endpoint = client.online_endpoints.begin_create_or_update(endpoint).result()
key = client.online_endpoints.get_keys("lasting").primary_key
print(json.dumps({"uri": endpoint.scoring_uri, "key": key}))
"""


def test_an_endpoint_answers_again_after_the_worker_was_killed(server: Any, digits: Path) -> None:
    """Also after the router was: both come back by themselves and nothing has to be deployed again."""
    import base64

    import psutil
    import requests

    submit(server, "scored", digits, 2)
    wait_for(lambda: completed(server, "scored"), 120, "the job")
    done = subprocess.run(
        [sys.executable, "-c", DEPLOY, "scored_HD_0"],
        env=server.environment(),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr + server.logs()
    deployed = json.loads(done.stdout[done.stdout.index("{") :])  # the SDK prints dots before
    image = base64.b64encode(next((digits / "train" / "images").iterdir()).read_bytes()).decode()

    def answer() -> list[dict[str, Any]] | None:
        try:
            response = requests.post(
                deployed["uri"],
                json={"input_data": {"columns": ["image"], "data": [[image]]}},
                headers={"Authorization": f"Bearer {deployed['key']}"},
                verify=str(server.folder.tls / "bundle.pem"),
                timeout=70,
            )
        except requests.ConnectionError:
            return None
        # 424: the scorer ended with the worker, while it worked on this request.
        assert response.status_code in (200, 404, 424, 503), response.text
        return response.json() if response.status_code == 200 else None

    first = answer()
    assert first is not None and first[0]["labels"] == ["0", "1"]
    main, worker = processes(server)
    router = next(
        c.pid for c in psutil.Process(main).children() if "endpoints.router" in " ".join(c.cmdline())
    )
    for victim in (worker, router):
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda victim=victim: gone(victim), 10, "the end of the process")
        again = wait_for(answer, 90, "an answer after the kill")
        assert again[0]["probs"] == pytest.approx(first[0]["probs"], abs=1e-5)
