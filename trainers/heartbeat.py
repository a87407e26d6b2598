"""heartbeat.json: that a trial makes progress, and with what, to tell a slow one from one that hangs.

`beat` is called wherever something gets done: a step, a batch of evaluation, a decoded image, a part of the
export. The file is touched every few seconds at most, and written when the trial begins with something else.
Outside `beating` nothing happens, so the same code can run in no trial at all.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = "heartbeat.json"
_SECONDS = 5.0


class _Heart:
    """The heart of this process; `path` None: none beats."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.clock: Callable[[], float] = time.monotonic
        self._guard = threading.Lock()
        self._doing = ""
        self._next = 0.0

    def begin(self, path: Path | None, clock: Callable[[], float]) -> None:
        self.path, self.clock, self._doing = path, clock, ""

    def beat(self, doing: str) -> None:
        if self.path is None or (doing == self._doing and self.clock() < self._next):
            return
        with self._guard:
            if self.path is None:
                return
            if doing == self._doing:
                os.utime(self.path)
            else:
                self._write(self.path, doing)
                self._doing = doing
            self._next = self.clock() + _SECONDS

    def _write(self, path: Path, doing: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Processes of one trial share the file.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"doing": doing}), encoding="utf-8")
        temporary.replace(path)


_HEART = _Heart()


@contextmanager
def beating(folder: Path, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Inside, `beat` keeps the file in `folder`."""
    _HEART.begin(folder / FILE, clock)
    _HEART.beat("starting")
    try:
        yield
    finally:
        _HEART.begin(None, time.monotonic)


def beat(doing: str) -> None:
    """The trial is `doing` this, and has just got on with it. Any thread may call it, at any rate."""
    _HEART.beat(doing)


@contextmanager
def through(doing: str) -> Iterator[None]:
    """Beats all the while, for what cannot: a library's call that ends by itself where nothing moves."""
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(_SECONDS):
            beat(doing)

    beat(doing)
    thread = threading.Thread(target=tick, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
