"""Runs one trial in a child of the warm parent: `python -I -S warm_client.py SOCKET SPEC [PLAIN ...]`.

To whoever starts it, this process stands for the trial: the trial has its standard input, output and error,
working folder, environment, umask and CPUs; SIGTERM, SIGINT, SIGHUP and SIGQUIT go on to it; and this process
ends as the trial ends, with its exit code or by the same signal. When this process dies, the trial dies.

Exit codes of its own: 2 = wrong call; 69 = there is no warm parent that could run it, and nothing was run, so
that a plain start is safe; 70 = the warm parent ended before the trial did, and the trial with it.

With PLAIN, a command that runs the trial by itself, this process becomes that command instead of ending by
69; and instead of 70 it ends by SIGHUP, so that the end looks like what it is: not the trial's own.

What is said over the socket: the request (8 bytes of length, then JSON; with its first bytes the descriptors
of standard input, output, error and the working folder); the answer, a line of JSON, {"ready": true} or
{"refused": why}; a zero byte, from which on the trial may run; then signal numbers, a byte each; and at the
end {"status": wait status}.

Standard library only: it is run by path, without site-packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

USAGE = 2
UNAVAILABLE = 69
LOST = 70
PATIENCE = 60.0
"""Seconds that the warm parent has for its answer. It listens before its imports, which take most of them on
a busy machine, and a plain start would take as long."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
VERSION = 1
_GO = b"\0"


class Unavailable(Exception):
    """Nothing was run; the text says why."""


class Signals:
    """Turns signals into bytes on a descriptor that can be waited for."""

    def __init__(self) -> None:
        self.read_end, write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in FORWARDED:
            signal.signal(number, lambda *_: None)

    def pending(self) -> bytes:
        """The numbers of the signals received, a byte each; empty when there are none."""
        try:
            return os.read(self.read_end, 64)
        except BlockingIOError:
            return b""


def main(argv: list[str]) -> int:
    """Run a trial; returns the exit code, or dies by the trial's signal."""
    if len(argv) < 2:
        print("usage: warm_client.py SOCKET SPEC [PLAIN ...]", file=sys.stderr)
        return USAGE
    plain = argv[2:]
    signals = Signals()
    try:
        connection = connect(argv[0])
        with connection:
            ask(connection, argv[1:2])
            lines = await_ready(connection, signals)
            go(connection)
            code = follow(connection, lines, signals)
            return die_by(signal.SIGHUP) if code is None and plain else LOST if code is None else code
    except Unavailable as error:
        print(f"no warm start: {error}", file=sys.stderr, flush=True)
    return become(plain, signals) if plain else UNAVAILABLE


def become(command: list[str], signals: Signals) -> NoReturn:
    """Turn into the command, in the same process; a signal that came meanwhile is not lost."""
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    if numbers := signals.pending():
        die_by(numbers[0])
    signal.set_wakeup_fd(-1)
    for number in FORWARDED:
        signal.signal(number, signal.SIG_DFL)
    # One that waits ends this process here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    os.execvp(command[0], command)  # noqa: S606


def connect(path: str) -> socket.socket:
    """A connection to a warm parent of our own user. Raises Unavailable."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(PATIENCE)
    try:
        connection.connect(path)
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except (OSError, AttributeError) as error:
        connection.close()
        raise Unavailable(f"{path}: {error}") from error
    # The environment holds secrets; they must not go to whoever made a socket of that name.
    if struct.unpack("3i", peer)[1] != os.geteuid():
        connection.close()
        raise Unavailable(f"{path} belongs to another user")
    return connection


def ask(connection: socket.socket, arguments: list[str]) -> None:
    """Send the request. Raises Unavailable."""
    mask = os.umask(0o077)
    os.umask(mask)
    request = {
        "version": VERSION,
        "argv": arguments,
        "environ": dict(os.environ),
        "umask": mask,
        "cpus": sorted(os.sched_getaffinity(0)),
    }
    data = json.dumps(request).encode()
    descriptors = [standard(0), standard(1), standard(2)]
    try:
        descriptors.append(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        message = struct.pack("!Q", len(data)) + data
        sent = socket.send_fds(connection, [message], descriptors)
        # Not for nothing: even an empty rest fails when a refusal has come already.
        if sent < len(message):
            connection.sendall(message[sent:])
    except OSError as error:
        raise Unavailable(f"the request could not be sent: {error}") from error


def standard(number: int) -> int:
    """The descriptor itself, or the null device where it is closed."""
    try:
        os.fstat(number)
    except OSError:
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    return number


class Lines:
    """Lines of JSON from the warm parent, however they are cut into pieces."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def read(self) -> list[dict[str, Any]] | None:
        """The lines that have come in whole; None at the end. Blocks until something comes."""
        try:
            data = self._connection.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in whole]


def await_ready(connection: socket.socket, signals: Signals) -> Lines:
    """Wait until the warm parent would start. Raises Unavailable; a signal ends this process."""
    lines = Lines(connection)
    watched: list[Any] = [connection, signals.read_end]
    while True:
        readable, _, _ = select.select(watched, [], [], PATIENCE)
        if signals.read_end in readable and (numbers := signals.pending()):
            die_by(numbers[0])
        if not readable:
            raise Unavailable(f"the warm parent did not answer within {PATIENCE:.0f} seconds")
        if connection in readable:
            found = lines.read()
            if found is None:
                raise Unavailable("the warm parent ended")
            for line in found:
                refuse(line)
                return lines


def go(connection: socket.socket) -> None:
    """From here on the trial may run. Raises Unavailable when nobody is there to hear it."""
    try:
        connection.sendall(_GO)
    except OSError as error:
        raise Unavailable("the warm parent ended") from error


def refuse(line: dict[str, Any]) -> None:
    if "refused" in line:
        raise Unavailable(str(line["refused"]))


def follow(connection: socket.socket, lines: Lines, signals: Signals) -> int | None:
    """Forward signals until the trial has ended; its exit code, None when it is lost."""
    connection.settimeout(None)
    watched: list[Any] = [connection, signals.read_end]
    while True:
        readable, _, _ = select.select(watched, [], [])
        if signals.read_end in readable and (numbers := signals.pending()):
            # A parent that is gone is noticed by the next read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(numbers)
        if connection in readable:
            found = lines.read()
            if found is None:
                print(
                    "the warm parent ended before the trial did, and the trial with it; start it again to go "
                    "on from its checkpoint",
                    file=sys.stderr,
                )
                return None
            for line in found:
                refuse(line)
                code = os.waitstatus_to_exitcode(line["status"])
                return code if code >= 0 else die_by(-code)


def die_by(number: int) -> NoReturn:
    """End by a signal, so that the starter sees what became of the trial. No second core file is left."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    with contextlib.suppress(OSError):  # SIGKILL has no handler to be reset
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
