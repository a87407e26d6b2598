"""A scoring plane for the tests: a router process behind real TLS, with real scorers behind it."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from amlocal.compat import certificates
from amlocal.emulator.endpoints.keys import EndpointKeys, generate_keys
from amlocal.emulator.endpoints.route_table import (
    DeploymentRoute,
    EndpointRoute,
    Instance,
    RouteTableFile,
)
from amlocal.emulator.endpoints.scorers import ScorerConfig, ScorerSupervisor

WORKSPACE = "6c0a6d34-3b0a-4c5e-9d55-0123456789ab"
MAX_BODY = 100_000
SCRIPT = """
import os, time
def init():
    pass
def run(raw):
    word, _, rest = raw.partition(" ")
    if word == "sleep":
        time.sleep(float(rest))
    elif word == "fail":
        raise RuntimeError(rest)
    elif word == "die":
        os._exit(3)
    return {"deployment": os.environ["DEPLOYMENT"], "size": len(raw)}
"""


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """The server's own kind of certificate (its file holds the authority too) and its key."""
    files = certificates.ensure(folder)
    return files.certificate, files.key


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


class Plane:
    """Router process, two scorers (blue and green), and an endpoint `digits` in front of them."""

    workspace = WORKSPACE
    max_body = MAX_BODY

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.routes = RouteTableFile(folder / "routes.json")
        self.keys: EndpointKeys = generate_keys()
        self.supervisor = ScorerSupervisor(folder / "run", backoff=lambda deaths: 0.05)
        certificate, key = make_certificate(folder)
        self.trust = ssl.create_default_context(cafile=str(certificate))
        (folder / "code").mkdir()
        (folder / "code" / "score.py").write_text(SCRIPT)
        self.sockets = {name: self.start(name) for name in ("blue", "green")}
        for name in self.sockets:
            self.supervisor.wait_ready(name, 30)
        self.reset()
        self.log = folder / "router.log"
        command = ["-m", "amlocal.emulator.endpoints.router", "--port", "0", "--seed", "7"]
        command += ["--routes", str(self.routes.path), "--cert", str(certificate), "--key", str(key)]
        self.router = subprocess.Popen(
            [sys.executable, *command, "--max-body", str(MAX_BODY)],
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
        )
        found = until(lambda: re.search(r"router on https://localhost:(\d+)", self.log.read_text()))
        self.port = int(found[1])
        self.url = f"https://localhost:{self.port}"
        self.client = self.new_client()

    def start(self, name: str, key: str | None = None) -> Path:
        config = ScorerConfig(
            kind="script",
            model_dir=self.folder,
            code_dir=self.folder / "code",
            score_script="score.py",
            log=self.folder / f"{key or name}.log",
            env={"DEPLOYMENT": name},
            max_concurrent=8,
        )
        return self.supervisor.start(key or name, config)

    def new_client(self) -> httpx.Client:
        return httpx.Client(verify=self.trust, timeout=30, trust_env=False)

    def deployment(self, name: str, **more: Any) -> DeploymentRoute:
        return DeploymentRoute((Instance(str(self.sockets[name])),), max_concurrent=8, **more)

    def reset(self, **more: Any) -> None:
        route = EndpointRoute(
            key_hashes=self.keys.hashes(),
            traffic={"blue": 100, "green": 0},
            deployments={name: self.deployment(name) for name in ("blue", "green")},
        )
        self.routes.put(WORKSPACE, "digits", replace(route, **more))

    def post(
        self, body: bytes = b"x", *, client: httpx.Client | None = None, **headers: str
    ) -> httpx.Response:
        given = {"Authorization": f"Bearer {self.keys.primary}"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.url}/{WORKSPACE}/digits/score"
        return (client or self.client).post(url, content=body, headers=given)

    def close(self) -> None:
        self.client.close()
        self.router.terminate()
        self.router.wait(40)
        self.supervisor.stop_all(grace=2)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    plane = Plane(tmp_path_factory.mktemp("plane"))
    yield plane
    plane.close()
    assert "Traceback" not in plane.log.read_text()


@pytest.fixture
def plane(shared: Plane) -> Plane:
    shared.reset()
    return shared


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A throw-away certificate for localhost and its key."""
    return make_certificate(tmp_path)
