"""Batches of pixels and labels, in an order that a seed repeats."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from amlocal.trainers.device import cpu_threads
from amlocal.trainers.distributed import World

T = TypeVar("T")

_CORES_TO_SPARE = 4
"""From this many CPU cores on, preparing batches in a thread takes little from a step on the CPU."""


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


def shard(order: Sequence[Sequence[int]], world: World) -> list[list[int]]:
    """The batches of this process out of those of a whole epoch.

    Batch k of all processes together is the batch that one process with the whole batch size (size of a
    batch x processes) would take as its k-th. Every process gets as many batches, equally large: the first
    positions are used once more where the number does not divide.
    """
    if world.size == 1:
        return [list(batch) for batch in order]
    flat = [position for batch in order for position in batch]
    missing = -len(flat) % world.size
    repeats = -(-missing // len(flat)) if flat else 0
    flat += (flat * repeats)[:missing]
    return chunks(flat[world.rank :: world.size], len(order[0])) if flat else []


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. To a GPU it goes by way of pinned memory, and nobody waits for it."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def prepared(make: Callable[[], Iterator[T]], device: torch.device) -> Iterator[T]:
    """The batches of `make`, prepared in a thread ahead of the step where that helps."""
    return ahead(make, device) if thread_helps(device, cpu_threads()) else make()


def thread_helps(device: torch.device, cores: int) -> bool:
    """Always beside a GPU; on the CPU only when a core can be spared, since the step wants them all."""
    return device.type == "cuda" or cores >= _CORES_TO_SPARE


def ahead(make: Callable[[], Iterator[T]], device: torch.device | None = None) -> Iterator[T]:
    """Run an iterator two items ahead in a thread, so that the step need not wait for its data.

    For a GPU the thread's work goes into a stream of its own; the step waits, on the GPU, for that work.
    An error of the iterator is raised here. Closing this iterator ends the thread.
    """
    side = _Side(device) if device is not None and device.type == "cuda" else _NoSide()
    items: queue.Queue[tuple[T | None, Any, BaseException | None]] = queue.Queue(maxsize=2)
    stop = threading.Event()

    def put(item: tuple[T | None, Any, BaseException | None]) -> bool:
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            with side.work():
                for item in make():
                    if not put((item, side.mark(), None)):
                        return
            put((None, None, None))
        except BaseException as error:  # carried over to the thread that trains
            put((None, None, error))

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item, mark, error = items.get()
            if error is not None:
                raise error
            if item is None:
                return
            side.hand_over(item, mark)
            yield item
    finally:
        stop.set()
        if thread is not threading.current_thread():
            thread.join()


class _NoSide:
    """Without a GPU there is nothing to order."""

    def work(self) -> AbstractContextManager[object]:
        return nullcontext()

    def mark(self) -> Any:
        return None

    def hand_over(self, item: object, mark: Any) -> None:
        return None


class _Side(_NoSide):
    """A stream of one GPU for the preparation of batches."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def work(self) -> AbstractContextManager[object]:
        # A thread starts on the first GPU, whatever the thread that made it uses; this sets both.
        return torch.cuda.stream(self._stream)

    def mark(self) -> Any:
        return self._stream.record_event()

    def hand_over(self, item: object, mark: Any) -> None:
        current = torch.cuda.current_stream(self._stream.device)
        current.wait_event(mark)
        # Its memory must not be given to the side stream again before the step has used it.
        for tensor in _tensors(item):
            tensor.record_stream(current)


def _tensors(item: object) -> Iterator[Tensor]:
    """Those on a GPU in a batch, however deep."""
    if isinstance(item, Tensor):
        if item.is_cuda:
            yield item
    elif is_dataclass(item):
        for part in fields(item):
            yield from _tensors(getattr(item, part.name))
    elif isinstance(item, tuple | list):
        for value in item:
            yield from _tensors(value)
