"""cache_max_gb without streaming: what fits is decoded once, nothing goes beyond, old files make way."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amlocal.trainers.data import cache, room
from amlocal.trainers.data.samples import Sample

GEOMETRY = cache.Training(64)
EACH = 64 * 64 * 3


@pytest.fixture
def rows(tmp_path: Path, desk: Any) -> list[Sample]:
    return desk.rows(tmp_path / "images", 10)


def bound_for(images: int, of: int) -> int:
    """The least bound under which so many images of a set are kept."""
    return images * EACH + 300 * (of + 1)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix == ".u8"}


def test_two_epochs_and_a_second_trial_decode_each_image_once(
    tmp_path: Path, rows: list[Sample], desk: Any
) -> None:
    with desk.counted() as decodes:
        for _trial in range(2):
            store, _ = cache.open_store(rows, GEOMETRY, tmp_path / "cache", "test")
            for _epoch in range(2):
                assert [store[i].shape for i in range(10)] == [(64, 64, 3)] * 10
    assert decodes == [10]
    assert not store.decodes


def test_what_does_not_fit_is_decoded_each_time_and_nothing_goes_beyond_the_bound(
    tmp_path: Path, rows: list[Sample], capsys: pytest.CaptureFixture[str], desk: Any
) -> None:
    limit = bound_for(4, of=10)
    expected = desk.fresh(rows, GEOMETRY)
    with desk.counted() as building:
        store, dropped = cache.open_store(rows, GEOMETRY, tmp_path / "cache", "test", max_bytes=limit)
    assert (building, dropped, store.decodes) == ([10], [], True)
    assert "cache_max_gb leaves room for 4 of 10 decoded test images" in capsys.readouterr().out
    with desk.counted() as epochs:
        for _ in range(2):
            assert all(np.array_equal(store[i], expected[i]) for i in range(10))
    assert epochs == [12]
    assert EACH * 4 < desk.on_disk(tmp_path / "cache") <= limit
    with desk.counted() as second:
        again, _ = cache.open_store(rows, GEOMETRY, tmp_path / "cache", "test", max_bytes=limit)
        assert all(np.array_equal(again[i], expected[i]) for i in range(10))
    assert second == [6]
    assert capsys.readouterr().out.count("leaves room for 4 of 10") == 1


def test_smaller_images_behind_a_large_one_still_find_room(tmp_path: Path, desk: Any) -> None:
    large = desk.rows(tmp_path / "large", 1, (64, 256))
    small = desk.rows(tmp_path / "small", 3)
    limit = 3 * EACH + 300 * 5
    store, _ = cache.open_store([*large, *small], GEOMETRY, tmp_path / "c", "test", max_bytes=limit)
    with desk.counted() as decodes:
        assert [store[i].shape[:2] for i in range(4)] == [(256, 64), (64, 64), (64, 64), (64, 64)]
    assert decodes == [1]


def test_unreadable_images_are_known_beforehand_even_where_they_would_not_be_kept(
    tmp_path: Path, rows: list[Sample]
) -> None:
    rows[9].path.write_bytes(rows[9].path.read_bytes()[:200])
    limit = bound_for(2, of=10)
    for _ in range(2):
        _, dropped = cache.open_store(rows, GEOMETRY, tmp_path / "cache", "test", max_bytes=limit)
        assert [row.source for row in dropped] == ["t.jsonl:10"]


@pytest.mark.parametrize("limit", [0, 100])
def test_no_room_at_all_leaves_no_file(
    tmp_path: Path, rows: list[Sample], limit: int, capsys: pytest.CaptureFixture[str], desk: Any
) -> None:
    store, _ = cache.open_store(rows, GEOMETRY, tmp_path / "cache", "test", max_bytes=limit)
    assert "cache_max_gb leaves no room for decoded test images" in capsys.readouterr().out
    assert np.array_equal(store[3], desk.fresh(rows[3:4], GEOMETRY)[0])
    assert desk.on_disk(tmp_path / "cache") == 0


def test_the_least_recently_used_file_makes_way_and_one_in_use_never(tmp_path: Path, desk: Any) -> None:
    folder = tmp_path / "cache"
    sets = [desk.rows(tmp_path / name, 4) for name in "abcd"]
    limit = 3 * bound_for(4, of=4)

    def open_set(number: int) -> cache.Store:
        return cache.open_store(sets[number], GEOMETRY, folder, "test", max_bytes=limit)[0]

    file = [f"{cache.key(rows, GEOMETRY)}.u8" for rows in sets]
    for number in range(3):
        open_set(number)
        os.utime(folder / file[number], (1000 + number, 1000 + number))
    gc.collect()
    assert names(folder) == set(file[:3])
    in_use = open_set(0)
    os.utime(folder / file[0], (1, 1))
    newest = open_set(3)
    assert not newest.decodes
    assert names(folder) == {file[0], file[2], file[3]}
    assert desk.on_disk(folder) <= limit
    with desk.counted() as decodes:
        for i in range(4):
            assert np.array_equal(in_use[i], newest[i])
    assert decodes == [0]


def test_opening_a_file_makes_it_the_most_recently_used(tmp_path: Path, rows: list[Sample]) -> None:
    cache.open_store(rows, GEOMETRY, tmp_path / "cache", "test")
    path = next((tmp_path / "cache").glob("*.u8"))
    os.utime(path, (1, 1))
    cache.open_store(rows, GEOMETRY, tmp_path / "cache", "test")
    assert path.stat().st_mtime > 1_000_000


def test_while_others_hold_the_room_a_new_set_gets_only_the_rest(tmp_path: Path, desk: Any) -> None:
    one, two = desk.rows(tmp_path / "one", 6), desk.rows(tmp_path / "two", 6)
    limit = bound_for(8, of=6) + 300 * 7
    held, _ = cache.open_store(one, GEOMETRY, tmp_path / "cache", "test", max_bytes=limit)
    partly, _ = cache.open_store(two, GEOMETRY, tmp_path / "cache", "test", max_bytes=limit)
    assert (held.decodes, partly.decodes) == (False, True)
    assert desk.on_disk(tmp_path / "cache") <= limit
    del held, partly
    gc.collect()
    whole, _ = cache.open_store(two, GEOMETRY, tmp_path / "cache", "test", max_bytes=limit)
    assert not whole.decodes
    assert names(tmp_path / "cache") == {f"{cache.key(two, GEOMETRY)}.u8"}


def test_a_bound_that_was_lowered_holds_from_the_next_trial_on(
    tmp_path: Path, rows: list[Sample], desk: Any
) -> None:
    other = desk.rows(tmp_path / "other", 10)
    for some in (rows, other):
        cache.open_store(some, GEOMETRY, tmp_path / "cache", "test")
    gc.collect()
    limit = bound_for(5, of=10)
    store, _ = cache.open_store(rows, GEOMETRY, tmp_path / "cache", "test", max_bytes=limit)
    with desk.counted() as decodes:
        assert all(store[i].any() for i in range(10))
    assert decodes == [5]
    assert desk.on_disk(tmp_path / "cache") <= limit
    with desk.counted() as decodes:
        whole, _ = cache.open_store(other, GEOMETRY, tmp_path / "cache", "test")
    assert decodes == [10]
    assert not whole.decodes
    gc.collect()
    limit = bound_for(10, of=10)
    cache.open_store(other, GEOMETRY, tmp_path / "cache", "test", max_bytes=limit)
    assert names(tmp_path / "cache") >= {f"{cache.key(other, GEOMETRY)}.u8"}


def test_what_a_killed_build_left_is_swept_and_a_living_build_is_not(
    tmp_path: Path, rows: list[Sample]
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / ".dead.u8.1.tmp").write_bytes(b"x" * 1000)
    here = room.Room(folder, None)
    with here.lock():
        living = here.make(folder / ".alive.u8.2.tmp")
    with living:
        cache.open_store(rows, GEOMETRY, folder, "test")
        assert {path.name for path in folder.iterdir() if path.suffix == ".tmp"} == {".alive.u8.2.tmp"}


def test_a_file_that_went_away_while_it_was_opened_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "a.u8"
    path.write_bytes(b"1")
    with path.open("rb") as old:
        path.unlink()
        path.write_bytes(b"2")
        assert room._gone(old, path)
    with room.hold(path) as new:
        assert new.read() == b"2"
        assert room.Room(tmp_path, 0).remove(path) is False
    assert room.Room(tmp_path, 0).remove(path) is True
    with pytest.raises(FileNotFoundError):
        room.hold(path)
