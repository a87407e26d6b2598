"""Whose turn it is, through the unmodified SDK: clusters, instances, priority; and what one job costs."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for


def submit(ml_client: Any, compute: str, text: str, priority: str | None = None, **more: Any) -> str:
    from azure.ai.ml import command

    made = command(environment="azureml:host:1", compute=compute, command=text, **more)
    if priority is not None:
        made.set_queue_settings(job_tier="standard", priority=priority)
    return str(ml_client.jobs.create_or_update(made).name)


def status(ml_client: Any, name: str) -> str:
    found: str = ml_client.jobs.get(name).status
    return found


def completed(ml_client: Any, *names: str) -> None:
    wait_for(
        lambda: all(status(ml_client, name) == "Completed" for name in names), 180, f"the end of {names}"
    )


def log(ml_client: Any, name: str, folder: Path) -> str:
    ml_client.jobs.download(name, download_path=str(folder / name))
    return next((folder / name).rglob("std_log.txt")).read_text()


def test_a_cluster_of_one_node_takes_the_most_urgent_first(ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import AmlCompute

    ml_client.compute.begin_create_or_update(
        AmlCompute(name="one-node", size="STANDARD_D2_V2", min_instances=0, max_instances=1)
    ).result()
    order, gate = tmp_path / "order", tmp_path / "gate"
    holder = submit(
        ml_client, "one-node", f"until test -e {gate}; do sleep 0.1; done; echo holder >> {order}"
    )
    wait_for(lambda: status(ml_client, holder) == "Running", 90, "the start")
    names = [
        submit(ml_client, "one-node", f"echo {priority}{number} >> {order}", priority)
        for number, priority in enumerate(["low", "medium", "high", "high"])
    ]
    wait_for(lambda: [status(ml_client, name) for name in names] == ["Queued"] * 4, 90, "the queue")
    elsewhere = submit(ml_client, "cpu-cluster", "true")
    completed(ml_client, elsewhere)
    assert [status(ml_client, name) for name in names] == ["Queued"] * 4
    gate.touch()
    completed(ml_client, holder, *names)
    assert order.read_text().split() == ["holder", "high2", "high3", "medium1", "low0"]
    assert "waits: cluster one-node has 1 nodes at most" in log(ml_client, names[0], tmp_path)


def test_a_job_that_the_cluster_can_never_hold(ml_client: Any) -> None:
    from azure.ai.ml.entities import AmlCompute
    from azure.core.exceptions import HttpResponseError

    ml_client.compute.begin_create_or_update(
        AmlCompute(name="two-nodes", size="STANDARD_D2_V2", min_instances=0, max_instances=2)
    ).result()
    with pytest.raises(
        HttpResponseError, match="instance_count is 3 and compute two-nodes has at most 2"
    ) as caught:
        submit(ml_client, "two-nodes", "true", instance_count=3)
    assert caught.value.status_code == 400
    completed(ml_client, submit(ml_client, "two-nodes", "true", instance_count=2))


def test_jobs_of_a_stopped_instance_wait(server: Any, ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import ComputeInstance

    ml_client.compute.begin_create_or_update(
        ComputeInstance(name="my-instance", size="STANDARD_D2_V2")
    ).result()
    ml_client.compute.begin_stop("my-instance").result()
    name = submit(ml_client, "my-instance", "true")
    wait_for(lambda: status(ml_client, name) == "Queued", 90, "the queue")
    # The SDK downloads only what has ended.
    place = f"*/azureml/ExperimentRun/dcid.{name}/user_logs/std_log.txt"
    path = wait_for(lambda: next(server.folder.blobs.glob(place), None), 90, "the log")
    wait_for(lambda: "my-instance is stopped" in path.read_text(), 90, "the reason")
    assert status(ml_client, name) == "Queued"
    ml_client.compute.begin_start("my-instance").result()
    completed(ml_client, name)
    assert log(ml_client, name, tmp_path).count("waits: ") == 1


def test_only_instances_start_and_stop(ml_client: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    for act in (ml_client.compute.begin_start, ml_client.compute.begin_stop):
        with pytest.raises(HttpResponseError, match="only compute instances start and stop") as caught:
            act("cpu-cluster").result()
        assert caught.value.status_code == 409


def test_an_unknown_priority(server: Any) -> None:
    body = {"jobType": "Command", "command": "true", "environmentId": "azureml:host:1"}
    sent = {"properties": {**body, "queueSettings": {"priority": 7}}}
    code, answer = server.call("PUT", f"{server.workspace_path}/jobs/urgent", sent)
    assert code == 400 and "low, medium or high" in answer["error"]["message"]
    assert server.call("GET", f"{server.workspace_path}/jobs/urgent")[0] == 404


def test_what_one_job_costs(server: Any, ml_client: Any) -> None:
    """A plain command: each state once, one shim and one command, no other process."""
    name = submit(ml_client, "cpu-cluster", "echo hello")
    completed(ml_client, name)
    costs = job_costs(server, name)
    assert costs["states"] == [
        "NotStarted", "Preparing", "Queued", "Starting", "Running", "Finalizing", "Completed"
    ]  # fmt: skip
    assert costs["attempts"] == 1 and costs["spawns"] == 2


def job_costs(server: Any, name: str) -> dict[str, Any]:
    """States by the table of transitions; processes by what the shim recorded: itself and the command."""
    with sqlite3.connect(f"file:{server.folder.database}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT state FROM transitions WHERE job = ? ORDER BY id", (name,))
        states = [row[0] for row in rows]
    folder = next(server.folder.jobs.glob(f"*/{name}"))
    started = [json.loads(path.read_text()) for path in folder.glob("attempt-*.started")]
    pids = {one[key] for one in started for key in ("pid", "shim_pid")}
    return {"states": states, "attempts": len(started), "spawns": len(pids)}
