"""A scoring plane for the tests: a router process behind real TLS, with real scorers behind it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from amlocal.compat import certificates, cloud
from amlocal.compat.tokens import TokenIssuer
from amlocal.emulator.endpoints.keys import EndpointKeys, generate_key
from amlocal.emulator.endpoints.route_table import (
    DeploymentRoute,
    EndpointRoute,
    Instance,
    RouteTable,
    endpoint_key,
)
from amlocal.emulator.endpoints.scorers import ScorerConfig, ScorerSupervisor
from amlocal.emulator.secrets import TOKEN_ISSUER
from amlocal.emulator.store.folder import write_atomic

WORKSPACE = "6c0a6d34-3b0a-4c5e-9d55-0123456789ab"
MAX_BODY = 100_000
# Where the control plane would be, and its key's file.
BASE_URL = "https://localhost:4265"
PUBLIC_KEY = "public.pem"
SCRIPT = """
import os, time
def init():
    pass
def run(raw):
    word, _, rest = raw.partition(" ")
    if word == "sleep":
        time.sleep(float(rest))
    elif word == "hold":
        while not os.path.exists(rest):
            time.sleep(0.01)
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


def make_issuer(folder: Path, clock: Callable[[], float] = time.time) -> TokenIssuer:
    """A control plane's issuer, its public key in the folder's PUBLIC_KEY."""
    issuer = TokenIssuer(folder / "signing_key.pem", TOKEN_ISSUER, clock)
    (folder / PUBLIC_KEY).write_bytes(issuer.public_key)
    return issuer


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


class Routes:
    """The table that a router reads, as the server writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table = RouteTable()

    def put(self, workspace: str, endpoint: str, route: EndpointRoute) -> None:
        """Add or replace one endpoint."""
        endpoints = {**self.table.endpoints, endpoint_key(workspace, endpoint): route}
        self.table = RouteTable(self.table.version + 1, endpoints)
        write_atomic(self.path, self.table.to_json().encode())


class RouterProcess:
    """A router with an endpoint `digits` in front of whatever `sockets` lead to, and a client of it."""

    workspace = WORKSPACE
    created = "2026-02-03T04:05:06.789+00:00"

    def __init__(
        self, folder: Path, sockets: dict[str, Path], max_body: int = MAX_BODY, auth: str = "strict"
    ) -> None:
        self.folder = folder
        self.sockets = sockets
        self.max_body = max_body
        self.routes = Routes(folder / "routes.json")
        self.keys = self.new_keys()
        self.issuer = make_issuer(folder)
        certificate, key = make_certificate(folder)
        self.trust = ssl.create_default_context(cafile=str(certificate))
        self.reset()
        self.log = folder / "router.log"
        command = ["-m", "amlocal.emulator.endpoints.router", "--port", "0", "--seed", "7"]
        command += ["--routes", str(self.routes.path), "--cert", str(certificate), "--key", str(key)]
        command += ["--public-key", str(folder / PUBLIC_KEY), "--max-body", str(max_body), "--auth", auth]
        command += [f"--audience={name}" for name in cloud.audiences(BASE_URL)]
        self.router = subprocess.Popen(
            [sys.executable, *command], stdout=self.log.open("wb"), stderr=subprocess.STDOUT
        )
        found = until(lambda: re.search(r"router on https://localhost:(\d+)", self.log.read_text()))
        self.port = int(found[1])
        self.url = f"https://localhost:{self.port}"
        self.client = self.new_client()

    def new_client(self) -> httpx.Client:
        return httpx.Client(verify=self.trust, timeout=30, trust_env=False)

    def deployment(self, name: str, **more: Any) -> DeploymentRoute:
        return DeploymentRoute((Instance(str(self.sockets[name])),), **{"max_concurrent": 8, **more})

    until = staticmethod(until)

    @staticmethod
    def new_keys() -> EndpointKeys:
        return EndpointKeys(generate_key(), generate_key())

    def reset(self, **more: Any) -> None:
        self.put(**more)

    def put(self, **more: Any) -> None:
        """The endpoint's route: all to blue, but for what is given."""
        route = EndpointRoute(
            created=self.created,
            key_hashes=self.keys.hashes(),
            traffic={"blue": 100, "green": 0},
            deployments={name: self.deployment(name) for name in self.sockets},
        )
        self.routes.put(WORKSPACE, "digits", replace(route, **more))

    def ask(
        self,
        path: str = "score",
        *,
        method: str = "POST",
        content: Any = b"x",
        client: httpx.Client | None = None,
        **headers: str,
    ) -> httpx.Response:
        """A request to `path` below the endpoint; headers' names with _ for -."""
        given = {"Authorization": f"Bearer {self.keys.primary}"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.url}/{WORKSPACE}/digits/{path}"
        body = content if method == "POST" else None
        return (client or self.client).request(method, url, content=body, headers=given)

    def post(self, body: Any = b"x", *, client: httpx.Client | None = None, **headers: str) -> httpx.Response:
        return self.ask(content=body, client=client, **headers)

    def metrics(self) -> dict[str, float]:
        """The samples of GET /metrics."""
        token = self.issuer.issue(BASE_URL)
        answer = self.client.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def close(self) -> None:
        self.client.close()
        self.router.terminate()
        self.router.wait(40)


class Plane(RouterProcess):
    """A router and two real scorers, blue and green."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.supervisor = ScorerSupervisor(folder / "run", backoff=lambda deaths: 0.05)
        (folder / "code").mkdir()
        (folder / "code" / "score.py").write_text(SCRIPT)
        sockets = {name: self.start(name) for name in ("blue", "green")}
        for name in sockets:
            self.supervisor.wait_ready(name, 30)
        super().__init__(folder, sockets)

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

    def close(self) -> None:
        super().close()
        self.supervisor.stop_all(grace=2)


class StandIn(socketserver.ThreadingUnixStreamServer):
    """In a scorer's place: a server on a socket that answers as `behave` says, and keeps what it was sent."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path, behave: Callable[[Seen], bytes | None]) -> None:
        self.path = path
        self.behave = behave
        self.seen: list[Seen] = []
        super().__init__(str(path), _StandInHandler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Nobody can connect any more; what has been accepted is still answered."""
        self.path.unlink(missing_ok=True)
        self.shutdown()
        self.server_close()


@dataclass
class Seen:
    """One request as a scorer got it, and its connection."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: socket.socket = field(repr=False)


class _StandInHandler(socketserver.StreamRequestHandler):
    server: StandIn

    def handle(self) -> None:
        method, target, _ = self.rfile.readline().decode().split(" ")
        headers: dict[str, str] = {}
        while line := self.rfile.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers["content-length"]))
        seen = Seen(method, target, headers, body, self.connection)
        self.server.seen.append(seen)
        answer = self.server.behave(seen)
        if answer is not None:
            with contextlib.suppress(OSError):  # the router may have gone
                self.wfile.write(answer)


def http_answer(status: int = 200, body: bytes = b"{}", **headers: str) -> bytes:
    """An answer as a scorer sends it; headers' names with _ for -."""
    given = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    lines = [f"HTTP/1.1 {status} Word", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


class Stage(RouterProcess):
    """A router in front of stand-ins, blue and green, that answer with their name."""

    def __init__(self, folder: Path, max_body: int = MAX_BODY, auth: str = "strict") -> None:
        self.scorers = {name: StandIn(folder / f"{name}.sock", naming(name)) for name in ("blue", "green")}
        sockets = {name: scorer.path for name, scorer in self.scorers.items()}
        super().__init__(folder, sockets, max_body, auth)

    def reset(self, **more: Any) -> None:
        for name, scorer in self.scorers.items():
            scorer.behave = naming(name)
            scorer.seen.clear()
        super().reset(**more)

    answer = staticmethod(http_answer)

    def behave(self, name: str, behave: Callable[[Seen], bytes | None]) -> None:
        self.scorers[name].behave = behave

    def close(self) -> None:
        super().close()
        for scorer in self.scorers.values():
            scorer.stop()


def naming(name: str) -> Callable[[Seen], bytes]:
    """What answers with the deployment's name and the size of the body."""
    return lambda seen: http_answer(body=json.dumps({"deployment": name, "size": len(seen.body)}).encode())


@pytest.fixture(scope="module")
def shared_stage() -> Iterator[Stage]:
    # Not below pytest's own folder: paths of sockets are short.
    with tempfile.TemporaryDirectory(prefix="stage-") as folder:
        stage = Stage(Path(folder))
        yield stage
        stage.close()
        assert "Traceback" not in stage.log.read_text()


@pytest.fixture
def large_stage() -> Iterator[Stage]:
    """A router of its own that takes bodies of 64 MiB."""
    with tempfile.TemporaryDirectory(prefix="stage-") as folder:
        stage = Stage(Path(folder), max_body=64 * 1024 * 1024)
        yield stage
        stage.close()


@pytest.fixture
def loose_stage() -> Iterator[Stage]:
    """A router of its own that takes any bearer."""
    with tempfile.TemporaryDirectory(prefix="stage-") as folder:
        stage = Stage(Path(folder), auth="loose")
        yield stage
        stage.close()


@pytest.fixture
def stage(shared_stage: Stage) -> Stage:
    shared_stage.reset()
    return shared_stage


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


class ScorerDesk:
    """Configurations of scorers of scripts, below one folder, and plain calls over their sockets."""

    until = staticmethod(until)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def config(self, text: str, **more: Any) -> ScorerConfig:
        code = self._folder / "code"
        (code / "src").mkdir(parents=True, exist_ok=True)
        (code / "src" / "score.py").write_text(text)
        (self._folder / "model").mkdir(exist_ok=True)
        return ScorerConfig(
            kind="script",
            model_dir=self._folder / "model",
            code_dir=code,
            score_script="src/score.py",
            log=self._folder / "scorer.log",
            **more,
        )

    @staticmethod
    def ask(
        path: Path, body: bytes, method: str = "POST", target: str = "/score"
    ) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(30)
        connection.sock.connect(str(path))
        try:
            connection.request(method, target, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read()), dict(response.getheaders())
        finally:
            connection.close()


@pytest.fixture
def desk(tmp_path: Path) -> ScorerDesk:
    return ScorerDesk(tmp_path)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A throw-away certificate for localhost and its key."""
    return make_certificate(tmp_path)
