"""Scorer processes: started, watched, started again when they die, stopped with their work done.

Threads only; one per scorer. A scorer never outlives the server (it holds a leash).
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from amlocal.emulator.endpoints import container_logs
from amlocal.emulator.endpoints.probes import ProbeSettings
from amlocal.emulator.endpoints.scorer_process import ScorerProcess, ScorerStatus
from amlocal.emulator.jobs.runners.base import Abandoned

# sockaddr_un holds 108 bytes on Linux and 104 on macOS.
SOCKET_PATH_LIMIT = 100
DEFAULT_GRACE = 30.0
_LOOK = 0.05


class ScorerError(Exception):
    """A scorer cannot serve; the message has the reason and, where it helps, the end of its log."""


@dataclass(frozen=True)
class ScorerConfig:
    """What one scorer process serves.

    `kind` "mlflow" needs only `model_dir`; "script" also `code_dir` and `score_script` (relative to it).
    `env` is added to `base_env`, which is the process's whole environment. `max_body` is in bytes.
    `python` is the interpreter of the deployment's environment. `azureml_model_dir` is what AZUREML_MODEL_DIR
    names, by default `model_dir`; `endpoint` and `deployment` are names. With `trust_pickle` "never" the
    scorer loads no model that is pickled. Of the log the last `log_bound` to twice as many bytes are kept.
    """

    kind: Literal["mlflow", "script"]
    model_dir: Path
    log: Path
    azureml_model_dir: Path | None = None
    endpoint: str = ""
    deployment: str = ""
    trust_pickle: Literal["always", "never"] = "always"
    code_dir: Path | None = None
    score_script: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    base_env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    max_body: int = 100 * 1024 * 1024
    max_concurrent: int = 1
    python: str = sys.executable
    liveness: ProbeSettings = field(default_factory=ProbeSettings)
    readiness: ProbeSettings = field(default_factory=ProbeSettings)
    log_bound: int = container_logs.BOUND

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
            "azureml_model_dir": str(self.azureml_model_dir or self.model_dir),
            "deployment": {"endpoint": self.endpoint, "name": self.deployment},
            "trust_pickle": self.trust_pickle,
        }


class ScorerSupervisor:
    """All scorers of one server. Keys are the caller's; one key is one process.

    To replace a deployment without a gap: start the new one under a new key, `wait_ready`, put its socket
    into the route table, then `stop` the old key. `on_change` is called, from any thread, whenever the
    answer of `taking` may have changed.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        backoff: Callable[[int], float] = lambda deaths: min(30.0, 0.25 * 2**deaths),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`backoff` gives the seconds to wait after so many deaths in a row."""
        self.on_change: Callable[[], None] = lambda: None
        self._run_dir = run_dir
        self._backoff = backoff
        self._clock = clock
        self._scorers: dict[str, ScorerProcess] = {}
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
            scorer = self._scorers[key] = ScorerProcess(
                key,
                config,
                path,
                backoff=self._backoff,
                clock=self._clock,
                changed=lambda: self.on_change(),
            )
        scorer.thread.start()
        return path

    def wait_ready(self, key: str, timeout: float, given_up: Callable[[], bool] = lambda: False) -> None:
        """Return when the scorer answers requests.

        Raises ScorerError with the reason and the end of its log if it cannot load or `timeout` seconds pass,
        and Abandoned soon after `given_up()` becomes true.
        """
        if given_up():
            raise Abandoned
        scorer = self._get(key)
        deadline = time.monotonic() + timeout
        while (status := scorer.status()).state != "ready" or not scorer.taking:
            if given_up():
                raise Abandoned
            if status.state in ("failed", "stopped"):
                raise ScorerError(f"{status.error or 'the scorer was stopped'}\n{self.tail(key, 30)}".strip())
            if time.monotonic() > deadline:
                raise ScorerError(f"not ready after {timeout:.0f} s\n{self.tail(key, 30)}".strip())
            time.sleep(_LOOK)

    def status(self, key: str) -> ScorerStatus:
        """How the scorer is now (asks it)."""
        return self._get(key).status()

    def taking(self, key: str) -> bool:
        """Whether requests may go to the scorer now, as far as its probes know; False for unknown keys."""
        with self._guard:
            scorer = self._scorers.get(key)
        return scorer is not None and scorer.taking

    def keys(self) -> list[str]:
        with self._guard:
            return sorted(self._scorers)

    def tail(self, key: str, lines: int = 50) -> str:
        """The last lines of its log."""
        return container_logs.tail(self._get(key).config.log, lines)

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

    def _get(self, key: str) -> ScorerProcess:
        with self._guard:
            if key not in self._scorers:
                raise KeyError(f"no scorer {key!r}")
            return self._scorers[key]
