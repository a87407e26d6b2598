"""Outlines of masks: they cover what the mask covers, in few points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from amlocal.trainers.tasks.polygons import outlines, simplified

SCALE = 8


def grid(text: str) -> Any:
    return np.array([[cell == "#" for cell in line] for line in text.split()])


def covered(loops: list[Any], shape: tuple[int, int]) -> Any:
    """Which pixels have their middle inside a loop (even-odd rule for each loop, any of them)."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, dtype=bool)
    for loop in loops:
        crossings = np.zeros(shape, dtype=int)
        for (x0, y0), (x1, y1) in zip(loop, np.roll(loop, -1, axis=0), strict=True):
            if y0 != y1:
                at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                crossings += ((y0 <= y) != (y1 <= y)) & (x < at)
        inside |= crossings % 2 == 1
    return inside


def rings(loops: list[Any]) -> list[set[tuple[int, int]]]:
    return [{(int(x), int(y)) for x, y in loop} for loop in loops]


def test_a_rectangle_has_its_four_corners() -> None:
    mask = grid("..... .###. .###. .....")
    (loop,) = outlines(mask, 100)
    assert rings([loop]) == [{(1, 1), (4, 1), (4, 3), (1, 3)}]


def test_a_single_pixel_and_a_full_mask() -> None:
    assert rings(outlines(grid(".. .#"), 100)) == [{(1, 1), (2, 1), (2, 2), (1, 2)}]
    assert rings(outlines(np.ones((3, 5), dtype=bool), 100)) == [{(0, 0), (5, 0), (5, 3), (0, 3)}]
    assert outlines(np.zeros((3, 5), dtype=bool), 100) == []
    assert outlines(np.zeros((0, 5), dtype=bool), 100) == []


def test_parts_come_largest_first() -> None:
    found = outlines(grid("#..### ...### ......"), 100)
    assert [len(loop) for loop in found] == [4, 4]
    assert rings(found)[0] == {(3, 0), (6, 0), (6, 2), (3, 2)}


@pytest.mark.parametrize("text", ["#.. .#. ..#", "..# .#. #..", "#.# .#. #.#", ".#. #.# .#."])
def test_pixels_that_touch_at_a_corner_are_one_object(text: str) -> None:
    found = outlines(grid(text), 100)
    assert len(found) == 1


def test_holes_are_lost_and_so_is_what_lies_in_them() -> None:
    ring = grid("####### #.....# #.###.# #.###.# #.....# #######")
    assert rings(outlines(ring, 100)) == [{(0, 0), (7, 0), (7, 6), (0, 6)}]


@pytest.mark.parametrize("seed", range(6))
def test_unsimplified_outlines_cover_exactly_the_mask_without_its_holes(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amlocal.trainers.tasks import polygons

    monkeypatch.setattr(polygons, "TOLERANCE", 0.0)
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(40, 50)), seed / 2)
    mask = noise > 0
    found = outlines(mask, 10_000)
    assert (covered(found, mask.shape) == ndimage.binary_fill_holes(mask)).all()
    _, parts = ndimage.label(ndimage.binary_fill_holes(mask), np.ones((3, 3)))
    assert len(found) == parts


@pytest.mark.parametrize("most", [3, 4, 8, 25, 100])
def test_there_are_never_more_points_than_asked_for_and_more_fit_better(most: int) -> None:
    y, x = np.mgrid[:200, :300]
    star = np.hypot(x - 150, y - 100) < 60 + 30 * np.sin(7 * np.arctan2(y - 100, x - 150))
    (loop,) = outlines(star, most)
    assert 3 <= len(loop) <= most
    wrong = (covered([loop], star.shape) != star).sum() / star.sum()
    assert wrong < {3: 0.8, 4: 0.7, 8: 0.55, 25: 0.15, 100: 0.02}[most]


def test_a_disc_needs_few_points() -> None:
    y, x = np.mgrid[:200, :200]
    disc = np.hypot(x - 100, y - 100) < 80
    (loop,) = outlines(disc, 100)
    assert len(loop) < 40
    assert (covered([loop], disc.shape) != disc).sum() / disc.sum() < 0.02


def test_a_line_that_is_short_stays_as_it_is() -> None:
    triangle = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
    assert (simplified(triangle, 3) == triangle).all()
    assert len(simplified(np.array([[0.0, 0], [9, 0], [9, 9], [0, 9]]), 2)) == 3


def test_as_many_outlines_as_opencv_and_of_the_same_area() -> None:
    cv2 = pytest.importorskip("cv2")
    noise = ndimage.gaussian_filter(np.random.default_rng(11).normal(size=(120, 160)), 4)
    mask = noise > 0
    theirs, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = outlines(mask, 10_000)
    assert len(found) == len(theirs)
    image = Image.new("1", (160, 120))
    for contour in theirs:
        points = [tuple(point) for point in contour[:, 0].tolist()]
        ImageDraw.Draw(image).polygon(points if len(points) > 1 else points * 2, fill=1)
    ours = covered(found, mask.shape)
    assert (ours != np.asarray(image)).mean() < 0.02
