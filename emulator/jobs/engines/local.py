"""Runs attempts as processes of this host, each under a shim that outlives the server.

All answers come from the files and the lock that `emulator/host/shim.py` keeps in the job folder, so an
engine made after a restart of the server knows as much as the one before it.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from amlocal.emulator import crash_points
from amlocal.emulator.jobs.engines.base import (
    Capacity,
    EngineError,
    EngineEvent,
    EngineJob,
    EngineState,
    ExitReport,
    LogChunk,
)
from amlocal.emulator.jobs.engines.capacity import host_capacity
from amlocal.emulator.jobs.engines.survivors import MARK, end_survivors, mark
from amlocal.emulator.store.folder import write_atomic

SHIM = Path(__file__).resolve().parents[2] / "host" / "shim.py"
START_PATIENCE = 15.0
CANCEL_PATIENCE = 5.0
LOST = EngineState("lost")


class LocalEngine:
    """The engine of this host (see `base.Engine` for the contract of the six calls)."""

    def __init__(self, *, python: str = sys.executable) -> None:
        self._python = python
        self._events: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        self._watched: set[tuple[Path, int]] = set()
        self._guard = threading.Lock()

    def submit(self, job: EngineJob) -> None:
        """Start an attempt. Raises EngineError if an attempt of the job runs, or this one was started before.

        Before attempt N+1, whatever is left of attempts up to N is ended (blocks up to their grace).
        """
        folder = job.job_dir
        if job.attempt < 1 or not job.argv:
            raise EngineError(f"{folder.name}: an attempt needs a number from 1 and a command")
        if not _free(folder):
            raise EngineError(f"{folder.name}: an attempt of this job is running")
        if _started(folder, job.attempt):
            raise EngineError(f"{folder.name}: attempt {job.attempt} was started before")
        for earlier in range(1, job.attempt):
            if not end_survivors(folder, earlier, _identity(folder, earlier), job.grace):
                raise EngineError(f"{folder.name}: processes of attempt {earlier} cannot be ended")
        order = {**_order(job), "crash_at": crash_points.order_for_shim()}
        write_atomic(folder / "shim.json", json.dumps(order).encode(), mode=0o600)
        crash_points.reach("spawn.ordered")
        with (folder / "shim.log").open("ab") as log:
            shim = subprocess.Popen(
                [self._python, "-I", "-S", str(SHIM), str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": os.defpath},
                start_new_session=True,
            )
        crash_points.reach("spawn.forked")
        try:
            self._await_start(job, shim)
        finally:
            self._watch(folder, job.attempt, shim)

    def state(self, job_dir: Path, attempt: int) -> EngineState:
        """Where the attempt stands, by its files and lock alone."""
        found = read_state(job_dir, attempt)
        if found.name == "running":
            self._watch(job_dir, attempt, None)
        return found

    def logs(self, job_dir: Path, offset: int = 0, limit: int = 1 << 20) -> LogChunk:
        """Bytes of the output file, which all attempts of a job share."""
        order = _read(job_dir / "shim.json")
        try:
            with Path(str(order.get("stdout", ""))).open("rb") as file:
                file.seek(offset)
                data = file.read(limit)
        except (FileNotFoundError, IsADirectoryError):
            data = b""
        return LogChunk(data, offset + len(data))

    def cancel(self, job_dir: Path, attempt: int) -> None:
        """Returns at once while the shim lives; without it, ends what is left (blocks up to the grace)."""
        deadline = time.monotonic() + CANCEL_PATIENCE
        while _locked(job_dir):
            holder = _read(job_dir / "lock")
            if holder.get("attempt") == attempt:
                # The lock is held, so this pid is the shim's and nobody else's.
                try:
                    os.kill(int(holder["shim_pid"]), signal.SIGTERM)
                except ProcessLookupError:
                    continue
                return
            if holder and _read(job_dir / "shim.json").get("attempt") != attempt:
                return
            if time.monotonic() > deadline:
                raise EngineError(f"{job_dir.name}: the process that runs attempt {attempt} cannot be found")
            time.sleep(0.02)
        if read_state(job_dir, attempt).name == "lost":
            grace = float(_read(job_dir / "shim.json").get("grace", 10.0))
            if not end_survivors(job_dir, attempt, _identity(job_dir, attempt), grace):
                raise EngineError(f"{job_dir.name}: processes of attempt {attempt} cannot be ended")

    def events(self, timeout: float | None = None) -> EngineEvent | None:
        """The next attempt, of those submitted here or seen running by `state`, that ended."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def capacity(self) -> Capacity:
        return host_capacity()

    def _await_start(self, job: EngineJob, shim: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_PATIENCE
        while not _identity(job.job_dir, job.attempt) and not _exit_file(job.job_dir, job.attempt).exists():
            ended = shim.poll()
            if ended is not None and read_state(job.job_dir, job.attempt).name != "exited":
                tail = (job.job_dir / "shim.log").read_text(errors="replace")[-2000:].strip()
                raise EngineError(f"{job.job_dir.name}: the job could not be started: {tail}")
            if time.monotonic() > deadline:
                shim.terminate()
                raise EngineError(f"{job.job_dir.name}: not started within {START_PATIENCE:.0f} s")
            time.sleep(0.005)

    def _watch(self, folder: Path, attempt: int, shim: subprocess.Popen[bytes] | None) -> None:
        """One thread per running attempt waits for its shim's end; for our own shims that also reaps them."""
        with self._guard:
            if shim is None and (folder, attempt) in self._watched:
                return
            self._watched.add((folder, attempt))

        def wait() -> None:
            if shim is not None:
                shim.wait()
            else:
                _wait_for_lock(folder)
            found = read_state(folder, attempt)
            with self._guard:
                self._watched.discard((folder, attempt))
            if found.name in ("exited", "lost"):
                self._events.put(EngineEvent(folder, attempt, found))

        threading.Thread(target=wait, name=f"watch-{folder.name}-{attempt}", daemon=True).start()


def read_state(job_dir: Path, attempt: int) -> EngineState:
    """The state of an attempt. The order of the looks matters.

    The shim locks, then makes the started file, then the exit file, then unlocks (by ending). So who sees the
    started file, then no lock, then no exit file, knows that nobody will ever write one.
    """
    started = _started(job_dir, attempt)
    held = _locked(job_dir) and _read(job_dir / "shim.json").get("attempt") == attempt
    report = _read(_exit_file(job_dir, attempt))
    if report:
        return EngineState("exited", ExitReport(**{**report, "attempt": attempt}))
    if held:
        return EngineState("running")
    return LOST if started else EngineState("not_started")


def _order(job: EngineJob) -> dict[str, Any]:
    return {
        "argv": list(job.argv),
        "env": {**job.env, MARK: mark(job.job_dir, job.attempt)},
        "cwd": str(job.cwd),
        "stdout": str(job.stdout),
        "attempt": job.attempt,
        "grace": job.grace,
        "timeout": job.timeout,
    }


def _exit_file(job_dir: Path, attempt: int) -> Path:
    return job_dir / f"exit-{attempt}.json"


def _started(job_dir: Path, attempt: int) -> bool:
    return (job_dir / f"attempt-{attempt}.started").exists()


def _identity(job_dir: Path, attempt: int) -> dict[str, Any]:
    return _read(job_dir / f"attempt-{attempt}.started")


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty when the file is absent or (made, but not yet filled) empty."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    try:
        value = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise EngineError(f"{path} is damaged: {error}") from error
    return value if isinstance(value, dict) else {}


def _locked(job_dir: Path) -> bool:
    """Whether a shim lives. A shared lock, so that looks do not disturb each other; a shim waits for it."""
    try:
        descriptor = os.open(job_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _free(job_dir: Path) -> bool:
    """Whether no shim lives; one that has written its exit file is waited for, as it is about to exit."""
    deadline = time.monotonic() + CANCEL_PATIENCE
    while _locked(job_dir):
        attempt = _read(job_dir / "lock").get("attempt")
        if not attempt or not _exit_file(job_dir, attempt).exists() or time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _wait_for_lock(job_dir: Path) -> None:
    try:
        descriptor = os.open(job_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)
