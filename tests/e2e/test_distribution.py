"""Distributed command jobs through the unmodified SDK: what every process sees, and what is left of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from job_desk import check_all_ended, ended, make, message, processes_of

ALL_REDUCE = """
import os
import torch.distributed as dist
import torch
dist.init_process_group("gloo")
value = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(value)
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "AZUREML_NODE_COUNT")
print("sum", value.item(), *(os.environ[name] for name in names), flush=True)
dist.destroy_process_group()
"""


def logs(ml_client: Any, name: str, folder: Path) -> dict[str, str]:
    ml_client.jobs.download(name, all=True, download_path=str(folder))
    return {path.name: path.read_text() for path in folder.rglob("user_logs/*.txt")}


@pytest.mark.parametrize(
    ("instances", "each", "places"),
    [
        (2, 1, ["0 0 2 1 0 2", "1 0 2 1 1 2"]),
        pytest.param(1, 2, ["0 0 2 2 0 1", "1 1 2 2 0 1"], marks=pytest.mark.slow),
        pytest.param(
            2,
            2,
            ["0 0 4 2 0 2", "1 1 4 2 0 2", "2 0 4 2 1 2", "3 1 4 2 1 2"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_processes_of_pytorch_find_each_other(
    ml_client: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    instances: int,
    each: int,
    places: list[str],
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text(ALL_REDUCE)
    job = ml_client.jobs.create_or_update(
        make(
            code=str(tmp_path / "code"),
            command="python train.py",
            instance_count=instances,
            distribution={"type": "pytorch", "process_count_per_instance": each},
        )
    )
    ml_client.jobs.stream(job.name)
    total = sum(range(1, instances * each + 1))
    streamed = capsys.readouterr().out
    assert "Streaming user_logs/std_log_process_0.txt" in streamed and f"sum {total}.0 0 0" in streamed
    done = ended(ml_client, job.name)
    assert done.status == "Completed"
    assert done.resources.instance_count == instances
    assert done.distribution.process_count_per_instance == each
    texts = logs(ml_client, job.name, tmp_path / "logs")
    said = [texts[f"std_log_process_{rank}.txt"].splitlines()[-1] for rank in range(len(places))]
    assert said == [f"sum {total}.0 {place}" for place in places]
    assert f"{instances * each} processes (pytorch)" in texts["std_log.txt"]
    check_all_ended(job.name)


def test_one_rank_that_fails_ends_all(server: Any, ml_client: Any) -> None:
    command = "if [ $RANK = 1 ]; then echo the reason; exit 5; fi; setsid sleep 621 & sleep 621"
    job = ml_client.jobs.create_or_update(
        make(command=command, distribution={"type": "pytorch", "process_count_per_instance": 3})
    )
    assert ended(ml_client, job.name).status == "Failed"
    text = message(server, job.name)
    assert "process 1 (instance 0, local rank 1) ended with exit code 5" in text
    assert text.endswith("the reason")
    check_all_ended(job.name)


def test_cancel_ends_every_rank(ml_client: Any) -> None:
    job = ml_client.jobs.create_or_update(
        make(
            command="sleep 622 & setsid sleep 622 & sleep 622",
            instance_count=2,
            distribution={"type": "pytorch", "process_count_per_instance": 2},
        )
    )
    wait_for(lambda: ml_client.jobs.get(job.name).status == "Running", 90, "the start")
    wait_for(lambda: len(processes_of(job.name)) >= 9, 90, "all ranks")
    ml_client.jobs.begin_cancel(job.name).result()
    assert ended(ml_client, job.name).status == "Canceled"
    check_all_ended(job.name)


def test_a_time_limit_ends_every_rank(server: Any, ml_client: Any) -> None:
    tasks = {"type": "tensorflow", "worker_count": 2}
    made = make(command="sleep 623", distribution=tasks)
    made.set_limits(timeout=1)
    job = ml_client.jobs.create_or_update(made)
    assert ended(ml_client, job.name).status == "Canceled"
    assert "time limit of 1 seconds was up" in message(server, job.name)
    check_all_ended(job.name)


def test_tasks_of_tensorflow(ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml import TensorFlowDistribution

    command = 'echo "$TF_CONFIG"; case "$TF_CONFIG" in *\'"type": "ps"\'*) sleep 624;; esac'
    job = ml_client.jobs.create_or_update(
        make(
            command=command,
            instance_count=2,
            distribution=TensorFlowDistribution(worker_count=2, parameter_server_count=1),
        )
    )
    done = ended(ml_client, job.name)
    assert done.status == "Completed"
    assert (done.distribution.worker_count, done.distribution.parameter_server_count) == (2, 1)
    texts = logs(ml_client, job.name, tmp_path)
    configs = [
        json.loads(texts[name])
        for name in ("std_log_process_0.txt", "std_log_process_1.txt", "std_log_process_0_ps.txt")
    ]
    assert configs[0]["cluster"] == configs[1]["cluster"] == configs[2]["cluster"]
    cluster = configs[0]["cluster"]
    addresses = cluster["worker"] + cluster["ps"]
    assert len(cluster["worker"]) == 2 and len(set(addresses)) == 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    assert [one["task"] for one in configs] == [
        {"type": "worker", "index": 0},
        {"type": "worker", "index": 1},
        {"type": "ps", "index": 0},
    ]
    check_all_ended(job.name)


def test_instances_without_a_distribution(ml_client: Any, tmp_path: Path) -> None:
    job = ml_client.jobs.create_or_update(
        make(command='echo "once on $AZUREML_NODE_COUNT; rank $RANK."', instance_count=2)
    )
    assert ended(ml_client, job.name).status == "Completed"
    text = logs(ml_client, job.name, tmp_path)["std_log.txt"]
    assert text.count("once on 2; rank .") == 1
    assert "2 instances without a distribution: the command runs once" in text


@pytest.mark.parametrize(
    ("more", "status", "part"),
    [
        ({"distribution": {"type": "ray"}}, 501, "distribution Ray"),
        ({"distribution": {"type": "mpi", "process_count_per_instance": 2}}, 400, "no mpirun on its PATH"),
    ],
)
def test_refused_distributions(
    ml_client: Any, more: dict[str, Any], status: int, part: str, request: pytest.FixtureRequest
) -> None:
    import shutil

    from azure.ai.ml import RayDistribution
    from azure.core.exceptions import HttpResponseError

    if "mpirun" in part and shutil.which("mpirun"):
        pytest.skip("this host has mpirun")
    if more["distribution"]["type"] == "ray":
        more = {"distribution": RayDistribution()}
    with pytest.raises(HttpResponseError, match=part) as caught:
        ml_client.jobs.create_or_update(make(command="true", **more))
    assert caught.value.status_code == status


def test_interactive_services_are_kept_and_not_started(ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import (
        JupyterLabJobService,
        SshJobService,
        TensorBoardJobService,
        VsCodeJobService,
    )

    services = {
        "lab": JupyterLabJobService(nodes="all"),
        "shell": SshJobService(ssh_public_keys="ssh-ed25519 AAAA"),
        "board": TensorBoardJobService(log_dir="outputs/runs"),
        "code": VsCodeJobService(),
    }
    job = ml_client.jobs.create_or_update(make(command="echo ran", services=services))
    assert ended(ml_client, job.name).status == "Completed"
    kept = ml_client.jobs.get(job.name).services
    assert set(kept) == {*services, "Tracking", "Studio"}
    for name, service in services.items():
        assert kept[name].type == service.type and kept[name].status == "NotStarted"
        assert kept[name].endpoint is None
    assert kept["board"].log_dir == "outputs/runs"
    assert kept["shell"].ssh_public_keys == "ssh-ed25519 AAAA"
    text = logs(ml_client, job.name, tmp_path)["std_log.txt"]
    assert "service lab (JupyterLab) is not started: interactive services are not there yet" in text
    assert text.splitlines()[-1] == "ran"


def test_what_was_asked_for_is_kept(ml_client: Any) -> None:
    from azure.ai.ml import UserIdentityConfiguration

    made = make(
        command="true",
        instance_count=1,
        instance_type="STANDARD_D2",
        shm_size="3g",
        docker_args="--ipc=host",
        identity=UserIdentityConfiguration(),
        tags={"a": "b"},
        properties={"p": "q"},
    )
    made.resources.properties = {"target_selector": {"my_resource_only": True}}
    made.set_queue_settings(job_tier="standard", priority="high")
    submitted = ml_client.jobs.create_or_update(made)
    assert ended(ml_client, submitted.name).status == "Completed"
    kept = ml_client.jobs.get(submitted.name)
    assert (kept.resources.instance_count, kept.resources.instance_type) == (1, "STANDARD_D2")
    assert (kept.resources.shm_size, kept.resources.docker_args) == ("3g", "--ipc=host")
    assert kept.resources.properties["target_selector"] == {"my_resource_only": True}
    assert (kept.queue_settings.job_tier, kept.queue_settings.priority) == ("standard", "high")
    assert kept.identity.type == "user_identity"
    assert kept.tags["a"] == "b" and kept.properties["p"] == "q"
    assert set(kept.services) == {"Tracking", "Studio"}
    assert ml_client.jobs.show_services(submitted.name) is None


def test_a_job_that_is_not_there(ml_client: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    for call in (ml_client.jobs.show_services, ml_client.jobs.begin_cancel, ml_client.jobs.stream):
        with pytest.raises(HttpResponseError) as caught:
            call("no-such-job")
        assert caught.value.status_code == 404


def test_no_secret_of_the_server_reaches_a_job(server: Any, ml_client: Any, tmp_path: Path) -> None:
    job = ml_client.jobs.create_or_update(
        make(command="env -0 > outputs/env", distribution={"type": "pytorch"})
    )
    assert ended(ml_client, job.name).status == "Completed"
    ml_client.jobs.download(job.name, all=True, download_path=str(tmp_path))
    text = next(tmp_path.rglob("outputs/env")).read_bytes()
    seen = dict(entry.partition("=")[::2] for entry in text.decode().split("\0") if entry)
    assert seen["AZUREML_RUN_ID"] == seen["MLFLOW_RUN_ID"] == job.name
    assert seen["AZUREML_ROOT_RUN_ID"] == job.name and seen["AZUREML_NODE_COUNT"] == "1"
    assert seen["AZUREML_SERVICE_ENDPOINT"] == server.base_url
    assert seen["AZUREML_WORKSPACE_SCOPE"] == server.workspace_path
    folder = server.folder.secrets
    secrets = {path.name: path.read_bytes().strip() for path in folder.rglob("*") if path.is_file()}
    assert len(secrets) >= 3
    secrets["MSI header"] = server.environment()["IDENTITY_HEADER"].encode()
    for name, secret in secrets.items():
        assert len(secret) > 20 and secret not in text, name
        for line in secret.splitlines():
            assert len(line) < 20 or line.startswith(b"-----") or line not in text, name
    assert not {"IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_SECRET"} & seen.keys()
    # Its own token is good for its own run, not for the user's work.
    token = seen["AZUREML_RUN_TOKEN"]
    assert server.call("GET", f"{server.workspace_path}/jobs", token=token)[0] in (401, 403)


HARD: dict[str, str] = {
    "daemons": (
        "trap '' TERM; (setsid bash -c 'sleep 632 & disown; sleep 632' >/dev/null 2>&1 &) ; "
        "(setsid setsid sleep 632 &) ; touch outputs/ready; while true; do sleep 632; done"
    ),
    "storm": "for i in $(seq 200); do sleep 633 & done; touch outputs/ready; wait",
}


@pytest.mark.parametrize("kind", HARD)
def test_what_does_not_want_to_end(server: Any, ml_client: Any, kind: str) -> None:
    job = ml_client.jobs.create_or_update(make(command=HARD[kind]))
    folder = wait_for(lambda: next(server.folder.jobs.glob(f"*/{job.name}"), None), 90, "the folder")
    wait_for(lambda: list(folder.glob("wd/outputs/ready")), 60, "its processes")
    assert len(processes_of(job.name)) >= (200 if kind == "storm" else 2)
    ml_client.jobs.begin_cancel(job.name).result()
    assert ended(ml_client, job.name).status == "Canceled"
    check_all_ended(job.name)
    report = json.loads((folder / "exit-1.json").read_text())
    assert report["stopped"] is True and report["timed_out"] is False


@pytest.mark.slow
def test_a_limit_for_what_does_not_want_to_end(server: Any, ml_client: Any) -> None:
    made = make(command="trap '' TERM; setsid sleep 634 & while true; do sleep 634; done")
    made.set_limits(timeout=1)
    job = ml_client.jobs.create_or_update(made)
    assert ended(ml_client, job.name).status == "Canceled"
    assert "time limit of 1 seconds was up" in message(server, job.name)
    check_all_ended(job.name)
