"""Gathering the rows of concurrent calls into batches for one thread that runs them.

An idle runner starts at once with what there is. While it runs, rows queue up and form the next batch. Only
where further callers are known to be preparing their rows does it wait for them, a few milliseconds at most.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

WAIT_SECONDS = 0.003


class Closed(RuntimeError):
    """The batcher takes no more calls."""


class Call:
    """The rows that one caller handed over together, and what becomes of them."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = deque(enumerate(rows))
        self.answers: list[Any] = [None] * len(rows)
        self.missing = len(rows)
        self.error: BaseException | None = None
        self.done = threading.Event()

    def result(self) -> list[Any]:
        """Blocks until every row is answered. Raises what the run raised for a row that cannot be run."""
        self.done.wait()
        if self.error is not None:
            raise self.error
        return self.answers

    def fail(self, error: BaseException) -> None:
        """Give the whole call up; rows that have not run are dropped."""
        self.rows.clear()
        if not self.done.is_set():
            self.error = error
            self.done.set()

    def answer(self, position: int, value: Any) -> None:
        """Take the answer of one row."""
        self.answers[position] = value
        self.missing -= 1
        if not self.missing:
            self.done.set()


class Batcher:
    """One thread that calls `run` with up to `limit` rows at a time; `run` answers one value per row.

    A batch takes one row of each waiting call in turn, so that a large call delays a small one by a batch at
    most. When `run` raises, the batch is halved and tried again until what cannot run stands alone.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Sequence[Any]],
        *,
        limit: int,
        wait: float = WAIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        """May be lowered at any time, also by `run`."""
        self._run = run
        self._wait = wait
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[Call] = deque()
        self._coming = 0
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="batches", daemon=True)
        self._thread.start()

    @contextmanager
    def coming(self) -> Iterator[None]:
        """The caller prepares rows that it will submit."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify_all()

    def submit(self, rows: Sequence[Any]) -> Call:
        """Queue rows. Raises Closed."""
        call = Call(rows)
        if not rows:
            call.done.set()
            return call
        with self._changed:
            if self._closed:
                raise Closed("the model is being shut down")
            self._waiting.append(call)
            self._changed.notify_all()
        return call

    def cancel(self, call: Call, error: BaseException) -> None:
        """Drop what has not run of a call whose caller has given up."""
        with self._changed:
            call.fail(error)

    def close(self) -> None:
        """Take no more calls; returns when all that were taken are answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _loop(self) -> None:
        try:
            while True:
                with self._changed:
                    while not (self._waiting or self._closed):
                        self._changed.wait()
                    if not self._waiting:
                        return
                    batch = self._gathered()
                self._execute(batch)
        finally:
            # Also where this thread itself breaks: nobody must wait for ever.
            with self._changed:
                self._closed = True
                left, self._waiting = self._waiting, deque()
            for call in left:
                call.fail(Closed("the model has stopped"))

    def _gathered(self) -> list[tuple[Call, int, Any]]:
        until = self._clock() + self._wait
        while self._coming and not self._closed and sum(len(c.rows) for c in self._waiting) < self.limit:
            left = until - self._clock()
            if left <= 0:
                break
            self._changed.wait(left)
        batch: list[tuple[Call, int, Any]] = []
        while self._waiting and len(batch) < max(1, self.limit):
            call = self._waiting.popleft()
            if call.rows:
                batch.append((call, *call.rows.popleft()))
            if call.rows:
                self._waiting.append(call)
        return batch

    def _execute(self, batch: list[tuple[Call, int, Any]]) -> None:
        batch = [part for part in batch if part[0].error is None]
        if not batch:
            return
        try:
            answers = self._run([row for _, _, row in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers for {len(batch)} rows")
        except Exception as error:
            if len(batch) == 1:
                batch[0][0].fail(error)
                return
        else:
            for (call, position, _), value in zip(batch, answers, strict=True):
                call.answer(position, value)
            return
        half = len(batch) // 2
        self._execute(batch[:half])
        self._execute(batch[half:])
