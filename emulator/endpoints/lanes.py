"""Work that takes a while, in order for each key: one thread per key, and only while there is work."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Superseded = Callable[[], bool]
Work = Callable[[Superseded], None]


class Lanes:
    """Works of one key are done one after another, in the order in which they came; keys do not wait."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._guard = threading.Lock()
        self._waiting: dict[object, deque[Work]] = {}
        self._threads: dict[object, threading.Thread] = {}
        self._stopping = False

    def submit(self, key: object, work: Work) -> None:
        """`work` is called with a test of whether later work waits for its end, or `stop` was called.

        It must catch its own errors. After `stop` it is not called at all.
        """
        with self._guard:
            if self._stopping:
                return
            self._waiting.setdefault(key, deque()).append(work)
            if key not in self._threads:
                thread = threading.Thread(
                    target=self._run, args=(key,), name=f"{self._name}-{key}", daemon=True
                )
                self._threads[key] = thread
                thread.start()

    def stop(self, patience: float) -> None:
        """No more work; wait at most `patience` seconds for what is under way."""
        with self._guard:
            self._stopping = True
            for waiting in self._waiting.values():
                waiting.clear()
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(patience)

    def _superseded(self, key: object) -> bool:
        with self._guard:
            return self._stopping or bool(self._waiting[key])

    def _run(self, key: object) -> None:
        while True:
            with self._guard:
                if not self._waiting[key]:
                    del self._waiting[key]
                    del self._threads[key]
                    return
                work = self._waiting[key].popleft()
            work(lambda: self._superseded(key))
