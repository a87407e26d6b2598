"""The server's side of the warm parent: one process per server that has imported PyTorch once, and forks a
process for each trial.

It is started with the first trial that can use it, of a job that may have several. The socket is
opened here, so that a trial that comes while the imports run waits for them in its own process; neither a
request nor the scheduler waits for anything. What the parent refuses, or cannot do because it has ended,
`trainers/warm_client.py` starts plainly.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from amlocal.emulator.processes import drop_leash, spawn_leashed

_LOG = logging.getLogger(__name__)
CLIENT = Path(__file__).resolve().parents[2] / "trainers" / "warm_client.py"
_BACKLOG = 64
_IDLE_SECONDS = 300
"""How long a parent without a trial keeps its memory (about 550 MB)."""
# What is of one trial only; above all its token, which no other trial may see.
_OF_A_TRIAL = ("AZUREML_", "MLFLOW_")
_LONGEST_PATH = 107
"""Bytes of the name of a socket (Linux)."""


class WarmParent:
    """`folder` is the server's own, where the socket lies; the parent's output goes to `log`.

    `trainers` is the command line of the trainers without a subcommand. With `enabled` False, and on systems
    other than Linux, every trial is started plainly.
    """

    def __init__(
        self,
        folder: Path,
        log: Path,
        *,
        trainers: Sequence[str] = (sys.executable, "-m", "amlocal.trainers"),
        enabled: bool = True,
    ) -> None:
        self._folder = folder
        self._log = log
        self._trainers = tuple(trainers)
        self._enabled = enabled and sys.platform == "linux"
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = Path()
        self.started = 0
        """How often a parent was started."""

    def argv(
        self,
        plain: Sequence[str],
        spec: Path,
        env: Mapping[str, str],
        *,
        attempt: int = 1,
        processes: int = 1,
        trials: int = 2,
    ) -> list[str]:
        """The command of one trial; `plain` runs it by itself, with `spec` as its last argument.

        `trials` is how many its job may have: for one trial no parent is started, which imports more than
        any one trial needs, but one that runs is used.
        A trial over several processes starts plainly, and so does every attempt after the first: whatever
        ended the one before it may have been the parent's end.
        """
        command = [*plain, str(spec)]
        if not self._enabled or attempt > 1 or processes > 1:
            return command
        if trials < 2 and self.pid is None:
            return command
        try:
            path = self._ready(env)
        except OSError as error:
            _LOG.warning("no warm start of trials: %s", error)
            return command
        return [sys.executable, "-I", "-S", str(CLIENT), str(path), str(spec), *command]

    def stop(self) -> None:
        """Let the parent see the last of its trials to their end; new ones are started plainly."""
        with self._guard:
            self._enabled = False
            self._drop()

    @property
    def pid(self) -> int | None:
        """Of the parent that runs; None when there is none."""
        with self._guard:
            running = self._process is not None and self._process.poll() is None
            return self._process.pid if running and self._process is not None else None

    def _ready(self, env: Mapping[str, str]) -> Path:
        """The socket of a parent that runs, which is started when there is none."""
        with self._guard:
            if self._process is None or self._process.poll() is not None:
                self._drop()
                self._start(env)
            return self._socket

    def _start(self, env: Mapping[str, str]) -> None:
        # A folder of its own for every parent: the one before may still be clearing up.
        folder = Path(tempfile.mkdtemp(prefix="warm-", dir=self._folder))
        path = folder / "socket"
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise OSError(f"the path {path} is too long for a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(_BACKLOG)
            self._process = spawn_leashed(
                [
                    *(*self._trainers, "warm", str(path)),
                    *("--listener", str(listener.fileno())),
                    *("--idle", str(_IDLE_SECONDS)),
                ],
                env={key: value for key, value in env.items() if not key.startswith(_OF_A_TRIAL)},
                log=self._log,
                cwd=folder,
                descriptors=(listener.fileno(),),
            )
        self._socket = path
        self.started += 1

    def _drop(self) -> None:
        if self._process is not None:
            drop_leash(self._process)
            self._process = None


def argv(
    parent: WarmParent | None,
    plain: Sequence[str],
    spec: Path,
    env: Mapping[str, str],
    *,
    attempt: int,
    processes: int,
    trials: int,
) -> list[str]:
    """`WarmParent.argv`; without a parent the plain command."""
    if parent is None:
        return [*plain, str(spec)]
    return parent.argv(plain, spec, env, attempt=attempt, processes=processes, trials=trials)


def processes(nodes: int, env: Mapping[str, str], *, distributed: bool) -> int:
    """How many processes a trial may have: one for each GPU that it holds, or for each of its nodes."""
    devices = [one for one in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    return max(nodes, len(devices)) if distributed else 1
