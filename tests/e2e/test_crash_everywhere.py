"""A process is killed at every named crash point, and what was acknowledged is there afterwards.

Nothing half-made is shown, no command runs twice, every job comes to an end with a reason, and the databases
are whole. A new point without a scenario here fails the test.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from crash_room import PATIENCE, Room
from living import gone
from raw_client import RawClient, data_asset

from amlocal.emulator import crash_points

MODEL = {
    "MLmodel": "flavors:\n  python_function:\n    loader_module: constant_model\n    code: code\n",
    "code/constant_model.py": (
        "class Constant:\n    def predict(self, frame, params=None):\n        return [7]\n\n"
        "def _load_pyfunc(path):\n    return Constant()\n"
    ),
}


@pytest.fixture(scope="module")
def room(new_server: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("crashes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(crash_points.VARIABLE, str(folder / "order"))
        server = new_server()
        server.start()
    made = Room(server, folder / "order", folder, RawClient(server))
    # MLflow starts last; a job that waits for it would only be slow.
    run_dir = json.loads(server.folder.server_file.read_text())["run_dir"]
    wait_for(lambda: (Path(run_dir) / "mlflow.sock").exists(), PATIENCE, "MLflow")
    yield made
    made.client.close()
    server.stop()


def write(room: Room, point: str) -> None:
    stored = point in ("write.committed", "asset.stored")
    name = room.new("data")
    assert room.client.put_blob(f"{name}.txt", b"text")[0] == 201
    path, body = f"data/{name}/versions/1", data_asset(f"{name}.txt", kind="first")
    room.unanswered(point, lambda: room.client.arm("PUT", path, body))
    status, found = room.client.arm("GET", path)
    assert status == (200 if stored else 404), found
    assert [item["name"] for item in room.client.all("data")].count(name) == int(stored)
    status, again = room.client.arm("PUT", path, body)
    assert status == (200 if stored else 201)
    assert again["properties"]["tags"] == {"kind": "first"}
    assert [item["name"] for item in room.client.all(f"data/{name}/versions")] == ["1"]


def write_of_a_job(room: Room, point: str) -> None:
    name = room.new("written")
    body = room.marking(name, "true")
    room.unanswered(point, lambda: room.client.arm("PUT", f"jobs/{name}", body))
    status, _ = room.client.arm("GET", f"jobs/{name}")
    assert status == (200 if point == "write.committed" else 404)
    assert room.client.arm("PUT", f"jobs/{name}", body)[0] in (200, 201)
    assert room.ended(name)["status"] == "Completed"
    assert room.starts(name) == 1


def delete(room: Room, point: str) -> None:
    name = room.new("removed")
    assert room.client.put_blob(f"{name}.txt", b"text")[0] == 201
    path = f"data/{name}/versions/1"
    assert room.client.arm("PUT", path, data_asset(f"{name}.txt"))[0] == 201
    room.unanswered(point, lambda: room.client.arm("DELETE", path))
    assert room.client.arm("GET", path)[0] == 404
    assert name not in [item["name"] for item in room.client.all("data")]
    assert room.client.arm("DELETE", path)[0] == 204


def upload(room: Room, point: str) -> None:
    name = room.new("folder/blob")
    old, new = b"old" * 1000, b"new" * 2000
    assert room.client.put_blob(name, old, **{"x-ms-meta-of": "old"})[0] == 201
    room.unanswered(point, lambda: room.client.put_blob(name, new, **{"x-ms-meta-of": "new"}))
    status, content, headers = room.client.raw("GET", room.client.blob_path(name))
    assert (status, content) == (200, old if point == "blob.staged" else new)
    digest = base64.b64encode(hashlib.md5(content).digest()).decode()
    assert headers.get("content-md5") in (None, digest)
    # What is known about the old bytes is never told of the new ones.
    wanted = {"blob.staged": "old", "blob.renamed": None, "blob.described": "new"}[point]
    assert headers.get("x-ms-meta-of") == wanted
    assert room.client.blobs(name) == [name]


def remove_blob(room: Room, point: str) -> None:
    name = room.new("gone/blob")
    assert room.client.put_blob(name, b"x", **{"x-ms-meta-of": "old"})[0] == 201
    room.unanswered(point, lambda: room.client.raw("DELETE", room.client.blob_path(name)))
    assert room.client.raw("GET", room.client.blob_path(name))[0] == 404
    assert room.client.blobs(name) == []
    assert room.client.put_blob(name, b"x")[0] == 201
    assert "x-ms-meta-of" not in room.client.raw("GET", room.client.blob_path(name))[2]


def block(room: Room, point: str) -> None:
    name = room.new("blocks/blob")
    path, identity = room.client.blob_path(name), base64.b64encode(b"0001").decode()
    put = f"{path}?comp=block&blockid={identity}"
    names = f"<BlockList><Latest>{identity}</Latest></BlockList>".encode()
    room.unanswered(point, lambda: room.client.raw("PUT", put, b"content"))
    assert room.client.raw("PUT", f"{path}?comp=blocklist", names)[0] == 400
    assert room.client.blobs(name) == []
    assert room.client.raw("PUT", put, b"content")[0] == 201
    assert room.client.raw("PUT", f"{path}?comp=blocklist", names)[0] == 201
    assert room.client.raw("GET", path)[:2] == (200, b"content")


def block_list(room: Room, point: str) -> None:
    name = room.new("lists/blob")
    path, identity = room.client.blob_path(name), base64.b64encode(b"0001").decode()
    names = f"<BlockList><Latest>{identity}</Latest></BlockList>".encode()
    assert room.client.raw("PUT", f"{path}?comp=block&blockid={identity}", b"content")[0] == 201
    room.unanswered(point, lambda: room.client.raw("PUT", f"{path}?comp=blocklist", names))
    assert room.client.raw("GET", path)[0] == 404 and room.client.blobs(name) == []
    assert room.client.raw("PUT", f"{path}?comp=blocklist", names)[0] == 201
    assert room.client.raw("GET", path)[:2] == (200, b"content")


def workspace(room: Room, point: str) -> None:
    triple = f"sub-crash/group/{room.new('ws')}"
    body = json.dumps({"workspace": triple}).encode()
    headers = {"Content-Type": "application/json"}
    room.unanswered(point, lambda: room.client.raw("POST", "/_amlocal/workspaces", body, headers))
    status, content, _ = room.client.raw("GET", "/_amlocal/workspaces")
    assert status == 200 and triple in [item["workspace"] for item in json.loads(content)["value"]]
    subscription, group, name = triple.split("/")
    client = RawClient(room.server)
    client.workspace = (
        f"/subscriptions/{subscription}/resourceGroups/{group}"
        f"/providers/Microsoft.MachineLearningServices/workspaces/{name}"
    )
    assert client.put_blob("a.txt", b"in the container that start made")[0] == 201
    assert client.arm("PUT", "data/a/versions/1", data_asset("a.txt"))[0] == 201
    client.close()


def job(room: Room, point: str) -> None:
    """Whatever the worker was at: the job is completed, and its command ran once."""
    name = room.new("job")
    body = room.marking(name, "sleep 0.3; echo result > outputs/result.txt")
    if not room.crash(point, lambda: room.client.arm("PUT", f"jobs/{name}", body)):
        assert room.client.arm("PUT", f"jobs/{name}", body)[0] in (200, 201)
    found = room.ended(name)
    assert found["status"] == "Completed", room.message(name)
    assert room.starts(name) == 1
    artifacts = next(room.server.folder.blobs.glob(f"*/azureml/ExperimentRun/dcid.{name}"))
    assert (artifacts / "outputs" / "result.txt").read_text() == "result\n"
    assert [item["name"] for item in room.client.all("jobs")].count(name) == 1


def failing_job(room: Room, point: str) -> None:
    name = room.new("failing")
    room.crash(point, lambda: room.client.arm("PUT", f"jobs/{name}", room.marking(name, "exit 3")))
    assert room.ended(name)["status"] == "Failed"
    assert "exit code 3" in room.message(name)
    assert room.starts(name) == 1


def canceled_job(room: Room, point: str) -> None:
    name = room.new("canceled")
    body = room.marking(name, "exec sleep 600")
    assert room.client.arm("PUT", f"jobs/{name}", body)[0] == 201
    wait_for(lambda: room.starts(name), PATIENCE, "the command")
    folder = next(room.server.folder.jobs.glob(f"*/{name}"))
    pid = json.loads((folder / "attempt-1.started").read_text())["pid"]
    room.crash(point, lambda: room.client.arm("POST", f"jobs/{name}/cancel"))
    assert room.ended(name)["status"] == "Canceled"
    wait_for(lambda: gone(pid), PATIENCE, "the end of the command")
    assert room.starts(name) == 1


def shim(room: Room, point: str) -> None:
    """The shim of a job dies; the server tells what it knows and leaves no process behind."""
    name = room.new("shim")
    then = "exec sleep 600" if point == "shim.released" else "true"
    room.arm(point)
    assert room.client.arm("PUT", f"jobs/{name}", room.marking(name, then))[0] == 201
    found = room.ended(name)
    assert not room.order.exists()
    folder = next(room.server.folder.jobs.glob(f"*/{name}"))
    assert gone(json.loads((folder / "lock").read_text())["shim_pid"])
    assert (folder / "exit-1.json").exists() == (point == "shim.reported")
    if point == "shim.reported":
        assert found["status"] == "Completed" and room.starts(name) == 1
        return
    assert found["status"] == "Failed" and "without a trace" in room.message(name)
    assert room.starts(name) <= 1
    if point in ("shim.claimed", "shim.forked", "shim.recorded"):
        assert room.starts(name) == 0
    started = json.loads((folder / "attempt-1.started").read_text() or "{}")
    if started:
        wait_for(lambda: gone(started["pid"]), PATIENCE, "the end of the command")


def deployment(room: Room, point: str) -> None:
    client = room.client
    name = room.new("ep")
    for path, text in MODEL.items():
        assert client.put_blob(f"model/{path}", text.encode())[0] == 201
    model = {
        "properties": {
            "modelType": "mlflow_model",
            "modelUri": "azureml://datastores/workspaceblobstore/paths/model",
        }
    }
    assert client.arm("PUT", "models/constant/versions/1", model)[0] in (200, 201)
    endpoint = {"location": "local", "properties": {"authMode": "Key"}}
    assert client.arm("PUT", f"onlineEndpoints/{name}", endpoint)[0] in (200, 201)
    path = f"onlineEndpoints/{name}/deployments/blue"
    body = {
        "location": "local",
        "sku": {"name": "Default", "capacity": 1},
        "properties": {"endpointComputeType": "Managed", "model": "azureml:constant:1"},
    }

    def state() -> Any:
        status, found = client.arm("GET", path)
        return found["properties"]["provisioningState"] if status == 200 else status

    if point == "deployment.unpublished":
        assert client.arm("PUT", path, body)[0] in (200, 201)
        wait_for(lambda: state() == "Succeeded", PATIENCE, "the deployment")
        room.crash(point, lambda: client.arm("DELETE", path))
        assert state() == 404
        assert client.all(f"onlineEndpoints/{name}/deployments") == []
        return
    room.crash(point, lambda: client.arm("PUT", path, body))
    wait_for(lambda: state() == "Succeeded", PATIENCE, "the deployment")
    run_dir = Path(json.loads(room.server.folder.server_file.read_text())["run_dir"])

    def routed() -> bool:
        table = json.loads((run_dir / "routes.json").read_text())
        found = next(route for key, route in table["endpoints"].items() if key.endswith(f"/{name}"))
        return bool(found["deployments"]["blue"]["instances"])

    wait_for(routed, PATIENCE, "the route")
    client.arm("DELETE", path)


TRIAL = """
import json, os, sys, time, urllib.request

marks, value = sys.argv[1], float(sys.argv[2])
with open(os.path.join(marks, os.environ["MLFLOW_RUN_ID"]), "a") as file:
    file.write("started\\n")
token = os.environ["MLFLOW_TRACKING_TOKEN"]
headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
# The policy judges an interval once, beside what it has read of the others by then.
for step in range({0.9: 20, 0.1: 200, 0.8: 1}[value]):
    row = {"key": "acc", "value": value, "timestamp": 7 + step, "step": step}
    body = json.dumps({"run_id": os.environ["MLFLOW_RUN_ID"], **row}).encode()
    for _ in range(600):
        try:
            urllib.request.urlopen(urllib.request.Request(url, body, headers)).read()
            break
        except OSError:
            time.sleep(0.1)
    if value == 0.1:
        time.sleep(3)
sys.exit(3 if value == 0.8 else 0)
"""


def sweep(room: Room, point: str) -> None:
    """Whatever the controller was at: no trial is drawn or started twice, and each has its own end."""
    name = room.new("sweep")
    script = room.marks / "trial.py"
    script.write_text(TRIAL)
    body = {
        "properties": {
            "jobType": "Sweep",
            "experimentName": "raw",
            "searchSpace": {"x": ["choice", [[0.9, 0.1, 0.8]]]},
            "samplingAlgorithm": {"samplingAlgorithmType": "Grid"},
            "objective": {"goal": "Maximize", "primaryMetric": "acc"},
            "limits": {"jobLimitsType": "Sweep", "maxTotalTrials": 3, "maxConcurrentTrials": 2},
            "earlyTermination": {"policyType": "Bandit", "slackAmount": 0.5, "evaluationInterval": 1},
            "trial": {
                "command": f"exec python {script} {room.marks} ${{{{search_space.x}}}}",
                "environmentId": "azureml:host:1",
            },
        }
    }
    if not room.crash(point, lambda: room.client.arm("PUT", f"jobs/{name}", body)):
        assert room.client.arm("PUT", f"jobs/{name}", body)[0] in (200, 201)
    found = room.ended(name)
    assert found["status"] == "Completed", room.message(name)
    assert found["properties"]["best_child_run_id"] == f"{name}_0"
    for number, (value, status) in enumerate(((0.9, "Completed"), (0.1, "Canceled"), (0.8, "Failed"))):
        trial = room.ended(f"{name}_{number}")
        assert (trial["status"], room.starts(f"{name}_{number}")) == (status, 1)
        assert json.loads(found["tags"][f"_aml_system_{name}_{number}"]) == {"x": value}
    assert room.client.arm("GET", f"jobs/{name}_3")[0] == 404
    log = next(room.server.folder.blobs.rglob(f"dcid.{name}/azureml-logs/hyperdrive.txt")).read_text()
    assert log.count("Scheduling job, id=") == 3


SCENARIOS: dict[str, Callable[[Room, str], None]] = {
    "workspace.stored": workspace,
    "asset.deleted": delete,
    "blob.deleted": remove_blob,
    "block.staged": block,
    "blocks.assembled": block_list,
    "job.failing": failing_job,
    "job.failed": failing_job,
    "job.stopping": canceled_job,
    "job.stopped": canceled_job,
    "job.canceled": canceled_job,
    **dict.fromkeys(("write.made", "write.committed", "asset.checked", "asset.stored"), write),
    **dict.fromkeys(("blob.staged", "blob.renamed", "blob.described"), upload),
    **dict.fromkeys(
        (
            "file.staged", "file.renamed", "spawn.ordered", "spawn.forked", "job.preparing", "job.prepared",
            "job.queued", "job.starting", "job.tracked", "job.ordered", "job.spawned", "job.running",
            "job.ended", "job.collected", "job.finalizing", "job.flushed", "job.completed",
        ),
        job,
    ),
}  # fmt: skip
# One of each kind; the others are slow only because there are so many.
QUICK = (
    "write.made", "write.committed", "file.staged", "workspace.stored", "blob.renamed", "blocks.assembled",
    "job.starting", "spawn.forked", "job.collected", "job.completed", "job.failing", "job.stopping",
    "shim.recorded", "shim.released", "shim.ended", "sweep.made", "sweep.terminated",
)  # fmt: skip


def scenario(point: str) -> Callable[[Room, str], None]:
    if point in SCENARIOS:
        return SCENARIOS[point]
    by_kind = {"shim": shim, "deployment": deployment, "sweep": sweep}
    kind = point.partition(".")[0]
    assert kind in by_kind, f"the crash point {point} has no scenario here"
    return by_kind[kind]


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, marks=() if point in QUICK else pytest.mark.slow)
        for point in sorted(crash_points.POINTS)
    ],
)
def test_a_crash_loses_nothing(room: Room, point: str) -> None:
    scenario(point)(room, point)
    room.check()


@pytest.mark.parametrize("point", ["write.made", "write.committed"])
def test_a_crash_at_the_submission_of_a_job(room: Room, point: str) -> None:
    write_of_a_job(room, point)
    room.check()


def test_every_point_has_a_scenario() -> None:
    for point in crash_points.POINTS:
        scenario(point)
    assert set(QUICK) <= crash_points.POINTS
