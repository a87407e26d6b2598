"""How many requests are scored at a time, and whether all of that is lost to requests nobody waits for.
Part of `scorer.py`.

Standard library only.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Iterator  # noqa: UP035  (older Pythons)

# How often one that waits for a slot looks whether its caller is still there.
LOOK = 0.5


class Slots:
    """At most `most` requests at a time; the others wait, in no particular order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = threading.BoundedSemaphore(most)
        self._guard = threading.Lock()
        self._holders: list[socket.socket] = []

    @contextlib.contextmanager
    def turn(self, connection: socket.socket) -> Iterator[bool]:
        """Wait for a slot and hold it; False, without one, when the caller has hung up meanwhile."""
        while not self._free.acquire(timeout=LOOK):
            if gone(connection):
                yield False
                return
        with self._guard:
            self._holders.append(connection)
        try:
            yield not gone(connection)
        finally:
            with self._guard:
                self._holders.remove(connection)
            self._free.release()

    def stuck(self) -> bool:
        """Whether every slot is held for a caller who has hung up: code that never returns."""
        with self._guard:
            return len(self._holders) == self._most and all(gone(holder) for holder in self._holders)


def gone(connection: socket.socket) -> bool:
    """Whether the other side has hung up."""
    poll = select.poll()
    try:
        poll.register(connection, select.POLLIN)
        # A socket with a timeout would wait for something to read.
        return bool(poll.poll(0)) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True
