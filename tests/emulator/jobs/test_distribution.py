"""What `distribution` and `resources` of a command job mean, and what the launcher is told to start."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.arm import documents
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import distribution
from amlocal.emulator.jobs.distribution import Distribution
from amlocal.emulator.jobs.engines.local import LocalEngine
from amlocal.emulator.jobs.environment_interpreters import Interpreter, Interpreters

COMMAND = ["/bin/bash", "-c", "true"]


def asked(instances: Any = None, **given: Any) -> Distribution:
    return distribution.read({"resources": {"instanceCount": instances}, "distribution": given or None})


def ordered(found: Distribution, mpirun: str | None = None) -> dict[str, Any]:
    value = json.loads(
        distribution.order(found, COMMAND, Path("/logs"), python="/py/bin/python", mpirun=mpirun)
    )
    assert isinstance(value, dict)
    return value


def test_reading() -> None:
    assert asked() == Distribution() and asked().total == 1
    assert asked(3) == Distribution("none", 3) and asked(3).total == 1
    pytorch = asked(2, distributionType="PyTorch", processCountPerInstance=3)
    assert (pytorch.kind, pytorch.total) == ("pytorch", 6)
    assert asked(2, distributionType="pytorch").total == 2
    tensorflow = asked(4, distributionType="TensorFlow", parameterServerCount=1)
    assert (tensorflow.workers, tensorflow.servers, tensorflow.total) == (4, 1, 5)
    assert asked(1, distributionType="TensorFlow", workerCount=2, parameterServerCount=0).total == 2
    assert asked(2, distributionType="Mpi", processCountPerInstance=4).total == 8


@pytest.mark.parametrize(
    ("instances", "given", "status", "part"),
    [
        (None, {"distributionType": "Ray"}, 501, "Ray"),
        (None, {"distributionType": "horovod"}, 400, "'horovod'; it must be one of pytorch, tensorflow, mpi"),
        (None, {"distributionType": 3}, 400, "distributionType"),
        (None, {"x": 1}, 400, "distribution.type"),
        (0, {}, 400, "instance_count is 0"),
        ("2", {}, 400, "instance_count is '2'"),
        (True, {}, 400, "instance_count is True"),
        (None, {"distributionType": "PyTorch", "processCountPerInstance": -1}, 400, "process_count_per_inst"),
        (100, {"distributionType": "PyTorch", "processCountPerInstance": 3}, 400, "300 processes"),
        (None, {"distributionType": "TensorFlow", "workerCount": 0}, 400, "worker_count is 0"),
        (None, {"distributionType": "TensorFlow", "parameterServerCount": "1"}, 400, "parameter_server"),
    ],
)
def test_refusals(instances: Any, given: dict[str, Any], status: int, part: str) -> None:
    with pytest.raises(AzureError) as caught:
        asked(instances, **given)
    assert caught.value.status == status and part in caught.value.message, caught.value.message


def test_every_instance_of_pytorch_has_its_torchrun() -> None:
    order = ordered(Distribution("pytorch", 2, 3))
    assert order["ports"] == 1 and len(order["processes"]) == 2
    second = order["processes"][1]
    assert second["argv"][:4] == ["/py/bin/python", "-m", "torch.distributed.run", "--no-python"]
    assert second["argv"][-3:] == COMMAND
    assert second["env"] == {
        "PET_NNODES": "2", "PET_NPROC_PER_NODE": "3", "PET_NODE_RANK": "1", "NODE_RANK": "1",
        "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": "@port0@", "PET_MAX_RESTARTS": "0",
        "AMLOCAL_PROCESS_LOGS": "/logs", "AMLOCAL_LOG_DIGITS": "1",
    }  # fmt: skip
    assert second["awaited"] is True and second["log"] is None
    assert ordered(Distribution("pytorch", 11))["processes"][0]["env"]["AMLOCAL_LOG_DIGITS"] == "2"


def test_a_python_without_torch_has_no_torchrun(desk: Any, monkeypatch: Any) -> None:
    body = {
        "jobType": "Command", "command": "true", "environmentId": "azureml:host:1",
        "distribution": {"distributionType": "PyTorch"},
    }  # fmt: skip
    asked = Interpreters.ask

    def without_torch(self: Interpreters, python: Path) -> Interpreter:
        found = asked(self, python)
        kept = {name: version for name, version in found.installed.items() if name != "torch"}
        return replace(found, installed=kept)

    monkeypatch.setattr(Interpreters, "ask", without_torch)
    with pytest.raises(AzureError, match="has no torch") as caught:
        desk.service(start=False).submit(desk.workspace, "job", body)
    assert caught.value.status == 400 and caught.value.target == "environmentId"


def test_every_task_of_tensorflow_has_its_config() -> None:
    order = ordered(Distribution("tensorflow", 2, 1, 2, 1))
    assert order["ports"] == 3
    configs = [json.loads(one["env"]["TF_CONFIG"]) for one in order["processes"]]
    cluster = {"worker": ["127.0.0.1:@port0@", "127.0.0.1:@port1@"], "ps": ["127.0.0.1:@port2@"]}
    assert [one["cluster"] for one in configs] == [cluster] * 3
    assert [one["task"] for one in configs] == [
        {"type": "worker", "index": 0}, {"type": "worker", "index": 1}, {"type": "ps", "index": 0}
    ]  # fmt: skip
    assert [one["awaited"] for one in order["processes"]] == [True, True, False]
    assert order["processes"][2]["log"] == "/logs/std_log_process_0_ps.txt"


@pytest.mark.parametrize(
    ("version", "extra"), [("mpirun (Open MPI) 4.1.4", True), ("HYDRA build details", False)]
)
def test_mpirun_gets_exactly_this(
    desk: Any, tmp_path: Path, monkeypatch: Any, version: str, extra: bool
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    seen = tmp_path / "seen.txt"
    (programs / "mpirun").write_text(
        f'#!/bin/bash\nif [ "$1" = --version ]; then echo "{version}"; exit; fi\n'
        f'printf "%s\\n" "$@" > {seen}; env | grep -E "^(OMPI|AZ_BATCH)" >> {seen}; exit 0\n'
    )
    (programs / "mpirun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    desk.engine = LocalEngine()
    service = desk.service()
    body = {
        "jobType": "Command", "command": "echo a 'b c'", "environmentId": "azureml:host:1",
        "resources": {"instanceCount": 2},
        "distribution": {"distributionType": "Mpi", "processCountPerInstance": 3},
    }  # fmt: skip
    service.submit(desk.workspace, "job", body)
    service.wait_idle()
    assert desk.record("job").state == "Completed", desk.record("job").error
    lines = seen.read_text().splitlines()
    options = ["--oversubscribe", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])] if extra else []
    expected = ["-n", "6", *options, "/bin/bash", "-c", "echo a 'b c'"]
    assert lines[: len(expected)] == expected
    variables = sorted(lines[len(expected) :])
    assert [line.partition("=")[0] for line in variables] == [
        "AZ_BATCHAI_MPI_MASTER_NODE", "AZ_BATCH_MASTER_NODE"
    ]  # fmt: skip
    assert int(variables[1].rpartition(":")[2]) > 0


def test_without_mpirun_a_job_is_refused(desk: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    body = {
        "jobType": "Command", "command": "true", "environmentId": "azureml:host:1",
        "distribution": {"distributionType": "Mpi"},
    }  # fmt: skip
    with pytest.raises(AzureError) as caught:
        desk.service(start=False).submit(desk.workspace, "job", body)
    assert caught.value.status == 400 and "no mpirun on its PATH" in caught.value.message


def test_more_instances_than_the_cluster_has(desk: Any) -> None:
    def put(name: str, kind: str, inner: dict[str, Any]) -> None:
        stored = {"properties": {"computeType": kind, "properties": inner}}
        desk.store.write(lambda c: documents.put(c, desk.workspace.id, "computes", name, "", stored))

    put("small", "AmlCompute", {"scaleSettings": {"maxNodeCount": 2}})
    put("mine", "ComputeInstance", {"state": "Running"})
    service = desk.service(start=False)
    body = {"jobType": "Command", "command": "true", "environmentId": "azureml:host:1"}
    for compute, count, most in (("small", 3, "2 nodes"), ("Small", 3, "2 nodes"), ("mine", 2, "1 node.")):
        sent = {**body, "computeId": compute, "resources": {"instanceCount": count}}
        with pytest.raises(AzureError) as caught:
            service.submit(desk.workspace, "bad", sent)
        assert caught.value.status == 400 and f"at most {most}" in caught.value.message
    sent = {**body, "computeId": "small", "resources": {"instanceCount": 2}}
    assert service.submit(desk.workspace, "good", sent)[1]
    sent = {**body, "computeId": "cpu-cluster", "resources": {"instanceCount": 4}}
    assert service.submit(desk.workspace, "built-in", sent)[1]
