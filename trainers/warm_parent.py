"""The loop of the warm parent: accepts callers, forks, forwards signals, reaps. One thread."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amlocal.trainers import warm_child, warm_client
from amlocal.trainers.warm import Run

_REQUEST_SECONDS = 10.0
_LARGEST_REQUEST = 16 * 2**20
_PR_SET_CHILD_SUBREAPER = 36
_ORPHAN_ROUNDS = 500
"""Of 10 ms; they end with the last orphan. A killed process needs a processor once more to end."""
_MOST_CALLERS = 128
"""Each takes up to five descriptors, of which a process usually has 1,024."""
_READ_AT_IMPORT = ("GOMP_SPINCOUNT", "HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "PYTHONHASHSEED")
_PREFIXES = ("HF_", "HUGGINGFACE_", "KMP_", "MPL", "OMP_", "PYTORCH_", "TIMM_", "TORCH", "TRANSFORMERS_")
_READ_LATER = frozenset({"OMP_NUM_THREADS", "HF_TOKEN"})


def difference(imported_with: Mapping[str, str], wanted: Mapping[str, str]) -> str | None:
    """Why a trial with the environment `wanted` cannot be a child of a process with `imported_with`, or None.

    Libraries read some variables at their import; in a child they cannot be changed any more.
    """
    for name in sorted({*imported_with, *wanted} - _READ_LATER):
        relevant = name in _READ_AT_IMPORT or name.startswith(_PREFIXES)
        if relevant and imported_with.get(name) != wanted.get(name):
            return f"{name} differs from what it was when the warm parent read it"
    return None


@dataclass(eq=False)
class _Caller:
    """A client, from its connection to the end of its trial."""

    connection: socket.socket
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    descriptors: list[int] = field(default_factory=list)
    request: dict[str, Any] | None = None
    pid: int = 0
    pid_descriptor: int = -1
    gone: bool = False

    def tell(self, answer: Mapping[str, Any]) -> None:
        """A line to the client, if it is still there."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(answer).encode() + b"\n")

    def drop_descriptors(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()


class Parent:
    """The loop that accepts, forks, forwards and reaps; one thread."""

    def __init__(
        self,
        path: Path,
        run: Run,
        imported_with: Mapping[str, str],
        idle: float,
        lifeline: int | None,
        lock: int,
        listener: int | None = None,
    ) -> None:
        self._path = path
        self._lock = lock
        self._run = run
        self._imported_with = imported_with
        self._idle = idle
        self._stop = False
        self._callers: list[_Caller] = []
        # Children see the end of this pipe when this process ends, however it ends.
        self._held_read, self._held_write = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._waker, wake = socket.socketpair()
        self._wake = wake
        for end in (self._waker, wake):
            end.setblocking(False)
        self._selector.register(self._waker, selectors.EVENT_READ, self._woken)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._lifeline = lifeline
        if lifeline is not None:
            self._selector.register(lifeline, selectors.EVENT_READ, self._lifeline_read)
        self._listener: socket.socket | None = (
            _bound(path) if listener is None else socket.socket(fileno=listener)
        )
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._quiet_since = time.monotonic()

    def loop(self) -> None:
        """Serve until there is a reason to stop."""
        while not self._stop and (self._listener is not None or self._callers):
            for selected, _ in self._selector.select(self._patience()):
                selected.data()
            now = time.monotonic()
            for caller in [c for c in self._callers if not c.pid and now >= c.deadline]:
                self._forget(caller)
            if self._callers:
                self._quiet_since = now
            elif now - self._quiet_since >= self._idle:
                return

    def close(self) -> None:
        """Take no more trials, and end those that run."""
        self._stop_listening()
        for caller in list(self._callers):
            self._kill(caller)
        self._selector.close()

    def _patience(self) -> float:
        now = time.monotonic()
        limits = [c.deadline for c in self._callers if not c.pid]
        if not self._callers:
            limits.append(self._quiet_since + self._idle)
        return max(0.0, min(limits, default=now + 3600.0) - now)

    def _on_stop(self, *_: object) -> None:
        self._stop = True

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._waker.recv(64)

    def _lifeline_read(self) -> None:
        assert self._lifeline is not None
        if not os.read(self._lifeline, 64):
            self._selector.unregister(self._lifeline)
            self._stop_listening()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
            for caller in [c for c in self._callers if not c.pid]:
                caller.tell({"refused": "the warm parent is ending"})
                self._forget(caller)

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", peer)[1] != os.geteuid():
            connection.close()
            return
        connection.setblocking(False)
        if len(self._callers) >= _MOST_CALLERS:
            with contextlib.suppress(OSError):
                connection.sendall(b'{"refused": "too many trials at once"}\n')
            connection.close()
            return
        caller = _Caller(connection, time.monotonic() + _REQUEST_SECONDS)
        self._callers.append(caller)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(caller))

    def _read(self, caller: _Caller) -> None:
        if caller.gone or caller not in self._callers:
            return  # of the same round of events, but handled by now
        try:
            data, descriptors, _, _ = socket.recv_fds(
                caller.connection, 65536, 4, flags=socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        caller.descriptors += descriptors
        if not data:
            self._lost(caller)
        elif caller.pid:
            self._forward(caller, data)
        elif caller.request is not None:
            self._start(caller)
            self._forward(caller, data[1:])
        else:
            caller.received += data
            self._take(caller)

    def _take(self, caller: _Caller) -> None:
        if len(caller.received) < 8:
            return
        length = int.from_bytes(caller.received[:8], "big")
        if length <= _LARGEST_REQUEST and len(caller.received) < 8 + length:
            return
        try:
            if length > _LARGEST_REQUEST:
                raise ValueError(f"{length} bytes are too many")
            request = json.loads(bytes(caller.received[8:]))
            if request["version"] != warm_client.VERSION or len(caller.descriptors) != 4:
                raise ValueError("client and warm parent are of different releases")
            refusal = difference(self._imported_with, request["environ"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            request, refusal = None, f"the request cannot be used: {error}"
        if refusal is not None:
            caller.tell({"refused": refusal})
            self._forget(caller)
            return
        caller.request = request
        caller.received.clear()
        caller.tell({"ready": True})

    def _start(self, caller: _Caller) -> None:
        assert caller.request is not None
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, warm_child.HELD)
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, warm_child.HELD)
            caller.tell({"refused": f"no process could be made: {error}"})
            self._forget(caller)
            return
        if pid == 0:
            connection = os.dup(caller.connection.fileno())
            self._let_go(caller)
            warm_child.live(caller.request, caller.descriptors, connection, self._held_read, self._run)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, warm_child.HELD)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        caller.pid = pid
        caller.pid_descriptor = os.pidfd_open(pid)
        self._selector.register(caller.pid_descriptor, selectors.EVENT_READ, lambda: self._ended(caller))
        caller.drop_descriptors()

    def _let_go(self, kept: _Caller) -> None:
        """In the child: close what is the parent's, or ends of others would never be seen."""
        self._selector.close()
        assert self._listener is not None
        for end in (self._listener, self._waker, self._wake):
            end.close()
        os.close(self._held_write)
        os.close(self._lock)
        if self._lifeline is not None:
            os.close(self._lifeline)
        for caller in self._callers:
            caller.connection.close()
            if caller.pid_descriptor >= 0:
                os.close(caller.pid_descriptor)
            if caller is not kept:
                caller.drop_descriptors()

    def _forward(self, caller: _Caller, numbers: bytes) -> None:
        for number in numbers if caller.pid else b"":
            if number in warm_client.FORWARDED:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(caller.pid, number)

    def _lost(self, caller: _Caller) -> None:
        """The client is gone: so must its trial be."""
        if not caller.pid:
            self._forget(caller)
            return
        caller.gone = True
        self._selector.unregister(caller.connection)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(caller.pid, signal.SIGKILL)

    def _ended(self, caller: _Caller) -> None:
        # Not reaped yet, so that its group cannot be somebody else's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(caller.pid, signal.SIGKILL)
        _, status = os.waitpid(caller.pid, 0)
        self._end_orphans(caller)
        caller.tell({"status": status})
        self._forget(caller)

    def _end_orphans(self, ended: _Caller) -> None:
        """What an ended trial left behind outside its group has become a child of ours."""
        known = {caller.pid for caller in self._callers if caller is not ended}
        for _ in range(_ORPHAN_ROUNDS):
            orphans = [pid for pid in _children() if pid not in known and _group(pid) not in known]
            if not orphans:
                return
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)

    def _kill(self, caller: _Caller) -> None:
        if caller.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(caller.pid, signal.SIGKILL)
            os.waitpid(caller.pid, 0)
            self._end_orphans(caller)
        self._forget(caller)

    def _forget(self, caller: _Caller) -> None:
        self._callers.remove(caller)
        caller.drop_descriptors()
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(caller.connection)
        if caller.pid_descriptor >= 0:
            self._selector.unregister(caller.pid_descriptor)
            os.close(caller.pid_descriptor)
        caller.connection.close()


def _bound(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(64)
    return listener


def _children() -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                status = (process / "stat").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(status.rpartition(b")")[2].split()[1]) == os.getpid():
                found.append(int(process.name))
    return found


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0
