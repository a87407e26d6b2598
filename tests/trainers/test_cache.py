from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amlocal.trainers.data import cache, images
from amlocal.trainers.data.samples import Sample


@pytest.fixture
def rows(tmp_path: Path) -> list[Sample]:
    rng = np.random.default_rng(5)
    found = []
    for number, (width, height) in enumerate([(90, 60), (33, 70), (20, 24), (64, 64)]):
        path = tmp_path / "images" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1
        pixels = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(path, exif=exif)
        found.append(Sample(path, f"e{number}", ("a",), f"t.jsonl:{number + 1}"))
    return found


@pytest.mark.parametrize("geometry", [cache.Validation(40, 32), cache.Training(32)], ids=repr)
def test_cached_pixels_are_the_uncached_ones(
    tmp_path: Path, rows: list[Sample], geometry: cache.Geometry, capsys: pytest.CaptureFixture[str]
) -> None:
    store, dropped = cache.open_store(rows, geometry, tmp_path / "cache", "test")
    assert dropped == []
    assert "decoding 4 test images once" in capsys.readouterr().out
    again, _ = cache.open_store(rows, geometry, tmp_path / "cache", "test")
    assert capsys.readouterr().out == ""
    uncached = cache.Uncached(rows, geometry)
    for index in range(len(rows)):
        assert np.array_equal(store[index], uncached[index])
        assert np.array_equal(again[index], uncached[index])
        assert not again[index].flags.writeable


def test_validation_pixels_are_those_that_scoring_sees(tmp_path: Path, rows: list[Sample]) -> None:
    store, _ = cache.open_store(rows, cache.Validation(40, 32), tmp_path / "cache", "test")
    for index, row in enumerate(rows):
        scored = images.for_validation(images.open_image(row.path.read_bytes()), 40, 32)
        assert np.array_equal(store[index], scored)


def test_training_images_keep_twice_the_crop_and_are_never_enlarged(
    tmp_path: Path, rows: list[Sample]
) -> None:
    store, _ = cache.open_store(rows, cache.Training(32), tmp_path / "cache", "test")
    assert [store[i].shape for i in range(4)] == [(32, 48, 3), (32, 67, 3), (24, 20, 3), (32, 32, 3)]


def test_the_key_follows_files_order_and_geometry(rows: list[Sample]) -> None:
    plain = cache.Validation(40, 32)
    seen = {
        cache.key(rows, plain),
        cache.key(rows, cache.Validation(40, 31)),
        cache.key(rows, cache.Training(40)),
        cache.key(rows[::-1], plain),
        cache.key(rows[:3], plain),
        cache.key([Sample(rows[0].path, "other", ("a",), "s:1"), *rows[1:]], plain),
    }
    relabelled = [Sample(row.path, row.etag, ("b",), "other:9") for row in rows]
    assert cache.key(relabelled, plain) in seen
    with rows[2].path.open("ab") as file:
        file.write(b"\0")
    seen.add(cache.key(rows, plain))
    assert len(seen) == 7


def test_unreadable_images_are_listed_with_their_line_also_from_a_finished_cache(
    tmp_path: Path, rows: list[Sample]
) -> None:
    rows[1].path.write_bytes(b"no image")
    rows[2].path.unlink()
    whole = rows[3].path.read_bytes()
    rows[3].path.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        store, dropped = cache.open_store(rows, cache.Validation(40, 32), tmp_path / "cache", "test")
        assert sorted(store.dropped) == [1, 2, 3]
        assert [(d.source, d.reason.split(":")[0]) for d in dropped] == [
            ("t.jsonl:2", "1.jpg"),
            ("t.jsonl:3", "2.jpg"),
            ("t.jsonl:4", "3.jpg"),
        ]
        assert "file not found" in dropped[1].reason
        assert store[0].any()


def test_all_images_unreadable_is_an_empty_store(tmp_path: Path) -> None:
    gone = [Sample(tmp_path / "gone.png", "e", ("a",), "t.jsonl:1")]
    store, dropped = cache.open_store(gone, cache.Training(8), tmp_path / "cache", "test")
    assert sorted(store.dropped) == [0]
    assert dropped[0].as_dict() == {"file": "t.jsonl", "line": 1, "reason": "gone.png: file not found"}


def test_an_unfinished_file_is_built_again(tmp_path: Path, rows: list[Sample]) -> None:
    geometry = cache.Validation(40, 32)
    cache.open_store(rows, geometry, tmp_path / "cache", "test")
    path = tmp_path / "cache" / f"{cache.key(rows, geometry)}.u8"
    path.write_bytes(path.read_bytes()[:-7])
    store, _ = cache.open_store(rows, geometry, tmp_path / "cache", "test")
    assert np.array_equal(store[3], cache.Uncached(rows, geometry)[3])
    assert sorted(p.suffix for p in (tmp_path / "cache").iterdir()) == [".lock", ".lock", ".u8"]


def test_trials_that_start_together_decode_once(
    tmp_path: Path, rows: list[Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    def open_one(_: int) -> cache.Store:
        return cache.open_store(rows, cache.Training(32), tmp_path / "cache", "test")[0]

    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(open_one, range(4)))
    assert capsys.readouterr().out.count("images once") == 1
    assert all(np.array_equal(store[0], stores[0][0]) for store in stores)


def test_a_full_disk_costs_speed_and_not_the_trial(
    tmp_path: Path, rows: list[Sample], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(handle: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    rows[2].path.write_bytes(b"no image")
    store, dropped = cache.open_store(rows, cache.Validation(40, 32), tmp_path / "cache", "test")
    assert "no room in" in capsys.readouterr().out
    assert [d.source for d in dropped] == ["t.jsonl:3"]
    assert store[0].shape == (32, 32, 3)
    assert {p.suffix for p in (tmp_path / "cache").iterdir()} == {".lock"}
