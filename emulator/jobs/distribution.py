"""How one command job becomes several processes: instances, processes per instance, and their variables.

All instances of a job are this host. Source of the variables: Azure Machine Learning's guide to distributed
training (learn.microsoft.com, how-to-train-distributed-gpu): a PyTorch process finds what torch.distributed's
`env://` reads; TensorFlow's TF_CONFIG; for MPI the mpirun command is built and the rest left to it.
PyTorch's processes are started by its own torchrun, one for every instance.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from amlocal.emulator.http.errors import not_there_yet, user_error
from amlocal.emulator.jobs import fields
from amlocal.emulator.jobs.fields import shown

LAUNCHER = Path(__file__).resolve().parents[1] / "host" / "launcher.py"
# In the job folder: what the launcher has to start.
ORDER = "launch.json"
MOST_PROCESSES = 256
MOST_INSTANCES = 1000
MPIRUN = "mpirun"
_ADDRESS = "127.0.0.1"
_KINDS = ("pytorch", "tensorflow", "mpi")

# Runs one rank: its output goes to its own log; the first that fails says why where the launcher looks.
_RANK = """
log="$AMLOCAL_PROCESS_LOGS/std_log_process_$(printf "%0${AMLOCAL_LOG_DIGITS}d" "$RANK").txt"
"$@" >> "$log" 2>&1
code=$?
if [ $code != 0 ]; then
  set -o noclobber
  {
    echo "process $RANK (instance $NODE_RANK, local rank $LOCAL_RANK) ended with exit code $code;"
    echo "the end of ${log##*/}:"
    tail -n 15 "$log"
  } 2> /dev/null > "$AMLOCAL_FAILURE"
fi
exit $code
"""

Kind = Literal["none", "pytorch", "tensorflow", "mpi"]


@dataclass(frozen=True)
class Distribution:
    """`processes` counts those of one instance; `workers` and `servers` are TensorFlow's tasks of the job."""

    kind: Kind = "none"
    instances: int = 1
    processes: int = 1
    workers: int = 0
    servers: int = 0

    @property
    def total(self) -> int:
        """How many processes run the user's command."""
        if self.kind == "none":
            return 1
        return self.workers + self.servers if self.kind == "tensorflow" else self.instances * self.processes


@dataclass(frozen=True)
class Process:
    """One process for the launcher. `log` None: that of the job. The job lasts until all `awaited` ended."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path | None
    awaited: bool = True


def read(properties: Mapping[str, Any]) -> Distribution:
    """What `resources` and `distribution` of a body ask for. Raises AzureError."""
    instances = instance_count(properties)
    given = fields.mapping(properties, "distribution", "distribution")
    if not given:
        return Distribution(instances=instances)
    named = fields.text(given, "distributionType", "distribution.distributionType") or ""
    kind = named.lower()
    if kind == "ray":
        raise not_there_yet("The distribution Ray of a command job")
    if kind not in _KINDS:
        raise user_error(
            f"distribution.type is {shown(named)}; it must be one of {', '.join(_KINDS)}.",
            target="distribution.distributionType",
        )
    if kind == "tensorflow":
        workers = _count(given, "workerCount", "distribution.worker_count") or instances
        found = Distribution("tensorflow", instances, 1, workers, _servers(given))
    else:
        key = "processCountPerInstance"
        processes = _count(given, key, "distribution.process_count_per_instance") or 1
        found = Distribution("pytorch" if kind == "pytorch" else "mpi", instances, processes)
    if found.total > MOST_PROCESSES:
        raise user_error(
            f"distribution asks for {found.total} processes; this host starts at most {MOST_PROCESSES}.",
            target="distribution",
        )
    return found


def instance_count(properties: Mapping[str, Any]) -> int:
    """`resources.instance_count`, 1 without. Raises AzureError."""
    resources = fields.mapping(properties, "resources", "resources")
    target = "resources.instanceCount"
    count = fields.whole(
        resources, "instanceCount", "resources.instance_count", target, maximum=MOST_INSTANCES
    )
    return count or 1


def notes(distribution: Distribution) -> list[str]:
    """What the job's log says of its processes; nothing for a single one."""
    instances = f"{distribution.instances} instance{'' if distribution.instances == 1 else 's'}"
    if distribution.kind == "none":
        if distribution.instances == 1:
            return []
        return [f"{instances} without a distribution: the command runs once, on the first of them"]
    if distribution.kind == "mpi":
        return [f"{distribution.total} processes by {MPIRUN}; {instances}, all of them this host"]
    return [
        f"{distribution.total} processes ({distribution.kind}); {instances}, all of them this host; "
        "their output is in user_logs/std_log_process_*.txt"
    ]


def find_mpirun(path: str) -> str | None:
    """The mpirun that a job with this PATH gets; None where there is none."""
    return shutil.which(MPIRUN, path=path)


def argv(job_dir: Path) -> list[str]:
    """The command that runs the order in a job folder."""
    return [sys.executable, "-I", "-S", str(LAUNCHER), str(job_dir / ORDER)]


def order(
    distribution: Distribution, command: Sequence[str], logs: Path, *, python: str, mpirun: str | None
) -> bytes:
    """The launcher's order: every process, with its own variables and log file below `logs`.

    `@portN@` in a variable stands for a port of the loopback interface that is free when the job starts.
    `python` is the job's, which must have PyTorch for torchrun.
    """
    if distribution.kind == "pytorch":
        processes, ports = _pytorch(distribution, command, logs, python), 1
    elif distribution.kind == "tensorflow":
        processes, ports = _tensorflow(distribution, command, logs), distribution.total
    else:
        processes, ports = [_mpi(distribution, command, mpirun or MPIRUN)], 1
    entries = [
        {
            "name": process.name,
            "argv": list(process.argv),
            "env": process.env,
            "log": None if process.log is None else str(process.log),
            "awaited": process.awaited,
        }
        for process in processes
    ]
    return json.dumps({"ports": ports, "processes": entries}).encode()


def _pytorch(distribution: Distribution, command: Sequence[str], logs: Path, python: str) -> list[Process]:
    """One torchrun for every instance; they meet at the port of the first."""
    shared = {
        "PET_NNODES": str(distribution.instances),
        "PET_NPROC_PER_NODE": str(distribution.processes),
        "PET_MASTER_ADDR": _ADDRESS,
        "PET_MASTER_PORT": "@port0@",
        "PET_MAX_RESTARTS": "0",
        "AMLOCAL_PROCESS_LOGS": str(logs),
        "AMLOCAL_LOG_DIGITS": str(len(str(distribution.total - 1))),
    }
    torchrun = [python, "-m", "torch.distributed.run", "--no-python"]
    return [
        Process(
            f"torchrun of instance {instance}",
            [*torchrun, "/bin/bash", "-c", _RANK, "rank", *command],
            {**shared, "PET_NODE_RANK": str(instance), "NODE_RANK": str(instance)},
            None,
        )
        for instance in range(distribution.instances)
    ]


def _tensorflow(distribution: Distribution, command: Sequence[str], logs: Path) -> list[Process]:
    counts = {"worker": distribution.workers, "ps": distribution.servers}
    cluster: dict[str, list[str]] = {}
    number = 0
    for task, count in counts.items():
        if count:
            cluster[task] = [f"{_ADDRESS}:@port{number + index}@" for index in range(count)]
        number += count
    processes = []
    for task, addresses in cluster.items():
        for index in range(len(addresses)):
            config = {"cluster": cluster, "task": {"type": task, "index": index}, "environment": "cloud"}
            node = {"NODE_RANK": str(index % distribution.instances)}
            suffix = "" if task == "worker" else "_ps"
            # A parameter server never ends by itself: the job ends with its workers.
            processes.append(
                Process(
                    f"{task} {index}",
                    command,
                    {"TF_CONFIG": json.dumps(config), **node},
                    logs / _log_name(index, len(addresses), suffix),
                    awaited=task == "worker",
                )
            )
    return processes


def _mpi(distribution: Distribution, command: Sequence[str], mpirun: str) -> Process:
    options = ["-n", str(distribution.total)]
    if _is_open_mpi(mpirun):
        # All instances are this host, which may have fewer processors than processes are asked for.
        options += ["--oversubscribe", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]
    master = {"AZ_BATCH_MASTER_NODE": f"{_ADDRESS}:@port0@", "AZ_BATCHAI_MPI_MASTER_NODE": _ADDRESS}
    return Process(MPIRUN, [mpirun, *options, *command], master, None)


def _is_open_mpi(mpirun: str) -> bool:
    try:
        done = subprocess.run(
            [mpirun, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "Open MPI" in done.stdout or "OpenRTE" in done.stdout


def _log_name(index: int, count: int, suffix: str = "") -> str:
    """Clients follow live what has no other digit than 0 in its name: the first process's log."""
    return f"std_log_process_{index:0{len(str(count - 1))}d}{suffix}.txt"


def _count(given: Mapping[str, Any], key: str, name: str) -> int | None:
    return fields.whole(given, key, name, f"distribution.{key}", maximum=MOST_PROCESSES)


def _servers(given: Mapping[str, Any]) -> int:
    if given.get("parameterServerCount") == 0:
        return 0
    return _count(given, "parameterServerCount", "distribution.parameter_server_count") or 0
