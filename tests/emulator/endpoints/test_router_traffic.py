"""The router end to end: where requests go, and what happens when scorers do not do their part."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from living import gone

from amlocal.compat.tokens import TokenIssuer
from amlocal.emulator.endpoints.route_table import DeploymentRoute, Instance

if TYPE_CHECKING:
    from conftest import Plane


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def test_timeout_is_408(plane: Plane) -> None:
    plane.reset(deployments={"blue": plane.deployment("blue", request_timeout_ms=300)})
    begin = time.monotonic()
    response = plane.post(b"sleep 3")
    assert error_of(response) == (408, "RequestTimeout") and "300" in response.text
    assert time.monotonic() - begin < 2.9


def test_too_many_requests_are_429(plane: Plane, tmp_path: Path) -> None:
    narrow = plane.deployment("blue", max_concurrent=1, request_timeout_ms=60_000)
    plane.reset(deployments={"blue": narrow})
    statuses: list[int] = []
    go_on = tmp_path / "go-on"

    def call() -> None:
        with plane.new_client() as client:
            statuses.append(plane.post(f"hold {go_on}".encode(), client=client).status_code)

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(statuses) == 4)  # all that neither are scored nor wait
    finally:
        go_on.touch()
    for thread in threads:
        thread.join()
    assert Counter(statuses) == {200: 2, 429: 4}


def test_dead_scorers_are_503_until_they_are_back(plane: Plane) -> None:
    response = plane.post(b"die")
    assert error_of(response) == (424, "ModelError") and "'blue' ended" in response.text
    assert "blue ended with a request" in plane.log.read_text()
    answers = []
    until(lambda: answers.append(plane.post()) or answers[-1].status_code == 200)
    # 424: the dying process had the request in its queue. After that nobody takes it.
    codes = [answer.status_code for answer in answers[:-1]]
    assert 503 in codes and codes == sorted(codes), codes
    plane.reset(deployments={"blue": DeploymentRoute((Instance("/nowhere.sock"),))})
    response = plane.post()
    assert error_of(response) == (503, "ServiceUnavailable") and "no running scorer" in response.text
    assert response.headers["retry-after"] == "1"


def test_another_instance_steps_in(plane: Plane) -> None:
    instances = (Instance("/nowhere.sock"), *plane.deployment("blue").instances)
    plane.reset(deployments={"blue": DeploymentRoute(instances)})
    assert [plane.post().status_code for _ in range(4)] == [200] * 4


def test_deployments_that_are_not_ready_get_nothing(plane: Plane) -> None:
    updating = plane.deployment("blue", state="Updating")
    plane.reset(
        traffic={"blue": 50, "green": 50}, deployments={"blue": updating, "green": plane.deployment("green")}
    )
    assert {plane.post().json()["deployment"] for _ in range(12)} == {"green"}
    assert error_of(plane.post(azureml_model_deployment="blue")) == (503, "ServiceUnavailable")


def test_traffic_split(plane: Plane) -> None:
    plane.reset(traffic={"blue": 70, "green": 30})
    count = 100
    seen = Counter(plane.post().json()["deployment"] for _ in range(count))
    # 4.5 standard deviations of a binomial distribution with 100 draws are 0.206.
    assert abs(seen["blue"] / count - 0.7) < 0.206, seen


def test_damaged_table_keeps_the_last_one(plane: Plane) -> None:
    good = plane.routes.path.read_text()
    plane.routes.path.write_text(good[: len(good) // 2])
    assert plane.post().status_code == 200
    plane.routes.path.write_text(good)
    assert plane.post().status_code == 200


def test_request_under_way_follows_the_route_table(plane: Plane) -> None:
    """Blue was chosen when the request began, and is gone when its body has arrived."""
    old = plane.start("blue", "old-blue")
    plane.supervisor.wait_ready("old-blue", 30)
    both = {"blue": DeploymentRoute((Instance(str(old)),)), "green": plane.deployment("green")}
    plane.reset(traffic={"blue": 100}, deployments=both)

    def body() -> Iterator[bytes]:
        yield b"first half,"
        time.sleep(0.3)
        plane.reset(traffic={"green": 100})
        plane.supervisor.stop("old-blue")
        yield b"second half"

    response = plane.post(body())  # type: ignore[arg-type]
    assert (response.status_code, response.json()) == (200, {"deployment": "green", "size": 22})


def test_switch_of_traffic_loses_no_request(plane: Plane) -> None:
    """8 callers; meanwhile blue is replaced by new processes and traffic goes back and forth."""
    stop = threading.Event()
    seen: list[Counter[Any]] = []

    def call() -> None:
        counter: Counter[Any] = Counter()
        with plane.new_client() as client:
            while not stop.is_set():
                response = plane.post(b"sleep 0.005", client=client)
                body = response.json()
                counter[(response.status_code, body.get("deployment", response.text))] += 1
        seen.append(counter)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    both = {name: plane.deployment(name) for name in ("blue", "green")}
    current = "blue"
    for number in range(4):
        fresh = f"blue-{number}"
        path = plane.start("blue", fresh)
        plane.supervisor.wait_ready(fresh, 30)
        both["blue"] = replace(both["blue"], instances=(Instance(str(path)),))
        plane.reset(traffic={"blue": 100 * (number % 2), "green": 100 * (1 - number % 2)}, deployments=both)
        if current != "blue":
            plane.supervisor.stop(current)
        current = fresh
        time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    plane.reset()
    plane.supervisor.stop(current)
    total = sum(seen, Counter())
    assert set(total) == {(200, "blue"), (200, "green")}, total
    assert min(total.values()) > 20, total


def test_router_can_be_killed_and_started_again_and_ends_with_its_parent(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    issuer = TokenIssuer(tmp_path / "signing_key.pem", "https://issuer.example/")
    (tmp_path / "public.pem").write_bytes(issuer.public_key)
    parent = f"""
import os, sys, time
from pathlib import Path
from amlocal.emulator.processes import spawn_leashed
argv = [sys.executable, "-m", "amlocal.emulator.endpoints.router", "--port", "0",
        "--routes", {str(tmp_path / "routes.json")!r},
        "--cert", {str(cert)!r}, "--key", {str(key)!r}, "--public-key", {str(tmp_path / "public.pem")!r}]
child = spawn_leashed(argv, env=dict(os.environ), log=Path({str(tmp_path / "log")!r}))
print(child.pid, flush=True)
time.sleep(60)
"""
    trust = ssl.create_default_context(cafile=str(cert))
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        found = until(lambda: re.search(r"localhost:(\d+)", (tmp_path / "log").read_text()))
        with httpx.Client(verify=trust, trust_env=False) as client:
            answer = client.get(f"https://localhost:{found[1]}/ready")
            assert answer.json() == {"status": "ready", "version": 0}
        process.kill()
    until(lambda: gone(pid))
