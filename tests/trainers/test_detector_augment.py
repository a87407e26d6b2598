"""Crops, canvases and mirror images: objects go where their pixels go."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amlocal.trainers.data import detection_augment
from amlocal.trainers.data.detection_augment import COLOUR, Augmentation, crop_box, expanded
from amlocal.trainers.data.detection_geometry import Resized
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.objects import Objects

HEIGHT, WIDTH = 40, 60
BOXES = [(10, 8, 30, 20), (12, 15, 50, 33), (20, 9, 21, 10)]


def as_it_is(width: int, height: int) -> tuple[int, int]:
    return height, width


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered() -> Pixels:
    """Each pixel tells where it was: x, y and a third number that the canvas does not have."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., 0] = np.arange(WIDTH)
    pixels[..., 1] = np.arange(HEIGHT)[:, None]
    pixels.flags.writeable = False
    return pixels


def objects(rows: list[tuple[int, int, int, int]] = BOXES) -> Objects:
    return Objects(
        torch.tensor(rows, dtype=torch.float32).reshape(-1, 4),
        torch.arange(len(rows)),
        torch.zeros(len(rows), dtype=torch.bool),
        tuple((torch.tensor([[a, b], [c, b], [c, d]], dtype=torch.float32),) for a, b, c, d in rows),
    )


def patch(pixels: Pixels, box: torch.Tensor) -> Pixels:
    left, top, right, bottom = (int(value) for value in box.tolist())
    return pixels[top:bottom, left:right]


@pytest.mark.parametrize("seed", range(60))
def test_every_object_keeps_its_pixels_and_its_polygon(seed: int) -> None:
    before, source = objects(), numbered()
    pixels, after = Augmentation(as_it_is)(source, before, generator(seed))
    assert after.labels.tolist() == [0, 1, 2]
    assert after.polygons is not None and before.polygons is not None
    seen = pixels[..., 2] == 0
    first = pixels[seen][:2, 0].astype(int)
    mirror = bool(first[0] > first[1])
    for number in range(3):
        old, new = patch(source, before.boxes[number]), patch(pixels, after.boxes[number])
        np.testing.assert_array_equal(new, old[:, ::-1] if mirror else old)
        # The first and the last corner of the polygon are still left and top, right and bottom of its box.
        left, top, right, bottom = after.boxes[number].tolist()
        start, end = (right, left) if mirror else (left, right)
        assert after.polygons[number][0].tolist() == [[start, top], [end, top], [end, bottom]]
    assert before.boxes.tolist() == [list(map(float, row)) for row in BOXES]


def test_a_quarter_is_cropped_a_quarter_enlarged_and_half_are_mirrored() -> None:
    augmentation, source, before = Augmentation(as_it_is), numbered(), objects()
    kinds, mirrored, draws = {"crop": 0, "canvas": 0, "plain": 0}, 0, 600
    for seed in range(draws):
        pixels, _ = augmentation(source, before, generator(seed))
        area = pixels.shape[0] * pixels.shape[1]
        kinds["plain" if area == HEIGHT * WIDTH else "crop" if area < HEIGHT * WIDTH else "canvas"] += 1
        first = pixels[pixels[..., 2] == 0][:2, 0].astype(int)
        mirrored += int(first[0] > first[1])
    # Four standard deviations; a crop may find nothing and be none.
    assert 0.18 <= kinds["crop"] / draws <= 0.33
    assert 0.18 <= kinds["canvas"] / draws <= 0.33
    assert 0.42 <= mirrored / draws <= 0.58


@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(1, 300), st.data())
@settings(max_examples=150)
def test_a_crop_holds_all_objects_and_most_of_the_image(
    seed: int, height: int, width: int, data: st.DataObject
) -> None:
    rows = data.draw(
        st.lists(
            st.tuples(*(st.floats(0, 1) for _ in range(4))).map(
                lambda r: (
                    min(r[0], r[2]) * width,
                    min(r[1], r[3]) * height,
                    max(r[0], r[2]) * width,
                    max(r[1], r[3]) * height,
                )
            ),
            max_size=4,
        )
    )
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    found = crop_box(boxes, height, width, generator(seed))
    if found is None:
        return
    left, top, right, bottom = found
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert (boxes[:, 0] >= left).all() and (boxes[:, 2] <= right).all()
    assert (boxes[:, 1] >= top).all() and (boxes[:, 3] <= bottom).all()
    assert (right - left) * (bottom - top) >= 0.6 * width * height
    assert 0.5 < (bottom - top) / (right - left) < 2


def test_crops_reach_every_edge_that_the_objects_leave() -> None:
    boxes = torch.tensor([[2.5, 1.0, 9.0, 8.2]])
    found = [crop_box(boxes, 10, 12, generator(seed)) for seed in range(300)]
    edges = [{box[side] for box in found if box is not None} for side in range(4)]
    assert edges == [{0, 1, 2}, {0, 1}, {9, 10, 11, 12}, {9, 10}]


@pytest.mark.parametrize(
    ("rows", "size"),
    [
        ([], (10, 12)),  # nothing to go round
        ([(2.0, 1.0, 9.0, 10.5)], (10, 12)),  # beyond the image
        ([(-1.0, 1.0, 9.0, 8.0)], (10, 12)),
        ([(1.0, 1.0, 99.0, 9.0)], (10, 100)),  # too wide whatever is cut
    ],
)
def test_where_no_crop_is_made(rows: list[tuple[float, ...]], size: tuple[int, int]) -> None:
    boxes = torch.tensor(rows).reshape(-1, 4)
    assert crop_box(boxes, *size, generator(0)) is None
    pixels = np.zeros((*size, 3), np.uint8)
    given = Objects(boxes, torch.zeros(len(rows), dtype=torch.int64), torch.zeros(len(rows)).bool())
    assert detection_augment.cropped(pixels, given, generator(0)) == (pixels, given)


def test_an_image_on_a_canvas_is_resized_once() -> None:
    pixels = np.full((4, 4, 3), 200, np.uint8)
    found, moved = expanded(pixels, objects([(1, 1, 3, 2)]), 2.0, (0.5, 0.25), lambda width, height: (16, 16))
    # The canvas of 8 x 8 becomes 16 x 16, the image on it 8 x 8; 9 places each way: 4.5 and 2.25, cut.
    expected = np.empty((16, 16, 3), np.uint8)
    expected[:] = COLOUR
    expected[2:10, 4:12] = 200
    np.testing.assert_array_equal(found, expected)
    assert moved.boxes.tolist() == [[6, 4, 10, 6]]
    assert moved.polygons is not None
    assert moved.polygons[0][0].tolist() == [[6, 4], [10, 4], [10, 6]]


@pytest.mark.parametrize(("place", "corner"), [((0.0, 0.0), (0, 0)), ((0.999999, 0.999999), (30, 20))])
def test_the_image_lies_within_its_canvas(place: tuple[float, float], corner: tuple[int, int]) -> None:
    found, moved = expanded(numbered(), objects(), 1.5, place, as_it_is)
    assert found.shape == (60, 90, 3)
    left, top = corner
    np.testing.assert_array_equal(found[top : top + HEIGHT, left : left + WIDTH], numbered())
    assert (moved.boxes - objects().boxes).tolist() == [[left, top, left, top]] * 3


def test_without_augmentation_an_image_is_resized_only() -> None:
    source = generator(3)
    before = source.get_state()
    plain = Augmentation(lambda width, height: (2 * height, 2 * width), enabled=False)
    pixels, found = plain(numbered(), objects(), source)
    assert pixels.shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert found.boxes.tolist() == [[2.0 * value for value in row] for row in BOXES]
    assert torch.equal(source.get_state(), before)
    same, _ = Augmentation(as_it_is, enabled=False)(pixels, found, source)
    assert same is pixels


def test_images_come_out_between_the_sizes_of_the_network() -> None:
    geometry = Resized(30, 48)
    augmentation = Augmentation(geometry.size)
    for seed in range(40):
        pixels, found = augmentation(numbered(), objects(), generator(seed))
        height, width = pixels.shape[:2]
        assert min(height, width) == 30 or max(height, width) == 48
        assert min(height, width) <= 30 and max(height, width) <= 48
        assert (found.boxes[:, 2] <= width).all() and (found.boxes[:, 3] <= height).all()


def test_objects_of_which_nothing_is_left_are_removed() -> None:
    thin = objects([(10, 10, 30, 30), (5, 5, 6, 39)])
    tiny = Augmentation(lambda width, height: (height, max(1, width // 150)), enabled=False)
    _, found = tiny(np.zeros((40, 300, 3), np.uint8), thin, generator(0))
    assert found.labels.tolist() == [0]
    assert found.polygons is not None and len(found.polygons) == 1


def test_a_seed_repeats_a_batch_and_another_does_not() -> None:
    augmentation = Augmentation(as_it_is)
    items = [(numbered(), objects())] * 6

    def batch(seed: int) -> list[tuple[bytes, list[list[float]]]]:
        return [(p.tobytes(), o.boxes.tolist()) for p, o in augmentation.batch(items, generator(seed))]

    first = batch(5)
    assert batch(5) == first != batch(6)
    assert len({pixels for pixels, _ in first}) > 1
    alone = augmentation.batch(items[:1], generator(5))[0]
    assert alone[0].tobytes() == first[0][0]
