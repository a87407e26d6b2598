"""Reading the images of a batch, on all CPUs where they have to be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from amlocal.trainers.data.cache import Store
from amlocal.trainers.data.images import ImageError, Pixels
from amlocal.trainers.device import cpu_threads


def read(store: Store, indexes: Sequence[int]) -> list[Pixels | ImageError]:
    """The pixels at `indexes`, in that order; an image that cannot be read gives its error in its place."""
    if not store.decodes or len(indexes) < 2:
        return [_one(store, index) for index in indexes]
    return list(_threads().map(lambda index: _one(store, index), indexes))


def _one(store: Store, index: int) -> Pixels | ImageError:
    try:
        return store[index]
    except ImageError as error:
        return error


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cpu_threads(), thread_name_prefix="decode")
