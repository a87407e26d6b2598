"""Tiles of an image: where they lie, what they show, and one answer out of many."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from amlocal.compat.annotations import Annotation
from amlocal.trainers.data import tiling
from amlocal.trainers.data.annotated import Annotated
from amlocal.trainers.data.detection_geometry import Longest, Resized
from amlocal.trainers.data.samples import Region
from amlocal.trainers.data.tiling import Grid, Part, annotations_in, merged
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models.detector import Detections


@pytest.mark.parametrize("text", ["3x2", "3X2", "(3, 2)", "(3,2)"])
def test_a_grid_is_columns_and_rows(text: str) -> None:
    assert Grid.parse(text, 0.25) == Grid(3, 2, 0.25)


@pytest.mark.parametrize("text", ["1x1", "3", "3x", "0x2", "3.5x2", "-1x2", "axb", "", "3x2x1"])
def test_what_is_no_grid(text: str) -> None:
    with pytest.raises(TrainingError, match=r"^tile_grid_size is "):
        Grid.parse(text, 0.25)


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 1.5, float("nan")])
def test_overlaps_that_cannot_be(overlap: float) -> None:
    with pytest.raises(TrainingError, match=r"^tile_overlap_ratio is .*at least 0 and below 1"):
        Grid.parse("3x2", overlap)


def test_tiles_of_3x2_that_overlap_by_a_quarter() -> None:
    # Wide: 1 / (0.25 + 0.75 x 3) = 0.4, each 0.3 after the one before; high: 1 / 1.75 = 4/7, 3/7 apart.
    found = Grid(3, 2, 0.25).regions()
    across, down = [(0.0, 0.4), (0.3, 0.7), (0.6, 1.0)], [(0.0, 4 / 7), (3 / 7, 1.0)]
    expected = [(left, top, right, bottom) for top, bottom in down for left, right in across]
    assert [pytest.approx(row) for row in expected] == found
    assert Grid(2, 1, 0.0).regions() == [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 0.95))
def test_tiles_cover_the_image_and_end_at_its_edges(columns: int, rows: int, overlap: float) -> None:
    found = Grid(columns, rows, overlap).regions()
    assert len(found) == columns * rows
    assert found[0][:2] == (0.0, 0.0) and found[-1][2:] == pytest.approx((1.0, 1.0))
    for before, after in pairwise(found[:columns]):
        shared = before[2] - after[0]
        assert shared == pytest.approx(overlap * (before[2] - before[0]), abs=1e-9)
    assert all(0 <= left < right <= 1 and 0 <= top < bottom <= 1 for left, top, right, bottom in found)


def test_objects_are_cut_at_the_edges_of_a_tile_and_slivers_left_out() -> None:
    region = (0.5, 0.0, 1.0, 0.5)
    inside = Annotation("a", (0.6, 0.1, 0.7, 0.2), crowd=True)
    half = Annotation("b", (0.4, 0.4, 0.6, 0.6))  # a quarter of it is shown
    sliver = Annotation("c", (0.1, 0.1, 0.52, 0.4))  # 0.02 of 0.42
    beside = Annotation("d", (0.1, 0.6, 0.4, 0.9))
    touching = Annotation("e", (0.2, 0.0, 0.5, 0.5))
    found = annotations_in([inside, half, sliver, beside, touching], region)
    assert [(one.label, one.crowd) for one in found] == [("a", True), ("b", False)]
    assert found[0].box == pytest.approx((0.2, 0.2, 0.4, 0.4))
    assert found[1].box == pytest.approx((0.0, 0.8, 0.2, 1.0))


@given(
    st.tuples(*(st.floats(0, 1) for _ in range(4))),
    st.integers(1, 8),
    st.integers(1, 8),
    st.floats(0, 0.9),
)
def test_boxes_in_tiles_are_boxes(
    corners: tuple[float, float, float, float], columns: int, rows: int, overlap: float
) -> None:
    a, b, c, d = corners
    box = min(a, c), min(b, d), max(a, c), max(b, d)
    for region in Grid(columns, rows, overlap).regions():
        for one in annotations_in([Annotation("a", box)], region):
            left, top, right, bottom = one.box
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


def test_an_image_is_followed_by_its_tiles() -> None:
    left = Annotation("a", (0.1, 0.1, 0.2, 0.2))
    rows = [
        Annotated(Path("/1"), "e", ("a",), "t:1", annotations=(left,)),
        Annotated(Path("/2"), "e", (), "t:2"),
    ]
    grid = Grid(2, 1, 0.0)
    wanted = tiling.tiled(rows, grid, empty=False)
    assert [(str(row.path), row.region) for row in wanted] == [
        ("/1", None),
        ("/1", (0.0, 0.0, 0.5, 1.0)),
        ("/2", None),
    ]
    assert wanted[1].annotations[0].box == pytest.approx((0.2, 0.1, 0.4, 0.2))
    every = tiling.tiled(rows, grid, empty=True)
    assert [row.region for row in every] == [None, *grid.regions()] * 2
    assert (every[2].annotations, every[2].labels) == ((), ())


def test_an_image_is_seen_whole_and_in_tiles() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    image = Image.fromarray(grey)
    (whole, pixels), *tiles = tiling.views(image, Longest(16), Grid(2, 1, 0.0))
    assert whole is None
    np.testing.assert_array_equal(pixels, grey)
    assert [region for region, _ in tiles] == [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]
    twice = np.asarray(image.resize((32, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(tiles[1][1], twice[:, 16:])
    assert [region for region, _ in tiling.views(image, Resized(8, 99), None)] == [None]


def seen(*rows: tuple[tuple[float, float, float, float], int, float]) -> Detections:
    return Detections(
        torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[1] for row in rows], dtype=torch.int64),
        torch.tensor([row[2] for row in rows], dtype=torch.float32),
    )


def whole(*rows: tuple[tuple[float, float, float, float], int, float]) -> Part:
    return Part(seen(*rows), (100, 200))


def tile(region: Region, *rows: tuple[tuple[float, float, float, float], int, float]) -> Part:
    return Part(seen(*rows), (200, 200), region)


LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


def test_boxes_of_tiles_go_back_to_their_place() -> None:
    box = (20.0, 40.0, 60.0, 80.0)
    found = merged([tile(RIGHT, (box, 1, 0.5)), whole(), tile(LEFT, (box, 2, 0.75))], 0.25)
    # 100 x 100 pixels of the whole are 200 x 200 of a tile.
    assert found.boxes.tolist() == [[10, 20, 30, 40], [110, 20, 130, 40]]
    assert found.labels.tolist() == [2, 1]
    assert found.scores.tolist() == [0.75, 0.5]


def test_one_object_in_two_parts_is_one_detection() -> None:
    found = merged(
        [
            whole(((10, 20, 30, 40), 0, 0.6)),
            tile(LEFT, ((22, 40, 62, 80), 0, 0.9), ((22, 40, 62, 80), 1, 0.2)),
        ],
        0.25,
    )
    assert found.labels.tolist() == [0, 1]
    assert found.boxes.tolist() == [[11, 20, 31, 40]] * 2


def test_what_one_part_shows_twice_stays() -> None:
    twice = (((20, 40, 60, 80), 0, 0.9), ((22, 40, 62, 80), 0, 0.8))
    assert len(merged([whole(), tile(LEFT, *twice)], 0.25)) == 2
    assert len(merged([whole(*twice)], 0.25)) == 2
    # A better one of another part suppresses both.
    assert merged([whole(((10, 20, 30, 40), 0, 0.95)), tile(LEFT, *twice)], 0.25).scores.tolist() == [
        pytest.approx(0.95)
    ]


def test_a_suppressed_box_suppresses_none() -> None:
    # 0.9 and 0.8 overlap by a third, 0.8 and 0.7 too, 0.9 and 0.7 not at all.
    first, second, third = (0, 0, 20, 20), (10, 0, 30, 20), (20, 0, 40, 20)
    parts = [
        whole((first, 0, 0.9)),
        Part(seen((second, 0, 0.8)), (100, 100), LEFT),
        Part(seen((third, 0, 0.7)), (100, 100), LEFT),
    ]
    assert merged(parts, 0.25).boxes.tolist() == [[0, 0, 20, 20], [20, 0, 40, 20]]
    # IoU 1/3 is not more than a threshold of 1/3 and a little.
    assert len(merged(parts, 0.34)) == 3


def test_a_threshold_must_be_passed() -> None:
    parts = [whole(((0, 0, 20, 20), 0, 0.9)), Part(seen(((0, 0, 20, 10), 0, 0.8)), (100, 100), LEFT)]
    assert len(merged(parts, 0.5)) == 2
    assert len(merged(parts, 0.49)) == 1
    # Boxes that do not meet stay even at a threshold of 0.
    apart = [whole(((0, 0, 20, 20), 0, 0.9)), Part(seen(((20, 0, 40, 20), 0, 0.8)), (100, 100), LEFT)]
    assert len(merged(apart, 0.0)) == 2


def test_merging_wants_the_whole_image_and_no_masks() -> None:
    with pytest.raises(ValueError, match="whole image"):
        merged([tile(LEFT)], 0.25)
    masks = Detections(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0), torch.zeros(0, 2, 2))
    with pytest.raises(ValueError, match="masks"):
        merged([Part(masks, (4, 4))], 0.25)
    assert len(merged([whole(), tile(LEFT)], 0.25)) == 0
