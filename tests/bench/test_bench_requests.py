"""Requests per second by a native load tool (wrk), beside what the same server or SQLite can do at best."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from load_desk import SECONDS, in_turns, rate

from amlocal.emulator.cli import instance

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk (a package of most systems) is not on PATH"),
]

MOTO = "moto[server]==5.2.5"
VERSION = "api-version=2024-01-01-preview"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from conftest import Server

    made = Server(tmp_path_factory.mktemp("bench"), instance.free_ports()[0])
    made.start()
    yield made
    made.stop()


@pytest.fixture
def lua(tmp_path: Path, server: Any) -> Callable[[str], Path]:
    """Scripts for wrk; all send the user's token."""

    def write(text: str) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.lua"
        path.write_text(f'wrk.headers["Authorization"] = "Bearer {server.user_token()}"\n{text}\n')
        return path

    return write


def job(name: str) -> dict[str, Any]:
    return {
        "properties": {
            "jobType": "Command",
            "command": "echo hello",
            "environmentId": "azureml:host:1",
            "experimentName": "bench",
            "displayName": name,
            "tags": {"team": "bench"},
        }
    }


def submit(server: Any, name: str) -> str:
    code, body = server.call("PUT", f"{server.workspace_path}/jobs/{name}?{VERSION}", job(name))
    assert code == 201, body
    return f"{server.workspace_path}/jobs/{name}?{VERSION}"


def wait_until_completed(server: Any, path: str) -> float:
    deadline = time.monotonic() + 60
    while server.call("GET", path)[1]["properties"]["status"] != "Completed":
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return time.perf_counter()


@contextmanager
def moto(tmp_path: Path) -> Iterator[str]:
    """Moto's server, in a virtual environment of its own beside ours."""
    home = Path(sys.prefix) / "bench-moto"
    python = home / "bin" / "python"
    if not (home / "bin" / "moto_server").exists():
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", MOTO], check=True)
    port = instance.free_ports()[0]
    environ = {**os.environ, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    process = subprocess.Popen(
        [home / "bin" / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
        env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while sagemaker(url, "ListTrainingJobs", {}) != 200:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def sagemaker_headers(action: str) -> dict[str, str]:
    signature = "Credential=x/20260101/us-east-1/sagemaker/aws4_request, SignedHeaders=host, Signature=0"
    return {
        "X-Amz-Target": f"SageMaker.{action}",
        "Content-Type": "application/x-amz-json-1.1",
        "Authorization": f"AWS4-HMAC-SHA256 {signature}",
    }


def sagemaker(url: str, action: str, body: dict[str, Any]) -> int:
    import httpx

    try:
        return httpx.post(url, headers=sagemaker_headers(action), json=body, timeout=10).status_code
    except httpx.TransportError:
        return 0


TRAINING_JOB = {
    "TrainingJobName": "bench",
    "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
    "RoleArn": "arn:aws:iam::123456789012:role/bench",
    "OutputDataConfig": {"S3OutputPath": "s3://bench"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
    "StoppingCondition": {"MaxRuntimeInSeconds": 60},
}


def test_get_of_a_job(server: Any, lua: Any, tmp_path: Path) -> None:
    path = submit(server, "bench-get")
    wait_until_completed(server, path)
    plain = lua("")
    constant, got = in_turns(
        lambda: rate(f"{server.base_url}/health", plain), lambda: rate(server.base_url + path, plain)
    )
    print(f"\nconstant JSON {constant:.0f}/s, GET job {got:.0f}/s: {got / constant:.0%}, aim >= 40 %")
    script = tmp_path / "moto.lua"
    lines = [
        f'wrk.headers["{key}"] = "{value}"' for key, value in sagemaker_headers("DescribeTrainingJob").items()
    ]
    body = json.dumps({"TrainingJobName": "bench"})
    script.write_text("\n".join(['wrk.method = "POST"', f"wrk.body = '{body}'", *lines]) + "\n")
    with moto(tmp_path) as url:
        assert sagemaker(url, "CreateTrainingJob", TRAINING_JOB) == 200
        described, got = in_turns(lambda: rate(url, script), lambda: rate(server.base_url + path, plain))
    times = f"{got / described:.1f}x, aim >= 5x"
    print(f"moto's DescribeTrainingJob {described:.0f}/s, GET job {got:.0f}/s: {times}")
    assert got > 0 and described > 0


def test_put_of_a_resource(server: Any, lua: Any) -> None:
    """Every PUT makes a compute that did not exist, acknowledged once it is on disk."""
    body = {
        "computeType": "AmlCompute",
        "properties": {"scaleSettings": {"minNodeCount": 0, "maxNodeCount": 2}},
    }
    text = json.dumps({"location": "local", "properties": body})
    script = lua(
        "local counter = 0\n"
        "request = function()\n"
        "  counter = counter + 1\n"
        f'  local path = "{server.workspace_path}/computes/bench-" .. os.time() .. "-" .. counter'
        f' .. "?{VERSION}"\n'
        '  wrk.headers["Content-Type"] = "application/json"\n'
        f"  return wrk.format('PUT', path, wrk.headers, '{text}')\n"
        "end"
    )
    bare, put = in_turns(
        lambda: inserts(server.root / "bare.db"), lambda: rate(server.base_url, script, clients=64)
    )
    print(f"\nbare SQLite FULL inserts {bare:.0f}/s, PUT {put:.0f}/s: {put / bare:.0%}, aim >= 70 %")
    assert put > 0


def inserts(path: Path) -> float:
    """Rows per second into a table like ours, one transaction each, on the same disk."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (name TEXT PRIMARY KEY, body TEXT)")
    number, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < SECONDS:
        connection.execute("INSERT INTO t VALUES (?, ?)", (f"{begin}-{number}", "x" * 200))
        number += 1
    connection.close()
    return number / spent


def test_echo_hello(server: Any, tmp_path: Path) -> None:
    """From accepted to Completed, and what one job costs."""
    wait_until_completed(server, submit(server, "bench-warm"))
    seconds = []
    for number in range(7):
        path = submit(server, f"bench-hello-{number}")
        begin = time.perf_counter()
        seconds.append(wait_until_completed(server, path) - begin)
    print(
        f"\necho hello, accepted to Completed: median {statistics.median(seconds):.2f} s "
        f"({min(seconds):.2f} to {max(seconds):.2f}), aim < 1 s"
    )
    with sqlite3.connect(server.folder.database) as connection:
        query = "SELECT state FROM transitions WHERE job = 'bench-hello-0' ORDER BY id"
        states = [state for (state,) in connection.execute(query)]
    print(f"{len(states)} transitions: {', '.join(states)}")
    assert states[-1] == "Completed"
    if shutil.which("strace") is None:
        print("strace is not on PATH: fsyncs and spawns not counted")
        return
    with system_calls(server, tmp_path / "calls") as calls:
        wait_until_completed(server, submit(server, "bench-counted"))
    found = calls()
    print(f"{found['fsync'] + found['fdatasync']} fsyncs, {found['execve']} programs started")


@contextmanager
def system_calls(server: Any, log: Path) -> Iterator[Callable[[], dict[str, int]]]:
    """Counts of the calls of the worker and of all that it starts meanwhile."""
    pid = server.call("GET", "/health")[1]["pid"]
    names = ("fsync", "fdatasync", "execve")
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-e", f"trace={','.join(names)}", "-o", str(log), "-p", str(pid)]
    )

    def count() -> dict[str, int]:
        # An interrupted call stands twice: unfinished and resumed. A search on PATH fails and goes on.
        lines = [
            line for line in log.read_text().splitlines() if "resumed>" not in line and "ENOENT" not in line
        ]
        return {name: sum(f" {name}(" in line for line in lines) for name in names}

    try:
        deadline = time.monotonic() + 10
        while "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text():
            assert tracer.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield count
    finally:
        tracer.terminate()
        tracer.wait(10)
