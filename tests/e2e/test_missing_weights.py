"""Jobs whose pretrained weights are not there, by the unmodified SDK: refused soon, or loudly random."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_desk import Hub, black_hole

from amlocal.fixtures.datasets import write_digits

PROGRAM = """
import json, os, sys, time
from azure.ai.ml import Input, MLClient, automl
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
                  os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
folder, jobs = sys.argv[1], json.loads(sys.argv[2])
inputs = {half: Input(type="mltable", path=f"{folder}/{half}") for half in ("train", "validation")}
answers = {}
for name, parameters in jobs.items():
    job = automl.image_classification(
        training_data=inputs["train"], validation_data=inputs["validation"], target_column_name="label",
        compute="cpu-cluster", experiment_name="weights")
    job.name = name
    job.set_training_parameters(
        **{"model_name": "resnet18", "number_of_epochs": 1, "training_crop_size": 32, "random_seed": 1,
           "validation_crop_size": 32, "validation_resize_size": 32, **parameters})
    start = time.monotonic()
    try:
        client.jobs.create_or_update(job)
    except HttpResponseError as error:
        answers[name] = {"status": error.status_code, "message": error.message,
                         "seconds": time.monotonic() - start}
        continue
    if "advanced_settings" in parameters:
        answers[name] = {"tags": {name: client.jobs.get(name).tags.get("amlocal.weights")}}
        client.jobs.begin_cancel(name).result()
        continue
    while (job := client.jobs.get(name)).status not in ("Completed", "Failed", "Canceled"):
        time.sleep(0.2)
    tags = {run: client.jobs.get(run).tags for run in (name, f"{name}_HD", f"{name}_HD_0")}
    client.jobs.download(f"{name}_HD_0", download_path=f"{folder}/{name}")
    log = open(f"{folder}/{name}/artifacts/user_logs/std_log.txt").read()
    answers[name] = {"status": job.status, "log": log,
                     "tags": {run: found.get("amlocal.weights") for run, found in tags.items()}}
print("ANSWERS" + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_digits(folder, train=20, validation=10, held_out=0, size=32, classes=(0, 1))
    return folder


@pytest.fixture
def start(new_server: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """start(hub's address, ...): a server that may ask that hub."""
    made = []

    def begin(endpoint: str, **variables: str) -> Any:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        server = new_server()
        server.start()
        made.append(server)
        return server

    yield begin
    for server in made:
        server.stop()


def run(server: Any, tables: Path, jobs: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tables), json.dumps(jobs)],
        env=server.environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + server.logs()
    answers: dict[str, Any] = json.loads(done.stdout.partition("ANSWERS")[2])
    return answers


def test_a_hub_that_says_nothing_holds_no_submit_up(start: Callable[..., Any], tables: Path) -> None:
    with black_hole() as url:
        server = start(url)
        # The one before pays for the SDK's imports and the upload, and is refused before the hub is asked.
        models = {"before": "resnet81", "first": None, "second": None, "other": "acme/tiny-vit"}
        jobs = {name: {"model_name": model} if model else {} for name, model in models.items()}
        answers = run(server, tables, jobs)
    assert "resnet81" in answers["before"]["message"]
    first = answers["first"]
    assert first["status"] == 400
    assert (
        f"Pretrained weights of resnet18 were not found on this machine, and {url} did not answer"
        in (first["message"])
    )
    for text in (
        f"at {server.root}/weights/resnet18.safetensors",
        "https://huggingface.co/timm/resnet18.a1_in1k",
        "`amlocal weights pull resnet18`",
        'advanced_settings {"pretrained": false}',
        "missing_weights = random",
    ):
        assert text in first["message"]
    # A look without a limit would take half a minute or more.
    assert first["seconds"] < 20
    assert answers["second"]["message"] == first["message"]
    assert "The file config.json of acme/tiny-vit was found neither" in answers["other"]["message"]


@pytest.mark.slow
def test_random_weights_are_said_on_every_run_in_the_log_and_by_the_trial(
    start: Callable[..., Any], tables: Path
) -> None:
    hub = Hub()
    try:
        server = start(hub.url, AMLOCAL_MISSING_WEIGHTS="random")
        jobs = {"missing": {}, "scratch": {"advanced_settings": '{"pretrained": false}'}}
        answers = run(server, tables, jobs)
    finally:
        hub.close()
    missing, scratch = answers["missing"], answers["scratch"]
    assert missing["status"] == "Completed", missing["log"]
    why = f"no pretrained weights of resnet18: {hub.url} has no such file; missing_weights is random"
    assert set(missing["tags"].values()) == {f"random: {why}"} and len(missing["tags"]) == 3
    assert "WARNING: NO PRETRAINED WEIGHTS: random: no pretrained weights of resnet18" in missing["log"]
    assert "STARTING FROM RANDOM WEIGHTS because missing_weights is random." in missing["log"]
    assert scratch["tags"] == {"scratch": 'random: advanced_settings say {"pretrained": false}'}
