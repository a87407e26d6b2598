"""Batches of pixels and labels, in an order that a seed repeats."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Images ready for the network and their class numbers, both on the device."""

    images: Tensor
    targets: Tensor


def generator(seed: int, *parts: int) -> torch.Generator:
    """A CPU generator of its own for (seed, epoch, ...): a resumed epoch draws what it would have drawn."""
    mixed = seed & 0xFFFFFFFFFFFF
    for part in parts:
        mixed = (mixed * 1_000_003 + part + 1) & 0x7FFFFFFFFFFFFFFF
    return torch.Generator().manual_seed(mixed)


def chunks(order: Sequence[int], size: int) -> list[list[int]]:
    """`order` in batches of `size`. A single image left over joins the batch before it: batch normalisation
    cannot train on one image alone."""
    found = [list(order[start : start + size]) for start in range(0, len(order), size)]
    if size > 1 and len(found) > 1 and len(found[-1]) == 1:
        single = found.pop()
        found[-1] += single
    return found


def shuffled(n: int, size: int, source: torch.Generator) -> list[list[int]]:
    """Positions 0..n-1 in random order, in batches of `size`."""
    return chunks(torch.randperm(n, generator=source).tolist(), size)


def ahead(make: Callable[[], Iterator[T]]) -> Iterator[T]:
    """Run an iterator two items ahead in a thread, so that the device need not wait for the CPU."""
    items: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=2)
    stop = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> bool:
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in make():
                if not put((item, None)):
                    return
            put((None, None))
        except BaseException as error:  # carried over to the thread that trains
            put((None, error))

    threading.Thread(target=work, name="batches", daemon=True).start()
    try:
        while True:
            item, error = items.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stop.set()
