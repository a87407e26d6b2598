"""The outlines of a mask as polygons with few points.

An outline runs along the edges of pixels, not through their middles, so that a polygon covers what its mask
covers. Only outer outlines are given: holes are lost, as in Azure's answers. Pixels that touch at a corner
belong together.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]

TOLERANCE = 1.0
"""In pixels: no simplified outline is made closer than that. A slanted edge's steps lie within it."""
_FINE = 0.02
"""Of an outline's longer side: small objects are followed more closely."""
LEAST = 3
_SQUARE = 4


def outlines(mask: Bools, most: int) -> list[Points]:
    """The outer outlines of a mask (height, width), the largest first, each with at most `most` (>= 3)
    points (n, 2): x and y in pixels."""
    loops = _outer(mask)
    if any(hole for hole, _ in loops):
        from scipy import ndimage

        # What lies in a hole would look like an object of its own.
        loops = _outer(ndimage.binary_fill_holes(mask))
    found = [loop.astype(np.float64) for hole, loop in loops if not hole]
    found.sort(key=_area, reverse=True)
    return [simplified(loop, most) for loop in found]


def simplified(loop: Points, most: int) -> Points:
    """A closed line (n, 2) with at most `most` of its points: from two far apart, the point that lies
    farthest from the line so far is added, until none is far or there are enough."""
    most = max(most, LEAST)
    if len(loop) <= LEAST:
        return loop
    far = int(((loop - loop[0]) ** 2).sum(1).argmax())
    tolerance = min(TOLERANCE, _FINE * float((loop.max(0) - loop.min(0)).max()))
    kept = {0, far}
    closed = np.concatenate((loop, loop[:1]))
    waiting: list[tuple[float, int, int, int]] = []

    def look(start: int, end: int) -> None:
        if end - start > 1:
            distances = _distances(closed[start + 1 : end], closed[start], closed[end])
            worst = int(distances.argmax())
            heapq.heappush(waiting, (-float(distances[worst]), start + 1 + worst, start, end))

    look(0, far)
    look(far, len(loop))
    while waiting and len(kept) < most:
        negative, worst, start, end = heapq.heappop(waiting)
        if -negative <= tolerance and len(kept) >= _SQUARE:
            break
        kept.add(worst)
        look(start, worst)
        look(worst, end)
    return loop[sorted(kept)]


def _distances(points: Points, start: Points, end: Points) -> Points:
    """Of points to a stretch of line."""
    along = end - start
    length = float(along @ along)
    if length == 0.0:
        found: Points = np.hypot(*(points - start).T)
        return found
    share = (((points - start) @ along) / length).clip(0.0, 1.0)
    nearest: Points = np.hypot(*(points - start - share[:, None] * along).T)
    return nearest


def _area(loop: Points) -> float:
    x, y = loop.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _outer(mask: Bools) -> list[tuple[bool, npt.NDArray[np.int64]]]:
    """Every outline: whether it goes round a hole, and its corners (n, 2) as x and y."""
    rows, columns, turned = _corners(mask)
    sideways, upright = _partners(rows, columns, turned)
    left = np.ones(len(rows), dtype=bool)
    loops = []
    for first in range(len(rows)):
        if not left[first]:
            continue
        # In reading order this corner is the loop's first, so what it goes round lies right below it.
        hole = not mask[rows[first], columns[first]]
        walk = [first]
        at = int(sideways[first])
        while True:
            walk.append(at)
            at = int(upright[at])
            if at == first:
                break
            walk.append(at)
            at = int(sideways[at])
        left[walk] = False
        loops.append((bool(hole), np.stack((columns[walk], rows[walk]), axis=1)))
    return loops


def _corners(mask: Bools) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where outlines turn, in reading order: rows, columns, and the order of what else is at that place when
    corners are read from top to bottom. Where pixels touch at a corner only, two outlines turn: the first of
    the two comes from the left, the second goes on to the right.
    """
    around = np.pad(mask, 1).astype(np.int8)
    up_left, up_right = around[:-1, :-1], around[:-1, 1:]
    down_left, down_right = around[1:, :-1], around[1:, 1:]
    odd = (up_left + up_right + down_left + down_right) % 2 == 1
    crossing = (up_left == down_right) & (up_right == down_left) & (up_left != up_right)
    times = odd.astype(np.int64) + 2 * crossing
    rows, columns = np.nonzero(times)
    several = times[rows, columns]
    places = np.repeat(np.arange(len(rows)), several)
    second = np.zeros(len(places), dtype=np.int64)
    second[1:] = places[1:] == places[:-1]
    rows, columns = rows[places], columns[places]
    # So that the pixels that touch stay one: which of the two goes up depends on which pixels they are.
    falling = (crossing & (up_left == 1))[rows, columns]
    return rows, columns, np.where(falling, 1 - second, second)


def _partners(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], turned: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The corner at the other end of each corner's level edge, and of its upright edge: in a row (column) of
    corners, edges join the first to the second, the third to the fourth, and so on."""
    count = len(rows)
    sideways, upright = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    level = np.arange(count)
    down = np.lexsort((turned, rows, columns))
    for partners, order in ((sideways, level), (upright, down)):
        partners[order[0::2]] = order[1::2]
        partners[order[1::2]] = order[0::2]
    return sideways, upright
