"""One writer: every write goes through one thread and one connection, in BEGIN IMMEDIATE transactions.

Deferred transactions of several writers lose to SQLITE_BUSY when they upgrade; one queue never does.
Writes that wait at the same moment share one commit, each inside a savepoint of its own.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

T = TypeVar("T")
_BATCH = 64
_Item = tuple[Callable[[Connection], Any], "Future[Any]"]


class Writer:
    """Runs write functions one after another; `run` returns when the change is on disk."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[Connection], T]) -> T:
        """Call `function` in a write transaction; its result after the commit, or its exception.

        A write function must not call `run` itself: it would wait for its own thread.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a write inside a write would wait for itself")
        future: Future[T] = Future()
        self._queue.put((function, future))
        return future.result()

    def close(self) -> None:
        """Finish the writes that wait, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        with self._engine.connect() as connection:
            while True:
                item = self._queue.get()
                if item is None:
                    return
                batch = [item]
                last = False
                while len(batch) < _BATCH and not self._queue.empty():
                    following = self._queue.get()
                    if following is None:
                        last = True
                        break
                    batch.append(following)
                self._commit(connection, batch)
                if last:
                    return

    def _commit(self, connection: Connection, batch: list[_Item]) -> None:
        done: list[tuple[Future[Any], Any]] = []
        failed: list[tuple[Future[Any], BaseException]] = []
        try:
            with connection.begin():
                for function, future in batch:
                    try:
                        with connection.begin_nested():
                            done.append((future, function(connection)))
                    except Exception as error:  # its own caller is told; the others' writes stand
                        failed.append((future, error))
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for future, result in done:
            future.set_result(result)
        for future, failure in failed:
            future.set_exception(failure)
