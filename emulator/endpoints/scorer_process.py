"""One scorer: its present process, the probes that watch it, and the thread that starts the next one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from amlocal.emulator.endpoints import container_logs
from amlocal.emulator.endpoints.probes import Answer, Watch
from amlocal.emulator.processes import drop_leash, kill_group, spawn_leashed
from amlocal.emulator.store.folder import write_atomic

if TYPE_CHECKING:
    from amlocal.emulator.endpoints.scorers import ScorerConfig

SCRIPT = Path(__file__).resolve().parents[1] / "host" / "scorer.py"
# After this many seconds of life a scorer's earlier deaths are forgotten.
FORGIVEN_AFTER = 60.0
# So many deaths in a row without ever being ready mean that it cannot load its model.
HOPELESS_AFTER = 3
PROBE_TIMEOUT = 5.0
# The most seconds between two looks at the size of a log: probes may be days apart.
LOG_LOOK = 1.0
_MOST_ANSWER = 64 * 1024


@dataclass(frozen=True)
class ScorerStatus:
    """`deaths` counts those in a row; `error` is the last reason, in words."""

    state: Literal["loading", "ready", "failed", "waiting", "stopped"]
    pid: int | None
    deaths: int
    error: str | None


class ScorerProcess:
    """One key. `changed` is called, from any thread, whenever `taking` may have changed."""

    def __init__(
        self,
        key: str,
        config: ScorerConfig,
        path: Path,
        *,
        backoff: Callable[[int], float],
        clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self.config = config
        self.path = path
        self.thread = threading.Thread(target=self._run, name=f"scorer-{key}", daemon=True)
        self._backoff = backoff
        self._clock = clock
        self._changed = changed
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: Watch | None = None
        self._deaths = 0
        self._was_ready = False
        self._error: str | None = None

    @property
    def taking(self) -> bool:
        """Whether requests may go to it: its process lives, has loaded, and its readiness probe succeeds."""
        with self._guard:
            alive = self._process is not None and self._process.poll() is None
            return alive and self._watch is not None and self._watch.ready and not self._stopping.is_set()

    def status(self) -> ScorerStatus:
        """How it is now (asks it)."""
        with self._guard:
            process, deaths, error = self._process, self._deaths, self._error
            hopeless = deaths >= HOPELESS_AFTER and not self._was_ready
        if self._stopping.is_set():
            return ScorerStatus("stopped", None, deaths, error)
        if hopeless:
            return ScorerStatus("failed", None, deaths, error)
        if process is None or process.poll() is not None:
            return ScorerStatus("waiting", None, deaths, error)
        answer = ask(self.path, "/ready", PROBE_TIMEOUT)
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
            end = self._live()
            if self._stopping.is_set():
                return
            with self._guard:
                self._error = end or self._error
                self._process = None
                self._deaths = 1 if self._clock() - begin > FORGIVEN_AFTER else self._deaths + 1
                deaths = self._deaths
                hopeless = deaths >= HOPELESS_AFTER and not self._was_ready
            wait = self._backoff(deaths)
            then = "it is given up" if hopeless else f"it is started again in {wait:g} s"
            self._log(f"the scorer {end}; {then}")
            if hopeless:
                return
            self._stopping.wait(wait)

    def _live(self) -> str | None:
        """One process from start to end; what to tell about the end."""
        config = self.config
        ended = threading.Event()
        try:
            self._bound_log()
            with self._guard:
                if self._stopping.is_set():
                    return None
                process = self._process = spawn_leashed(
                    [config.python, "-u", str(SCRIPT), str(self._config_path)],
                    env={**config.base_env, **config.env},
                    log=config.log,
                )
                watch = self._watch = Watch(
                    config.liveness, config.readiness, self._clock(), alive=self._alive, ready=self._ready
                )
        except OSError as error:
            return f"the scorer cannot be started: {error}"
        threading.Thread(
            target=self._observe, args=(process, watch, ended), name=f"{self.thread.name}-probes", daemon=True
        ).start()
        code = process.wait()
        ended.set()
        with self._guard:
            self._watch = None
        if not self._stopping.is_set():
            self._changed()
        # Whatever the model's code has started goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        drop_leash(process)
        return f"(process {process.pid}) {_ended(code)}"

    def _observe(self, process: subprocess.Popen[bytes], watch: Watch, ended: threading.Event) -> None:
        """Probe one process until its end."""
        while not ended.wait(min(LOG_LOOK, max(0.0, watch.due - self._clock()))):
            self._bound_log()
            told = watch.tick(self._clock())
            if ended.is_set() or self._stopping.is_set():
                return
            if told:
                self._log(f"process {process.pid}: {told}")
                self._changed()
            if watch.ready:
                with self._guard:
                    self._was_ready = True
            # One that has never been ready is told about by `status`, with the reason.
            failed_again = watch.broken and self._was_ready
            if watch.dead or failed_again:
                why = "it could not load its model again" if failed_again else "its liveness probe failed"
                self._log(f"process {process.pid} is ended: {why}")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                return

    def _alive(self, timeout: float) -> Answer:
        answer = ask(self.path, "/", timeout)
        return "ok" if answer is not None and answer[0] < 500 else "failing"

    def _ready(self, timeout: float) -> Answer:
        answer = ask(self.path, "/ready", timeout)
        if answer is not None and answer[0] == 500:
            return "broken"
        return "ok" if answer is not None and answer[0] == 200 else "failing"

    def _bound_log(self) -> None:
        # As with `_log`; the file is emptied all the same.
        with contextlib.suppress(OSError):
            container_logs.bound(self.config.log, self.config.log_bound)

    def _log(self, line: str) -> None:
        # The log is for the user; a full disk must not end the thread that keeps the scorer alive.
        with contextlib.suppress(OSError):
            container_logs.write(self.config.log, line)


def ask(path: Path, target: str, timeout: float) -> tuple[int, str] | None:
    """Status and error text of a GET; None when nobody answers within about `timeout` seconds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            response = HTTPResponse(connection)
            response.begin()
            body = response.read(_MOST_ANSWER)
        except (OSError, HTTPException, ValueError):
            return None
    return response.status, _message(body)


def _message(body: bytes) -> str:
    """The text of an error envelope; "" for other bodies."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    return f"was killed by signal {-code} ({name})"
