"""Batches of images of like shape."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from amlocal.trainers.data import aspect, batches
from amlocal.trainers.distributed import World

LANDSCAPE, PORTRAIT = (60, 80), (80, 60)
SIZES = st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 2000)), min_size=1, max_size=60)


@given(SIZES, st.integers(1, 9), st.integers(1, 4), st.randoms())
def test_each_image_comes_once_in_batches_of_the_size_asked_for(
    sizes: list[tuple[int, int]], batch_size: int, processes: int, random: st.Random
) -> None:
    order = list(range(len(sizes)))
    random.shuffle(order)
    found = aspect.batches(sizes, order, batch_size, processes)
    assert sorted(position for batch in found for position in batch) == sorted(order)
    plain = batches.chunks(order, batch_size)
    assert [len(batch) for batch in found] == [len(batch) for batch in plain]


def test_landscape_and_portrait_do_not_meet_but_in_the_rest() -> None:
    sizes = [LANDSCAPE if n % 3 else PORTRAIT for n in range(40)]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1)).tolist()
    found = aspect.batches(sizes, order, 4)
    mixed = [batch for batch in found if len({sizes[position] for position in batch}) > 1]
    assert len(found) == 10 and mixed in ([], [found[-1]])
    # Within a shape the order is that of the epoch.
    for shape in (LANDSCAPE, PORTRAIT):
        of_shape = [position for batch in found for position in batch if sizes[position] == shape]
        assert of_shape == [position for position in order if sizes[position] == shape]


def test_images_of_one_shape_stay_in_their_order() -> None:
    order = [4, 2, 0, 1, 3, 5, 6]
    assert aspect.batches([LANDSCAPE] * 7, order, 3) == batches.chunks(order, 3)


def test_of_several_processes_each_step_has_one_shape_in_all_of_them() -> None:
    sizes = [LANDSCAPE if n % 2 else PORTRAIT for n in range(48)]
    order = torch.randperm(48, generator=torch.Generator().manual_seed(2)).tolist()
    whole = aspect.batches(sizes, order, 2, processes=3)
    shares = [batches.shard(whole, World(rank, 3)) for rank in range(3)]
    assert [len(share) for share in shares] == [8, 8, 8]
    for step in zip(*shares, strict=True):
        assert len({sizes[position] for batch in step for position in batch}) == 1
    assert sorted(position for share in shares for batch in share for position in batch) == list(range(48))


def test_what_does_not_divide_is_used_once_more_by_some_process() -> None:
    sizes = [LANDSCAPE] * 5 + [PORTRAIT] * 6
    whole = aspect.batches(sizes, list(range(11)), 2, processes=2)
    shares = [batches.shard(whole, World(rank, 2)) for rank in range(2)]
    assert [[len(batch) for batch in share] for share in shares] == [[2, 2, 2]] * 2
    seen = [position for share in shares for batch in share for position in batch]
    assert set(seen) == set(range(11)) and len(seen) == 12
