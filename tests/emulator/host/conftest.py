"""Scorers of the tests: real processes, as a deployment starts them, asked over their unix sockets."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HOST = Path(__file__).resolve().parents[3] / "emulator" / "host"

# A stand-in for the engine: what the scorer needs of it. It answers with the length of each cell.
ENGINE = {
    "__init__.py": "",
    "trainers/__init__.py": "",
    "trainers/scoring.py": "",
    "trainers/serving/__init__.py": """
import threading, time
together = threading.Barrier(2)

class Served:
    columns = ("image",)
    def score(self, cells):
        if cells == ["both"]:
            together.wait(10)
        for number, cell in enumerate(cells):
            if cell == "bad":
                raise ValueError(f"row {number}: not an image")
            if cell == "crash":
                raise RuntimeError("out of memory")
        return [{"probs": [len(cell), float("nan")], "labels": ["a", "b"]} for cell in cells]
    def close(self):
        print("engine closed", flush=True)

def load(folder, *, most, log):
    assert (folder / "model.json").is_file()
    log(f"engine with room for {most}")
    return Served()
""",
}
MLMODEL = """
flavors:
  python_function:
    data: artifacts
    loader_module: amlocal.trainers.scoring
signature:
  inputs: '[{"type": "binary", "name": "image", "required": true}]'
  outputs: '[{"type": "string", "name": "probs"}, {"type": "string", "name": "labels"}]'
"""


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


class Reply:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])


class RunningScorer:
    """One scorer process."""

    def __init__(self, folder: Path, config: Mapping[str, Any], flags: Sequence[str], env: Any) -> None:
        self.socket = folder / "s"
        self.log_file = folder / "scorer.log"
        full = {"socket": str(self.socket), "model_dir": str(folder), "max_body": 1_000_000, **config}
        (folder / "config.json").write_text(json.dumps(full))
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *flags, "-u", str(HOST / "scorer.py"), str(folder / "config.json")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(30)
        connection.connect(str(self.socket))
        return connection

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Reply:
        client = http.client.HTTPConnection("localhost")
        client.sock = self.connect()
        try:
            client.request(method, target, body, {k.replace("_", "-"): v for k, v in headers.items()})
            return Reply(client.getresponse())
        finally:
            client.close()

    def score(self, value: Any) -> Reply:
        return self.ask("POST", "/score", value if isinstance(value, bytes) else json.dumps(value).encode())

    def ready(self) -> RunningScorer:
        def there() -> bool:
            assert self.process.poll() is None, self.log
            try:
                reply = self.ask("GET", "/ready")
            except OSError:
                return False
            assert reply.status in (200, 503), reply.body
            return reply.status == 200

        until(there, 60)
        return self

    def failure(self) -> str:
        """Why it could not load its model."""

        def reason() -> str:
            try:
                reply = self.ask("GET", "/ready")
            except OSError:
                return ""
            return reply.message if reply.status == 500 else ""

        return str(until(reason, 60))

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(10)


class Scorers:
    """Starts scorers in folders of their own and stops them."""

    until = staticmethod(until)

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self.running: list[RunningScorer] = []

    def start(self, *, flags: Sequence[str] = (), env: Any = None, **config: Any) -> RunningScorer:
        scorer = RunningScorer(self._factory.mktemp("s"), config, flags, env)
        self.running.append(scorer)
        return scorer

    def script(self, text: str, *, files: Mapping[str, str] | None = None, **more: Any) -> RunningScorer:
        folder = self._factory.mktemp("code")
        for name, content in {"score.py": text, **(files or {})}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        more.setdefault("score_script", "score.py")
        return self.start(kind="script", code_dir=str(folder), **more)

    def image_model(self, **more: Any) -> RunningScorer:
        folder = self._factory.mktemp("model")
        for name, content in ENGINE.items():
            path = folder / "python" / "amlocal" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (folder / "m" / "artifacts").mkdir(parents=True)
        (folder / "m" / "artifacts" / "model.json").write_text("{}")
        (folder / "m" / "MLmodel").write_text(MLMODEL)
        env = {"PYTHONPATH": str(folder / "python")}
        return self.start(kind="mlflow", model_dir=str(folder / "m"), env=env, **more)

    def close(self) -> None:
        for scorer in self.running:
            # What a script has started goes with it, as the supervisor has it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(scorer.process.pid, signal.SIGKILL)
            scorer.process.wait()


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorers]:
    found = Scorers(tmp_path_factory)
    yield found
    found.close()


@pytest.fixture
def host_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A file of the scorer as a module, imported as the scorer does: by name, from its folder."""
    monkeypatch.syspath_prepend(str(HOST))
    return importlib.import_module
