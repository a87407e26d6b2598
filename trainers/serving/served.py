"""A model that answers concurrent calls, several images at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from amlocal.trainers.serving.batching import Batcher, Call
from amlocal.trainers.serving.cells import COLUMN, image_bytes


class Served:
    """A loaded model. `prepare` turns an encoded image into a row, in the caller's thread, and raises
    ValueError for what is no image; `run` answers a batch of rows. `most` is how many calls the deployment
    works on at a time; twice as many are taken, as Azure does, and the others wait before their images are
    opened. `explained`: see `image_bytes`."""

    columns: ClassVar[tuple[str, ...]] = (COLUMN,)

    def __init__(
        self,
        prepare: Callable[[bytes], Any],
        run: Callable[[list[Any]], Sequence[dict[str, Any]]],
        *,
        limit: int,
        most: int,
        explained: bool = True,
    ) -> None:
        self._prepare = prepare
        self._explained = explained
        self._room = threading.BoundedSemaphore(2 * max(1, most))
        self.batches = Batcher(run, limit=limit)

    def score(self, cells: Sequence[object]) -> list[dict[str, Any]]:
        """One answer per cell of column "image", in their order; blocks. May be called from many threads.

        Raises ValueError naming the row (from 0) that is no image, and whatever the network raises for a row.
        """
        found: list[dict[str, Any]] = []
        calls: deque[Call] = deque()
        with self._room:
            try:
                # A part is prepared while the one before it runs; never more than two are in memory.
                step = max(1, self.batches.limit)
                for start in range(0, len(cells), step):
                    some = range(start, min(start + step, len(cells)))
                    with self.batches.coming():
                        calls.append(self.batches.submit([self._row(n, cells[n]) for n in some]))
                    if len(calls) > 1:
                        found += calls.popleft().result()
                while calls:
                    found += calls.popleft().result()
            except BaseException as error:
                for call in calls:
                    self.batches.cancel(call, error)
                raise
        return found

    def _row(self, number: int, cell: object) -> Any:
        raw = image_bytes(number, cell, explained=self._explained)
        try:
            return self._prepare(raw)
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from error

    def close(self) -> None:
        """Answer what was taken, take nothing more."""
        self.batches.close()
