"""The main process of a server: it starts worker, router and MLflow, and starts them again when they die.

It imports next to nothing, so that it starts at once and has little that could fail.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amlocal.compat import cloud
from amlocal.emulator import secrets
from amlocal.emulator.cli import CommandError, instance
from amlocal.emulator.processes import clean_environment, drop_leash, kill_group, spawn_leashed
from amlocal.emulator.settings import Settings, to_json
from amlocal.emulator.store.folder import DataFolder

START_TIMEOUT = 60.0
STOP_GRACE = 20.0
_QUICK_DEATH = 5.0
_PATIENCE = 5
_TICK = 0.1


@dataclass
class _Child:
    name: str
    argv: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    not_before: float = 0.0


class Supervisor:
    """Keeps the processes of one server alive until `stop`."""

    def __init__(self, settings: Settings, folder: DataFolder) -> None:
        self.settings = settings
        self.folder = folder
        self.run_dir = make_run_dir()
        python = [sys.executable, "-u", "-m"]
        self.worker = _Child(
            "worker",
            [*python, "amlocal.emulator.worker", to_json(settings), str(self.run_dir)],
            folder.logs / "server.log",
        )
        self.router = _Child(
            "router",
            [
                *python, "amlocal.emulator.endpoints.router",
                "--routes", str(self.run_dir / "routes.json"),
                "--port", str(settings.router_port),
                "--cert", str(folder.tls / "server.pem"),
                "--key", str(folder.tls / "server.key"),
                "--public-key", str(secrets.public_key_file(folder)),
                "--auth", settings.auth,
                *(f"--audience={name}" for name in cloud.audiences(settings.base_url)),
            ],
            folder.logs / "router.log",
        )  # fmt: skip
        self.mlflow = _Child(
            "mlflow",
            [
                *python, "amlocal.emulator.history.mlflow_process",
                "--database", str(folder.mlflow / "mlflow.db"),
                "--artifacts", str(folder.blobs),
                "--socket", str(self.run_dir / "mlflow.sock"),
            ],
            folder.logs / "mlflow.log",
        )  # fmt: skip
        self._stop = threading.Event()

    def start(self) -> None:
        """Start all processes; returns when the worker answers. Raises CommandError with its log's end."""
        self._spawn(self.worker)
        self._await(self.worker, self._worker_answers)
        # Only now: the worker makes the certificate that the router needs, and MLflow's start of several
        # seconds would take its processor time.
        self._spawn(self.router)
        self._spawn(self.mlflow)

    def run(self) -> None:
        """Watch until `request_stop`."""
        children = (self.worker, self.router, self.mlflow)
        while not self._stop.wait(_TICK):
            for child in children:
                if child.process is None:
                    if time.monotonic() >= child.not_before:
                        self._spawn(child)
                elif child.process.poll() is not None:
                    self._note_death(child)

    def request_stop(self) -> None:
        self._stop.set()

    def stop(self) -> None:
        """End the processes, the worker first so that it can finish its writes."""
        for child in (self.worker, self.router, self.mlflow):
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_GRACE
        for child in (self.worker, self.router, self.mlflow):
            if child.process is None:
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, deadline - time.monotonic()))
            kill_group(child.process.pid, 0.0)
            child.process.wait()
            drop_leash(child.process)
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def _spawn(self, child: _Child) -> None:
        env = {**clean_environment(), "PYTHONUNBUFFERED": "1"}
        env.update(
            {
                key: value
                for key, value in os.environ.items()
                if key.startswith(("PIP_", "PYTHON", "COVERAGE", "AMLOCAL_CRASH_ORDER"))
            }
        )
        child.process = spawn_leashed(child.argv, env=env, log=child.log)
        child.started = time.monotonic()

    def _note_death(self, child: _Child) -> None:
        assert child.process is not None
        code = child.process.returncode
        drop_leash(child.process)
        quick = time.monotonic() - child.started < _QUICK_DEATH
        child.deaths = child.deaths + 1 if quick else 1
        if child.deaths > _PATIENCE:
            self._stop.set()
            raise CommandError(
                f"the {child.name} process ended {child.deaths} times right after its start "
                f"(exit code {code}). The end of {child.log}:\n{tail(child.log)}"
            )
        with contextlib.suppress(OSError):  # the output may be a file on a full disk
            print(
                f"amlocal: the {child.name} process ended (exit code {code}) and is started again", flush=True
            )
        child.process = None
        child.not_before = time.monotonic() + (0.0 if child.deaths == 1 else 0.5 * child.deaths)

    def _await(self, child: _Child, answers: Callable[[], bool]) -> None:
        assert child.process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while not answers():
            if child.process.poll() is not None:
                raise CommandError(
                    f"the {child.name} process could not start (exit code {child.process.returncode}). "
                    f"The end of {child.log}:\n{tail(child.log)}"
                )
            if time.monotonic() > deadline:
                raise CommandError(
                    f"the {child.name} process did not answer in {START_TIMEOUT:.0f} s: see {child.log}"
                )
            time.sleep(0.02)

    def _worker_answers(self) -> bool:
        authority = self.folder.tls / "ca.pem"
        if not (self.folder.tls / "server.pem").exists():
            return False
        answer = instance.health(self.settings.port, authority)
        assert self.worker.process is not None
        return answer is not None and answer.get("pid") == self.worker.process.pid


def make_run_dir() -> Path:
    """A short, private folder for sockets: their paths may have about 100 characters only."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    usable = base is not None and Path(base).is_dir() and os.access(base, os.W_OK) and len(base) < 60
    return Path(tempfile.mkdtemp(prefix="amlocal-", dir=base if usable else "/tmp"))  # noqa: S108 (mkdtemp is private)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no log)"


def on_signals(handler: Callable[[], None]) -> None:
    """Call `handler` on SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: handler())
