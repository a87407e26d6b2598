"""stream_image_files: nothing is read before it is needed, and decoded copies stay within the bound."""

from __future__ import annotations

import gc
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amlocal.trainers.data import cache, images, reading, streaming
from amlocal.trainers.data.samples import Sample

GEOMETRY = cache.Training(64)
EACH = 64 * 64 * 3


@pytest.fixture
def rows(tmp_path: Path, desk: Any) -> list[Sample]:
    return desk.rows(tmp_path / "images", 12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def bound_for(images: int, of: int = 12) -> int:
    return streaming._at(of) + images * EACH


def open_stream(
    rows: list[Sample], folder: Path, images: int | None = None, geometry: cache.Geometry = GEOMETRY
) -> cache.Store:
    limit = None if images is None else bound_for(images, len(rows))
    store, dropped = cache.open_store(rows, geometry, folder, "test", max_bytes=limit, stream=True)
    assert (dropped, store.dropped) == ([], {})
    return store


def test_nothing_is_read_before_the_first_image_is_asked_for(
    rows: list[Sample], folder: Path, desk: Any
) -> None:
    expected = desk.fresh(rows, GEOMETRY)
    content = [row.path.read_bytes() for row in rows]
    for row in rows:
        row.path.unlink()
    store = open_stream(rows, folder, images=5)
    for row, data in zip(rows, content, strict=True):
        row.path.write_bytes(data)
    assert all(np.array_equal(store[i], expected[i]) for i in range(12))


def test_a_set_larger_than_the_bound_is_kept_as_far_as_it_fits(
    rows: list[Sample], folder: Path, desk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = desk.fresh(rows, GEOMETRY)
    store = open_stream(rows, folder, images=5)
    for wanted in (12, 7, 7):
        with desk.counted() as decodes:
            for i in np.random.default_rng(wanted).permutation(12) if wanted == 12 else range(12):
                assert np.array_equal(store[i], expected[i])
        assert decodes == [wanted]
        assert 5 * EACH < desk.on_disk(folder) <= bound_for(5)
    assert capsys.readouterr().out.count("cache_max_gb leaves room for no more decoded test images") == 1


def test_without_a_bound_everything_is_kept_and_the_next_trial_decodes_nothing(
    rows: list[Sample], folder: Path, desk: Any
) -> None:
    for wanted in (12, 0):
        store = open_stream(rows, folder)
        with desk.counted() as decodes:
            for _epoch in range(2):
                assert all(store[i].any() for i in range(12))
        assert decodes == [wanted]


def test_validation_pixels_are_equal_whether_kept_or_not(rows: list[Sample], folder: Path, desk: Any) -> None:
    geometry = cache.Validation(40, 32)
    store = open_stream(rows, folder, geometry=geometry)
    for pixels in (desk.fresh(rows, geometry), [store[i] for i in range(12)], [store[i] for i in range(12)]):
        for row, found in zip(rows, pixels, strict=True):
            assert np.array_equal(found, images.for_validation(images.open_image(row.path), 40, 32))


def test_images_of_different_sizes_share_the_room(tmp_path: Path, folder: Path, desk: Any) -> None:
    rows = [*desk.rows(tmp_path / "a", 4, (64, 96)), *desk.rows(tmp_path / "b", 4, (32, 40))]
    geometry = cache.Training(200)
    limit = streaming._at(8) + 3 * 64 * 96 * 3 + 2 * 32 * 40 * 3 + 100
    store, _ = cache.open_store(rows, geometry, folder, "test", max_bytes=limit, stream=True)
    expected = desk.fresh(rows, geometry)
    for _ in range(2):
        assert all(np.array_equal(store[i], expected[i]) for i in range(8))
    assert desk.on_disk(folder) <= limit


def test_two_sets_and_an_ordinary_cache_keep_to_one_bound(tmp_path: Path, folder: Path, desk: Any) -> None:
    sets = [desk.rows(tmp_path / name, 8) for name in "abc"]
    limit = 10 * EACH + 2 * streaming._at(8) + 300 * 9
    stores = [
        cache.open_store(rows, GEOMETRY, folder, "test", max_bytes=limit, stream=stream)[0]
        for rows, stream in zip(sets, (False, True, True), strict=True)
    ]
    for store, rows in zip(stores, sets, strict=True):
        expected = desk.fresh(rows, GEOMETRY)
        assert all(np.array_equal(store[i], expected[i]) for i in range(8))
    assert 10 * EACH <= desk.on_disk(folder) <= limit


def test_an_unused_old_file_makes_way(tmp_path: Path, rows: list[Sample], folder: Path, desk: Any) -> None:
    old = desk.rows(tmp_path / "old", 12)
    cache.open_store(old, GEOMETRY, folder, "test")
    gc.collect()
    store = open_stream(rows, folder, images=12)
    assert all(store[i].any() for i in range(12))
    with desk.counted() as decodes:
        assert all(store[i].any() for i in range(12))
    assert decodes == [0]
    assert [path.suffix for path in folder.iterdir() if path.suffix != ".lock"] == [".slots"]


def test_no_room_at_all_leaves_no_file(
    rows: list[Sample], folder: Path, desk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = cache.open_store(rows, GEOMETRY, folder, "test", max_bytes=10, stream=True)
    with desk.counted() as decodes:
        for _ in range(2):
            assert np.array_equal(store[4], desk.fresh(rows[4:5], GEOMETRY)[0])
    assert decodes == [4]
    assert desk.on_disk(folder) == 0
    assert "cache_max_gb leaves no room for decoded test images" in capsys.readouterr().out


def test_unreadable_images_are_errors_when_they_are_met_and_only_then(
    rows: list[Sample], folder: Path
) -> None:
    rows[1].path.write_bytes(b"no image")
    rows[2].path.unlink()
    whole = rows[3].path.read_bytes()
    rows[3].path.write_bytes(whole[: len(whole) // 2])
    store = open_stream(rows, folder)
    for _epoch in range(2):
        found = reading.read(store, [0, 1, 2, 3, 4])
        assert [type(one).__name__ for one in found] == ["ndarray", *["ImageError"] * 3, "ndarray"]
        assert [str(one).split("(")[0].strip() for one in found[1:4]] == [
            "not an image in a known format",
            "file not found",
            "cannot be decoded",
        ]
    rows[3].path.write_bytes(whole)
    assert store[3].shape == (64, 64, 3)


def test_a_batch_is_read_in_order_on_several_threads(rows: list[Sample], folder: Path, desk: Any) -> None:
    store = open_stream(rows, folder, images=3)
    expected = desk.fresh(rows, GEOMETRY)
    order = [7, 0, 0, 11, 3, 7]
    for _ in range(2):
        found = reading.read(store, order)
        assert all(np.array_equal(one, expected[i]) for one, i in zip(found, order, strict=True))


def test_stores_that_read_together_keep_to_the_bound_and_agree(
    rows: list[Sample], folder: Path, desk: Any
) -> None:
    expected = desk.fresh(rows, GEOMETRY)
    stores = [open_stream(rows, folder, images=6) for _ in range(4)]

    def epoch(number: int) -> bool:
        order = np.random.default_rng(number).permutation(12)
        return all(np.array_equal(stores[number % 4][i], expected[i]) for i in order)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(epoch, range(12)))
    assert desk.on_disk(folder) == bound_for(6)
    with desk.counted() as decodes:
        assert all(stores[0][i].any() for i in range(12))
    assert decodes == [6]


def read_all(rows: list[Sample], folder: Path, expected: list[Any]) -> None:
    store = open_stream(rows, folder, images=6)
    for _ in range(3):
        assert all(np.array_equal(store[i], expected[i]) for i in range(12))


def test_processes_share_one_file(rows: list[Sample], folder: Path, desk: Any) -> None:
    expected = desk.fresh(rows, GEOMETRY)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=read_all, args=(rows, folder, expected)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert desk.on_disk(folder) == bound_for(6)


def slots(folder: Path) -> Path:
    return next(folder.glob("*.slots"))


def test_pixels_that_a_power_cut_tore_are_decoded_again(rows: list[Sample], folder: Path, desk: Any) -> None:
    store = open_stream(rows, folder)
    expected = [store[i].copy() for i in range(12)]
    del store
    gc.collect()
    with slots(folder).open("r+b") as file:
        file.seek(streaming._at(12) + 2 * EACH + 100)
        file.write(bytes(500))
    os.truncate(slots(folder), slots(folder).stat().st_size - 10)
    with desk.counted() as decodes:
        store = open_stream(rows, folder)
        assert all(np.array_equal(store[i], expected[i]) for i in range(12))
    assert decodes == [2]


def test_a_place_that_a_killed_process_left_empty_is_no_image(
    rows: list[Sample], folder: Path, desk: Any
) -> None:
    store = open_stream(rows, folder)
    with slots(folder).open("r+b") as file:
        file.seek(streaming._at(4))
        file.write(streaming._RECORD.pack(streaming._at(12), 0, 0, 0))
    for _ in range(2):
        assert np.array_equal(store[4], desk.fresh(rows[4:5], GEOMETRY)[0])


@pytest.mark.parametrize("content", [b"", b"something else" * 100])
def test_a_file_that_is_none_of_ours_is_replaced(
    rows: list[Sample], folder: Path, desk: Any, content: bytes
) -> None:
    folder.mkdir()
    name = cache.key(rows, GEOMETRY, stream=True)
    (folder / f"{name}.slots").write_bytes(content)
    store = open_stream(rows, folder)
    for _ in range(2):
        assert np.array_equal(store[0], desk.fresh(rows[:1], GEOMETRY)[0])
    assert slots(folder).read_bytes()[:8] == b"amlslot1"
