"""Sizes that detectors see, and objects that move with their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from amlocal.trainers.data import detection_geometry as geometry
from amlocal.trainers.data import images
from amlocal.trainers.data.detection_geometry import Longest, Resized, scaled
from amlocal.trainers.data.geometry import OfRegion
from amlocal.trainers.data.objects import Objects

SIDES = st.integers(1, 20_000)
LIMITS = st.tuples(st.integers(1, 2000), st.integers(1, 4000))


def boxes(*rows: tuple[float, float, float, float], polygons: bool = False) -> Objects:
    parts = None
    if polygons:
        parts = tuple((torch.tensor([[a, b], [c, b], [c, d]], dtype=torch.float32),) for a, b, c, d in rows)
    return Objects(
        torch.tensor(rows, dtype=torch.float32).reshape(-1, 4),
        torch.arange(len(rows)),
        torch.zeros(len(rows), dtype=torch.bool),
        parts,
    )


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (640, 480, (600, 800)),  # x 1.25
        (480, 640, (800, 600)),
        (2000, 500, (333, 1333)),  # x 1.2 would be 2400 wide; 500 x 0.6665 = 333.25
        (500, 2000, (1333, 333)),
        (1333, 600, (600, 1333)),  # as it is
        (600, 600, (600, 600)),
        (1000, 427, (569, 1333)),  # 427 x 1.333 = 569.191
        (100_000, 1, (1, 1333)),
        (1, 1, (600, 600)),
        (427, 500, (702, 600)),  # 500 x 600 / 427 = 702.58
    ],
)
def test_sizes_between_600_and_1333(width: int, height: int, expected: tuple[int, int]) -> None:
    assert scaled(width, height, 600, 1333) == expected
    assert Resized(600, 1333).size(width, height) == expected


@given(SIDES, SIDES, LIMITS)
def test_a_size_keeps_both_limits_and_stays_when_taken_again(
    width: int, height: int, limits: tuple[int, int]
) -> None:
    low, high = min(limits), max(limits)
    found = scaled(width, height, low, high)
    assert 1 <= min(found) <= low and max(found) <= high
    assert min(found) == low or max(found) == high
    assert scaled(found[1], found[0], low, high) == found
    assert (found[0] <= found[1]) == (height <= width) or found[0] == found[1]


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_sizes_are_torchvisions_but_for_its_rounding(width: int, height: int) -> None:
    scale = min(600 / min(width, height), 1333 / max(width, height))
    for ours, exact in zip(scaled(width, height, 600, 1333), (height * scale, width * scale), strict=True):
        assert ours == 1 or exact - 1.0001 < ours <= exact + 0.0001


def test_the_long_side_of_yolo() -> None:
    assert Longest(320).size(640, 480) == (240, 320)
    assert Longest(640).size(300, 100) == (213, 640)  # 213.33
    assert Longest(64).size(10_000, 1) == (1, 64)


@pytest.mark.parametrize("kind", [Resized(30, 50), Longest(64)])
def test_cached_pixels_are_the_whole_upright_image(kind: images.Any, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(grey).save(tmp_path / "a.png", exif=turned)
    with images.open_header(tmp_path / "a.png") as image:
        size = kind.size(*images.upright_size(image))
        found = kind.pixels(image)
    upright = Image.fromarray(np.rot90(grey, -1))
    assert size == found.shape[:2]
    np.testing.assert_array_equal(found, upright.resize(size[::-1], Image.Resampling.BILINEAR))


def test_a_region_is_cut_and_resized_at_once() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (4, 8, 3), dtype=np.uint8)
    image = Image.fromarray(grey)
    exact = OfRegion(Longest(4), (0.25, 0.0, 0.75, 1.0))
    assert exact.size(8, 4) == (4, 4)
    np.testing.assert_array_equal(exact.pixels(image), grey[:, 2:6])
    larger = OfRegion(Resized(6, 100), (0.5, 0.5, 1.0, 1.0))
    assert larger.size(8, 4) == (6, 12)
    # Its edges are as if the whole image had been resized.
    thrice = np.asarray(image.resize((24, 12), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(larger.pixels(image), thrice[6:, 12:])


def test_the_edges_of_a_region_may_lie_between_pixels() -> None:
    ramp = np.repeat(np.arange(10, dtype=np.uint8)[None, :, None] * 20, 3, axis=2)
    # Three pixels from 3.5 on: each lies between two of the image's.
    between = OfRegion(Longest(3), (0.35, 0.0, 0.65, 1.0)).pixels(Image.fromarray(ramp))
    assert between[0, :, 0].tolist() == [70, 90, 110]


def test_objects_move_with_a_resized_image() -> None:
    pixels = np.zeros((2, 4, 3), np.uint8)
    found, moved = geometry.fitted(pixels, boxes((1, 0, 3, 2), polygons=True), (6, 8))
    assert found.shape == (6, 8, 3)
    assert moved.boxes.tolist() == [[2, 0, 6, 6]]
    assert moved.polygons is not None
    assert moved.polygons[0][0].tolist() == [[2, 0], [6, 0], [6, 6]]
    same, still = geometry.fitted(pixels, moved, (2, 4))
    assert same is pixels and still is moved


def test_objects_of_a_mirrored_image() -> None:
    found = geometry.mirrored(boxes((1, 2, 4, 8), polygons=True), 10)
    assert found.boxes.tolist() == [[6, 2, 9, 8]]
    assert found.polygons is not None
    assert found.polygons[0][0].tolist() == [[9, 2], [6, 2], [6, 8]]


def test_boxes_are_cut_at_the_edges_and_those_without_an_area_removed() -> None:
    given = boxes(
        (-1, 2, 5, 9), (10, 1, 12, 3), (3, 3, 3.005, 7), (3, 3, 3.02, 7), (4, 8, 5, 9), polygons=True
    )
    found = geometry.sound(given, 8, 10)
    assert found.labels.tolist() == [0, 3]
    assert found.boxes[0].tolist() == [0, 2, 5, 8]
    assert found.polygons is not None and len(found.polygons) == 2
    fine = boxes((0, 0, 10, 8))
    assert geometry.sound(fine, 8, 10).boxes.tolist() == fine.boxes.tolist()
    assert len(geometry.sound(boxes(), 8, 10)) == 0


def test_an_image_with_masks_without_number_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "MOST_MASK_PIXELS", 1000)
    two = boxes((0, 0, 1, 1), (1, 1, 2, 2), polygons=True)
    assert geometry.affordable((100, 20), two) == (50, 10)  # a quarter of 2 x 2,000
    assert geometry.affordable((50, 10), two) == (50, 10)
    assert geometry.affordable((100, 20), boxes((0, 0, 1, 1))) == (100, 20)
