from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from amlocal.trainers.data import batches
from amlocal.trainers.distributed import World

CPU = torch.device("cpu")


EARLIER: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def what_other_tests_left() -> None:
    """A failed training of an earlier test is kept, with its batches, by what was raised."""
    EARLIER.clear()
    EARLIER.update(threading.enumerate())


def threads() -> int:
    return sum(thread.name == "batches" for thread in {*threading.enumerate()} - EARLIER)


def test_what_is_prepared_ahead_comes_in_order_from_another_thread() -> None:
    made: list[int] = []

    def make() -> Iterator[tuple[int, int]]:
        for n in range(20):
            made.append(n)
            yield n, threading.get_ident()

    found = list(batches.ahead(make, CPU))
    assert [n for n, _ in found] == list(range(20)) == made
    assert {ident for _, ident in found}.isdisjoint({threading.get_ident()})
    assert threads() == 0


def test_no_more_than_a_few_are_prepared_and_closing_ends_the_thread() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        while True:
            made.append(1)
            yield 1

    source = batches.ahead(make)
    next(source)
    assert threads() == 1
    source.close()  # type: ignore[attr-defined]
    assert threads() == 0
    assert len(made) <= 4


def test_an_error_while_preparing_is_raised_where_the_batch_is_wanted() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise MemoryError("no room")

    source = batches.ahead(make)
    assert next(source) == 1
    with pytest.raises(MemoryError, match="no room"):
        next(source)
    assert threads() == 0


def test_a_thread_prepares_beside_a_gpu_or_when_a_core_can_be_spared() -> None:
    assert batches.thread_helps(torch.device("cuda"), 1)
    assert not batches.thread_helps(CPU, 2)
    assert batches.thread_helps(CPU, 8)
    assert list(batches.prepared(lambda: iter("abc"), CPU)) == ["a", "b", "c"]


def test_on_the_cpu_a_tensor_is_where_it_should_be_already() -> None:
    tensor = torch.ones(2)
    assert batches.to_device(tensor, CPU) is tensor


@pytest.mark.parametrize(("images", "size"), [(24, 4), (25, 4), (7, 8), (1, 4), (33, 5)])
@pytest.mark.parametrize("processes", [2, 3])
def test_every_process_gets_as_many_batches_of_the_same_sizes(images: int, size: int, processes: int) -> None:
    order = batches.shuffled(images, size, batches.generator(3, 0))
    parts = [batches.shard(order, World(rank, processes)) for rank in range(processes)]
    assert len({tuple(len(which) for which in part) for part in parts}) == 1
    flat = [position for which in order for position in which]
    together = [position for part in parts for which in part for position in which]
    assert set(together) == set(flat)
    assert len(together) == -(-images // processes) * processes
    if len(parts[0]) > 1:
        step = {position for part in parts for position in part[0]}
        assert step == set(flat[: size * processes])
    assert batches.shard(order, World(0, 1)) == order
