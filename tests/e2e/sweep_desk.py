"""What the tests of sweep jobs share: making one, its trials, what was drawn, its logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Logs values of a metric by MLflow's REST interface: importing mlflow takes seconds.
TRIAL = """
import json, os, sys, time, urllib.request

def log(name, *values, pause=0.0):
    for step, value in enumerate(values):
        body = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": name, "value": value, "step": step,
                "timestamp": int(time.time() * 1000)}
        call = urllib.request.Request(
            os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric",
            json.dumps(body).encode(),
            {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"],
             "Content-Type": "application/json"})
        urllib.request.urlopen(call).read()
        time.sleep(pause)
"""


def code(folder: Path, main: str) -> str:
    """`folder` as the code of a job, with this main.py."""
    (folder / "trial.py").write_text(TRIAL)
    (folder / "main.py").write_text(f"from trial import *\n{main}")
    return str(folder)


def sweep(name: str, code: str, space: dict[str, Any], **more: Any) -> Any:
    """A sweep of `python main.py` with the drawn values as its arguments, in the order of the space."""
    from azure.ai.ml import command

    limits = more.pop("limits", {})
    outputs = more.pop("outputs", {})
    places = [*(f"inputs.{key}" for key in space), *(f"outputs.{key}" for key in outputs)]
    arguments = " ".join(f"${{{{{place}}}}}" for place in places)
    base = command(
        command=f"python main.py {arguments}",
        code=code,
        inputs={**dict.fromkeys(space, 0), **more.pop("inputs", {})},
        outputs=outputs,
        environment="azureml:host:1",
        compute="cpu-cluster",
        experiment_name="sweeps",
    )
    swept = {"sampling_algorithm": "grid", "primary_metric": "acc", "goal": "Maximize", **more}
    job = base(**space).sweep(**swept)
    job.name = name
    job.experiment_name = "sweeps"
    job.set_limits(**{"max_total_trials": 20, "max_concurrent_trials": 2, "timeout": 600, **limits})
    return job


def trials(server: Any, name: str) -> list[dict[str, Any]]:
    status, found = server.call("GET", f"/history/v1.0{server.workspace_path}/runs/{name}/children")
    assert status == 200, found
    return list(found["value"])


def samples(server: Any, name: str) -> list[dict[str, Any]]:
    """What was drawn, in the order of the trials, as their own tags and the sweep's tell it."""
    own = {run["runId"]: json.loads(run["tags"]["hyperparameters"]) for run in trials(server, name)}
    _, run = server.call("GET", f"/history/v1.0{server.workspace_path}/runs/{name}")
    told = {key: json.loads(run["tags"][f"_aml_system_{key}"]) for key in own}
    assert told == own
    return [own[f"{name}_{index}"] for index in range(len(own))]


def log_of(server: Any, run: str) -> str:
    found = next(server.folder.blobs.rglob(f"dcid.{run}/user_logs/std_log.txt"))
    return str(found.read_text())


def hyperdrive(server: Any, name: str) -> str:
    found = next(server.folder.blobs.rglob(f"dcid.{name}/azureml-logs/hyperdrive.txt"))
    return str(found.read_text())
