"""Batches of images of like shape, so that little is padded."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from amlocal.trainers.data.batches import chunks

_PER_OCTAVE = 3
"""Kinds of shape between one ratio of the sides and twice that ratio."""


def batches(
    sizes: Sequence[tuple[int, int]], order: Sequence[int], batch_size: int, processes: int = 1
) -> list[list[int]]:
    """The positions of `order`, each once, in batches of `batch_size` for `batches.shard`.

    `sizes`: height and width by position. `processes` batches in a row, which are one step of as many
    processes, have images of like shape. A step starts when enough images of its shape have come by, so the
    order stays random; what is left at the end is put together by shape.
    """
    together = batch_size * processes
    waiting: dict[int, list[int]] = defaultdict(list)
    flat: list[int] = []
    for position in order:
        group = waiting[_shape(*sizes[position])]
        group.append(position)
        if len(group) == together:
            flat += group
            group.clear()
    flat += [position for shape in sorted(waiting) for position in waiting[shape]]
    return chunks(flat, batch_size)


def _shape(height: int, width: int) -> int:
    return math.floor(_PER_OCTAVE * math.log2(width / height))
