"""One writer: every write goes through one thread and one connection, in BEGIN IMMEDIATE transactions.

Deferred transactions of several writers lose to SQLITE_BUSY when they upgrade; one queue never does.
Writes that wait at the same moment share one commit, each inside a savepoint of its own.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from amlocal.emulator import crash_points

T = TypeVar("T")
_BATCH = 64
_Item = tuple[Callable[[Connection], Any], "Future[Any]"]


class TransactionLost(RuntimeError):
    """None of the writes that shared a transaction is stored."""


class Writer:
    """Runs write functions one after another; `run` returns when the change is on disk."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # How often the database may have changed; counted before a change is acknowledged.
        self.commits = 0
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
                    if len(batch) == 1:
                        done.append((future, function(connection)))
                        _check_open(connection, None)
                        continue
                    try:
                        with _savepoint(connection):
                            done.append((future, function(connection)))
                    except Exception as error:  # its own caller is told; the others' writes stand
                        failed.append((future, error))
                    _check_open(connection, failed[-1][1] if failed else None)
                crash_points.reach("write.made")
        except BaseException as error:
            self.commits += 1
            for _, future in batch:
                future.set_exception(error)
            return
        self.commits += 1
        crash_points.reach("write.committed")
        for future, result in done:
            future.set_result(result)
        for future, failure in failed:
            future.set_exception(failure)


@contextmanager
def _savepoint(connection: Connection) -> Iterator[None]:
    """What is done within stands whole or not at all.

    Straight to the driver: SQLAlchemy's own nested transactions cost more than the write.
    """
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute("SAVEPOINT item")
    try:
        yield
    except BaseException:
        driver.execute("ROLLBACK TO item")
        raise
    finally:
        driver.execute("RELEASE item")


def _check_open(connection: Connection, reason: BaseException | None) -> None:
    """At a full disk SQLite may take back the whole transaction, and a commit would then say nothing."""
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:
        raise TransactionLost("The database took the transaction back; nothing of it is stored.") from reason
