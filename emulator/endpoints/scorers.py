"""Scorer processes: started, watched, started again when they die, stopped with their work done.

Threads only; one per scorer. A scorer never outlives the server (it holds a leash).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Literal

from amlocal.emulator.processes import drop_leash, kill_group, spawn_leashed
from amlocal.emulator.store.folder import write_atomic

SCRIPT = Path(__file__).resolve().parents[1] / "host" / "scorer.py"
# sockaddr_un holds 108 bytes on Linux and 104 on macOS.
SOCKET_PATH_LIMIT = 100
DEFAULT_GRACE = 30.0
# After this many seconds of life a scorer's earlier deaths are forgotten.
FORGIVEN_AFTER = 60.0
# So many deaths in a row without ever being ready mean that it cannot load its model.
HOPELESS_AFTER = 3
PROBE_TIMEOUT = 5.0
TAIL_BYTES = 256 * 1024


class ScorerError(Exception):
    """A scorer cannot serve; the message has the reason and, where it helps, the end of its log."""


@dataclass(frozen=True)
class ScorerConfig:
    """What one scorer process serves.

    `kind` "mlflow" needs only `model_dir`; "script" also `code_dir` and `score_script` (relative to it).
    `env` is added to `base_env`, which is the process's whole environment. `max_body` is in bytes.
    `python` is the interpreter of the deployment's environment.
    """

    kind: Literal["mlflow", "script"]
    model_dir: Path
    log: Path
    code_dir: Path | None = None
    score_script: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    base_env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    max_body: int = 100 * 1024 * 1024
    max_concurrent: int = 1
    python: str = sys.executable

    def to_json(self, socket_path: Path) -> dict[str, Any]:
        """The file that `emulator/host/scorer.py` reads."""
        return {
            "socket": str(socket_path),
            "model_dir": str(self.model_dir),
            "kind": self.kind,
            "score_script": self.score_script,
            "code_dir": None if self.code_dir is None else str(self.code_dir),
            "env": dict(self.env),
            "max_body": self.max_body,
            "max_concurrent": self.max_concurrent,
        }


@dataclass(frozen=True)
class ScorerStatus:
    """`deaths` counts those in a row; `error` is the last reason, in words."""

    state: Literal["loading", "ready", "failed", "waiting", "stopped"]
    pid: int | None
    deaths: int
    error: str | None


class ScorerSupervisor:
    """All scorers of one server. Keys are the caller's; one key is one process.

    To replace a deployment without a gap: start the new one under a new key, `wait_ready`, put its socket
    into the route table, then `stop` the old key.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        backoff: Callable[[int], float] = lambda deaths: min(30.0, 0.5 * 2**deaths),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`backoff` gives the seconds to wait after so many deaths in a row."""
        self._run_dir = run_dir
        self._backoff = backoff
        self._clock = clock
        self._scorers: dict[str, _Scorer] = {}
        self._guard = threading.Lock()

    def start(self, key: str, config: ScorerConfig) -> Path:
        """Start a scorer and return its socket's path at once (see `wait_ready`).

        Raises ValueError if the key is in use or the path of the run folder is too long for a socket.
        """
        name = hashlib.sha256(key.encode()).hexdigest()[:12]
        path = self._run_dir / f"{name}.sock"
        if len(os.fsencode(path)) >= SOCKET_PATH_LIMIT:
            raise ValueError(f"{self._run_dir} is too long a path for unix sockets; use a shorter run folder")
        self._run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._guard:
            if key in self._scorers:
                raise ValueError(f"scorer {key!r} is running already")
            scorer = _Scorer(key, config, path, self._backoff, self._clock)
            self._scorers[key] = scorer
        scorer.thread.start()
        return path

    def wait_ready(self, key: str, timeout: float) -> None:
        """Return when the scorer answers requests.

        Raises ScorerError with the reason and the end of its log if it cannot load or `timeout` seconds pass.
        """
        scorer = self._get(key)
        deadline = time.monotonic() + timeout
        while (status := scorer.probe()).state != "ready":
            if status.state in ("failed", "stopped"):
                raise ScorerError(f"{status.error or 'the scorer was stopped'}\n{self.tail(key, 30)}".strip())
            if time.monotonic() > deadline:
                raise ScorerError(f"not ready after {timeout:.0f} s\n{self.tail(key, 30)}".strip())
            time.sleep(0.05)

    def status(self, key: str) -> ScorerStatus:
        """How the scorer is now (asks it)."""
        return self._get(key).probe()

    def keys(self) -> list[str]:
        with self._guard:
            return sorted(self._scorers)

    def tail(self, key: str, lines: int = 50) -> str:
        """The last lines of its log."""
        return tail_file(self._get(key).config.log, lines)

    def stop(self, key: str, grace: float = DEFAULT_GRACE) -> None:
        """Let it finish what it has accepted, for at most `grace` seconds; unknown keys are ignored."""
        with self._guard:
            scorer = self._scorers.pop(key, None)
        if scorer is not None:
            scorer.ask_to_stop()
            scorer.finish(grace)

    def stop_all(self, grace: float = DEFAULT_GRACE) -> None:
        """Stop all of them at the same time."""
        with self._guard:
            scorers = list(self._scorers.values())
            self._scorers.clear()
        for scorer in scorers:
            scorer.ask_to_stop()
        deadline = time.monotonic() + grace
        for scorer in scorers:
            scorer.finish(max(0.0, deadline - time.monotonic()))

    def _get(self, key: str) -> _Scorer:
        with self._guard:
            if key not in self._scorers:
                raise KeyError(f"no scorer {key!r}")
            return self._scorers[key]


class _Scorer:
    """One key: its present process and the thread that starts the next one when that dies."""

    def __init__(
        self,
        key: str,
        config: ScorerConfig,
        path: Path,
        backoff: Callable[[int], float],
        clock: Callable[[], float],
    ) -> None:
        self.config = config
        self.path = path
        self.thread = threading.Thread(target=self._run, name=f"scorer-{key}", daemon=True)
        self._backoff = backoff
        self._clock = clock
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        self._was_ready = False
        self._error: str | None = None

    def probe(self) -> ScorerStatus:
        with self._guard:
            process, deaths, error = self._process, self._deaths, self._error
            hopeless = deaths >= HOPELESS_AFTER and not self._was_ready
        if self._stopping.is_set():
            return ScorerStatus("stopped", None, deaths, error)
        if hopeless:
            return ScorerStatus("failed", None, deaths, error)
        if process is None or process.poll() is not None:
            return ScorerStatus("waiting", None, deaths, error)
        answer = ask_ready(self.path)
        if answer is None or answer[0] == 503:
            return ScorerStatus("loading", process.pid, deaths, error)
        if answer[0] == 200:
            with self._guard:
                self._was_ready = True
            return ScorerStatus("ready", process.pid, deaths, None)
        return ScorerStatus("failed", process.pid, deaths, answer[1])

    def ask_to_stop(self) -> None:
        with self._guard:
            self._stopping.set()
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)

    def finish(self, grace: float) -> None:
        self.thread.join(grace)
        process = self._process
        if self.thread.is_alive() and process is not None:
            kill_group(process.pid, 0)
        self.thread.join()
        for path in (self.path, self._config_path):
            path.unlink(missing_ok=True)

    @property
    def _config_path(self) -> Path:
        return self.path.with_suffix(".json")

    def _run(self) -> None:
        try:
            write_atomic(self._config_path, json.dumps(self.config.to_json(self.path)).encode())
        except OSError as error:
            with self._guard:
                self._deaths, self._error = HOPELESS_AFTER, f"the scorer cannot be started: {error}"
            return
        while not self._stopping.is_set():
            begin = self._clock()
            self._error = self._live() or self._error
            if self._stopping.is_set():
                return
            with self._guard:
                self._process = None
                self._deaths = 1 if self._clock() - begin > FORGIVEN_AFTER else self._deaths + 1
                deaths = self._deaths
            if deaths >= HOPELESS_AFTER and not self._was_ready:
                return
            self._stopping.wait(self._backoff(deaths))

    def _live(self) -> str | None:
        """One process from start to end; what to tell about the end."""
        try:
            with self._guard:
                if self._stopping.is_set():
                    return None
                process = self._process = spawn_leashed(
                    [self.config.python, "-u", str(SCRIPT), str(self._config_path)],
                    env={**self.config.base_env, **self.config.env},
                    log=self.config.log,
                )
        except OSError as error:
            return f"the scorer cannot be started: {error}"
        code = process.wait()
        # Whatever the model's code has started goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        drop_leash(process)
        return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def ask_ready(path: Path) -> tuple[int, str] | None:
    """Status and error text of a scorer's GET /ready; None when nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PROBE_TIMEOUT)
        try:
            connection.connect(str(path))
            connection.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            response = HTTPResponse(connection)
            response.begin()
            body = json.loads(response.read())
        except (OSError, HTTPException, ValueError):
            return None
    return response.status, str(body.get("error", {}).get("message", ""))


def tail_file(path: Path, lines: int) -> str:
    """The last lines of a text file; empty when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:] if lines > 0 else [])
