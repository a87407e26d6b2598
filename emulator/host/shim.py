"""Runs one attempt of one job and leaves its outcome in files: `python -I -S shim.py JOBDIR`.

The server may die and come back at any moment; this process and its job do not notice. All that anybody needs
to know about the attempt is in the job folder:

- `shim.json`: the order: argv, env (complete), cwd, stdout, attempt; if wanted grace and timeout (seconds).
- `lock`: an flock held as long as this process lives; holds its identity as JSON.
- `attempt-N.started`: made with O_EXCL before the command may run, so that no command is ever started twice.
- `exit-N.json`: renamed into place when nothing of the attempt is left alive.

SIGTERM, or the end of `timeout`, stops the attempt: SIGTERM to it, SIGKILL after `grace`.

Standard library only: it is run by path, without site-packages.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

DEFAULT_GRACE = 10.0
LOCK_PATIENCE = 3.0
EXIT_FILE_RETRIES = 120
REFUSED_LOCKED = 75
REFUSED_STARTED = 76
PR_SET_CHILD_SUBREAPER = 36
RESERVED = 8192


class Signals:
    """Turns SIGTERM and SIGCHLD into something that can be waited for with a timeout."""

    def __init__(self) -> None:
        self.stop = False
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def _on_term(self, *_: object) -> None:
        self.stop = True

    def wait(self, seconds: float | None) -> None:
        """Return at the next signal, or after `seconds`."""
        select.select([self._read], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)


def start_time(pid: int) -> str | None:
    """What tells this process from another one that gets the same pid later."""
    if sys.platform == "linux":
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                return stat.read().rpartition(b")")[2].split()[19].decode()
        except (FileNotFoundError, ProcessLookupError):
            return None
    listing = subprocess.run(
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listing.stdout.strip() or None


def boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except FileNotFoundError:
        return "unknown"


def now() -> str:
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


def unfinished(path: str) -> str:
    """Where `write_json` prepares a file."""
    return f"{path}.{os.getpid()}.tmp"


def reserve(path: str) -> None:
    """Take the space for a later `write_json` now: a command may fill the disk and must not hide its end."""
    descriptor = os.open(unfinished(path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, RESERVED)
    finally:
        os.close(descriptor)


def write_json(path: str, value: dict[str, Any]) -> None:
    """Write a file so that after a crash it is there whole or not at all."""
    temporary = unfinished(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w") as file:
        json.dump(value, file)
        file.flush()
        os.ftruncate(file.fileno(), file.tell())
        os.fsync(file.fileno())
    os.rename(temporary, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def take_lock(path: str) -> int | None:
    """The descriptor of the locked file. A reader that looks whether it is locked holds it for a moment."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)


def become_subreaper() -> None:
    """Orphans of the attempt become our children, so that none can hide from us. Linux only."""
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        print("cannot become child subreaper: orphans in other process groups may survive", file=sys.stderr)


def descendants() -> list[int]:
    """All processes below this one (empty where there is no /proc)."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if sys.platform == "linux" else []:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def die_at(order: dict[str, Any], point: str) -> None:
    """For tests: end as if killed here, when the order says so."""
    if order.get("crash_at") == point:
        os.kill(os.getpid(), signal.SIGKILL)


class Attempt:
    """The command's process, its group, and what happened to it."""

    def __init__(self, order: dict[str, Any], lock: int) -> None:
        self.order = order
        self.lock = lock
        self.pid = 0
        self.status: int | None = None
        self.group_left = True
        self._gate = self._failure = -1

    def fork(self) -> None:
        """Make the child, which waits for `release`. If we die before that, it never executes anything."""
        gate_read, self._gate = os.pipe()
        self._failure, fail_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._child(gate_read, fail_write)
        os.setpgid(self.pid, self.pid)
        os.close(gate_read)
        os.close(fail_write)

    def release(self) -> str | None:
        """Let the child execute the command. Returns why it could not, None when it runs."""
        with contextlib.suppress(BrokenPipeError):
            # It may have been killed by now; then its status tells.
            os.write(self._gate, b"!")
        os.close(self._gate)
        with open(self._failure, "rb") as failure:
            text = failure.read().decode(errors="replace")
        if text:
            os.waitpid(self.pid, 0)
        return text or None

    def abandon(self) -> None:
        """Let the waiting child end without executing anything."""
        os.close(self._gate)
        os.close(self._failure)
        os.waitpid(self.pid, 0)

    def _child(self, gate_read: int, fail_write: int) -> None:
        step = "start the command"
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            restored = {signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE}
            for number in (*restored, getattr(signal, "SIGXFSZ", signal.SIGPIPE)):
                signal.signal(number, signal.SIG_DFL)
            os.close(self.lock)
            os.close(self._gate)
            if os.read(gate_read, 1) != b"!":
                os._exit(125)
            step = f"open {self.order['stdout']!r} for the output"
            output = os.open(self.order["stdout"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            step = f"enter the working folder {self.order['cwd']!r}"
            os.chdir(self.order["cwd"])
            step = f"execute {self.order['argv'][0]!r}"
            os.execvpe(self.order["argv"][0], self.order["argv"], self.order["env"])  # noqa: S606
        except BaseException as error:  # whatever it is, the parent records it
            os.write(fail_write, f"cannot {step}: {error}".encode()[:4000])
        finally:
            os._exit(127)

    def reap(self) -> bool:
        """Collect ended children; True when none is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                return False
            if pid == self.pid:
                self.status = status
        if self.group_left and self.status is not None:
            # Without a subreaper the group may hold processes that are not our children.
            try:
                os.killpg(self.pid, 0)
            except (ProcessLookupError, PermissionError):
                self.group_left = False
        return not self.group_left

    def send(self, number: int) -> None:
        """A signal to the attempt's group and to those of its processes that left the group."""
        outside = [pid for pid in descendants() if pid != self.pid]
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
        for pid in outside:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(pid) != self.pid:
                    os.kill(pid, number)


def watch(attempt: Attempt, signals: Signals, grace: float, timeout: float | None) -> tuple[bool, bool]:
    """Wait until nothing of the attempt is left. Returns (stopped on request, timed out)."""
    deadline = None if timeout is None else time.monotonic() + timeout
    stopped = timed_out = False
    kill_at: float | None = None
    while not attempt.reap():
        current = time.monotonic()
        if attempt.status is None and not (stopped or timed_out):
            stopped = signals.stop
            timed_out = not stopped and deadline is not None and current >= deadline
        ending = stopped or timed_out or attempt.status is not None
        if ending and kill_at is None:
            attempt.send(signal.SIGTERM)
            kill_at = current + grace
        elif kill_at is not None and current >= kill_at:
            attempt.send(signal.SIGKILL)
        if kill_at is not None:
            # Members of the group that are not our children end without a signal to us, hence the short wait.
            signals.wait(0.05 if current >= kill_at or attempt.status is not None else kill_at - current)
        else:
            signals.wait(None if deadline is None else max(0.0, deadline - current))
    return stopped, timed_out


def run(folder: str, order: dict[str, Any], lock: int, signals: Signals) -> dict[str, Any]:
    """Start the command and wait for its end; the content of the exit file."""
    number = order["attempt"]
    report: dict[str, Any] = {
        "attempt": number,
        "returncode": None,
        "signal": None,
        "error": None,
        "stopped": False,
        "timed_out": False,
    }
    if signals.stop:
        return {**report, "stopped": True, "error": "stopped before the command was started"}
    attempt = Attempt(order, lock)
    attempt.fork()
    die_at(order, "shim.forked")
    identity = {
        "attempt": number,
        "pid": attempt.pid,
        "start_time": start_time(attempt.pid),
        "shim_pid": os.getpid(),
        "shim_start_time": start_time(os.getpid()),
        "boot_id": boot_id(),
        "at": now(),
    }
    try:
        write_json(os.path.join(folder, f"attempt-{number}.started"), identity)
    except OSError as error:
        attempt.abandon()
        return {**report, "error": f"cannot record the start, so the command was not started: {error}"}
    die_at(order, "shim.recorded")
    failure = attempt.release()
    die_at(order, "shim.released")
    if failure is not None:
        return {**report, "error": failure}
    stopped, timed_out = watch(
        attempt, signals, float(order.get("grace", DEFAULT_GRACE)), order.get("timeout")
    )
    die_at(order, "shim.ended")
    code = os.waitstatus_to_exitcode(attempt.status or 0)
    return {
        **report,
        "returncode": code if code >= 0 else None,
        "signal": -code if code < 0 else None,
        "stopped": stopped,
        "timed_out": timed_out,
    }


def main(folder: str) -> int:
    signals = Signals()
    folder = os.path.abspath(folder)
    lock = take_lock(os.path.join(folder, "lock"))
    if lock is None:
        print(f"another shim holds {folder}/lock", file=sys.stderr)
        return REFUSED_LOCKED
    with open(os.path.join(folder, "shim.json")) as file:
        order = json.load(file)
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"shim_pid": os.getpid(), "attempt": order["attempt"]}).encode(), 0)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(os.path.join(folder, f"attempt-{order['attempt']}.started"), flags, 0o600))
    except FileExistsError:
        print(f"attempt {order['attempt']} was started before and is never started twice", file=sys.stderr)
        return REFUSED_STARTED
    die_at(order, "shim.claimed")
    exit_file = os.path.join(folder, f"exit-{order['attempt']}.json")
    try:
        reserve(exit_file)
    except OSError as error:
        print(f"no space is left for the exit file: {error}", file=sys.stderr, flush=True)
    become_subreaper()
    report = run(folder, order, lock, signals)
    for left in reversed(range(EXIT_FILE_RETRIES)):
        try:
            write_json(exit_file, {**report, "at": now()})
            die_at(order, "shim.reported")
            return 0
        except OSError as error:
            # A full disk is the likely reason, and may pass; until then the lock says that we are here.
            print(f"cannot write the exit file ({left} tries left): {error}", file=sys.stderr, flush=True)
            time.sleep(1)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
