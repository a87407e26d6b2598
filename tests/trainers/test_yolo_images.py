"""Mosaic, window, letterbox: geometry worked out by hand, and drawn rectangles that boxes must follow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from amlocal.trainers.data import affine
from amlocal.trainers.data.affine import Part, View
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.letterbox import letterbox, network_side
from amlocal.trainers.data.mosaic import YoloAugmentation, mosaic
from amlocal.trainers.data.objects import Objects

RED, GREEN, BLUE, WHITE = (200, 0, 0), (0, 200, 0), (0, 0, 200), (250, 250, 250)


def objects(*boxes: tuple[float, float, float, float], label: int = 0) -> Objects:
    n = len(boxes)
    return Objects(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.full((n,), label),
        torch.zeros(n, dtype=torch.bool),
    )


def plain(height: int, width: int, colour: tuple[int, int, int]) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


class Half:
    """Images with objects; those of `unreadable` are left out."""

    def __init__(self, items: Sequence[tuple[Pixels, Objects]], unreadable: Sequence[int] = ()) -> None:
        self.items = items
        self.unreadable = unreadable
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.items)

    def get(self, which: Sequence[int]) -> list[tuple[int, Pixels, Objects]]:
        self.asked.append(list(which))
        return [(i, *self.items[i]) for i in which if i not in self.unreadable]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_four_images_meet_in_a_point_and_half_the_scale_shows_the_whole_canvas() -> None:
    four = [
        (plain(8, 8, RED), objects((0, 0, 8, 8))),
        (plain(4, 8, GREEN), objects((2, 0, 6, 4), label=1)),
        (plain(8, 4, BLUE), objects((0, 4, 4, 8), label=2)),
        (plain(16, 16, WHITE), objects((0, 0, 8, 16), label=3)),
    ]
    parts = mosaic(four, (6.0, 10.0), 8)
    # The last has 16 pixels where there is room for 8.
    assert [(p.left, p.top, p.scale) for p in parts] == [
        (-2, 2, 1), (6, 6, 1), (2, 10, 1), (6, 10, 0.5)
    ]  # fmt: skip
    view = View(16, 0.5, 8)
    expected = plain(8, 8, (114, 114, 114))
    expected[1:5, 0:3] = RED
    expected[3:5, 3:7] = GREEN
    expected[5:8, 1:3] = BLUE
    expected[5:8, 3:7] = WHITE
    assert np.array_equal(affine.painted(parts, view), expected)
    found = affine.seen(parts, view)
    # The green one's is 2 pixels wide, which is too little. The blue one's is 2 x 1 of 2 x 2.
    assert found.boxes.tolist() == [[0, 1, 3, 5]]
    assert found.labels.tolist() == [0]
    found = affine.seen(parts, view.resized(80))
    assert found.boxes.tolist() == [[0, 10, 30, 50], [40, 30, 60, 50], [10, 70, 30, 80], [30, 50, 50, 80]]
    assert found.labels.tolist() == [0, 1, 2, 3]


def test_a_window_larger_than_the_middle_of_the_canvas_cuts_what_lies_outside() -> None:
    # The canvas' coordinate 4 becomes 0 and 12 becomes 8.
    part = Part(plain(8, 8, RED), objects((0, 0, 8, 8), (5, 5, 8, 8)), 0.0, 0.0, 1.0)
    view = View(16, 1.0, 8)
    expected = plain(8, 8, (114, 114, 114))
    expected[:4, :4] = RED
    assert np.array_equal(affine.painted([part], view), expected)
    # A quarter of the first is more than 0.2; the second is whole.
    assert affine.seen([part], view).boxes.tolist() == [[0, 0, 4, 4], [1, 1, 4, 4]]
    assert affine.painted([part], View(16, 1.0, 8).resized(16))[:8, :8].tolist() == plain(8, 8, RED).tolist()
    nearer = View(16, 1.5, 8)
    # 8 pixels become 12, of which the last 4 are seen: 1/9.
    assert len(affine.seen([part], nearer)) == 1
    assert affine.seen([part], nearer).boxes.tolist() == [[0, 0, 4, 4]]


def test_what_is_left_of_a_box_decides_whether_it_stays() -> None:
    before = torch.tensor([
        [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 60, 3], [0, 0, 59, 3],
        [5, 5, 5, 5],
    ]).float()  # fmt: skip
    after = torch.tensor([
        [0, 0, 10, 10], [0, 0, 2, 10], [0, 0, 2.5, 8], [0, 0, 2.5, 8.1], [0, 0, 60, 3], [0, 0, 59, 3],
        [5, 5, 5, 5],
    ]).float()  # fmt: skip
    #          whole, 2 px wide, a fifth, a little more, 20 : 1, a little less, nothing
    expected = [True, False, False, True, False, True, False]
    assert affine.worth_keeping(before, after).tolist() == expected


def test_a_letterbox_puts_the_image_in_the_middle_and_tells_how_to_get_back() -> None:
    image = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    pixels, found, part = letterbox(image, objects((0, 0, 3, 2)), 4)
    assert (pixels[0] == 114).all() and (pixels[3] == 114).all()
    assert np.array_equal(pixels[1:3], image)
    # Two pixels high: too little for training, and the part still says where it lies.
    assert len(found) == 0
    assert (part.left, part.top, part.scale) == (0, 1, 1)
    pixels, found, part = letterbox(plain(40, 20, RED), objects((5, 10, 15, 30), label=4), 80)
    assert (part.left, part.top, part.scale) == (20, 0, 2)
    assert found.boxes.tolist() == [[30, 20, 50, 60]]
    assert ((found.boxes - torch.tensor([20, 0, 20, 0])) / 2).tolist() == [[5, 10, 15, 30]]
    assert (pixels[:, 20:60] == RED).all() and (pixels[:, :20] == 114).all() and (pixels[:, 60:] == 114).all()
    assert [network_side(size) for size in (1, 32, 33, 600, 640)] == [32, 32, 64, 608, 640]


def test_a_mirror_image_has_its_boxes_mirrored() -> None:
    image = np.zeros((4, 10, 3), np.uint8)
    image[:, 1:4] = 255
    pixels, found = affine.mirrored(image, objects((1, 0, 4, 4)))
    assert found.boxes.tolist() == [[6, 0, 9, 4]]
    assert (pixels[:, 6:9] == 255).all() and pixels.sum() == 255 * 3 * 3 * 4


def drawn(seed: int) -> tuple[Pixels, Objects]:
    """A black image with one bright rectangle; its label says which channel is bright."""
    random = np.random.default_rng(seed)
    height, width = (64, int(random.integers(30, 65))) if seed % 2 else (int(random.integers(30, 65)), 64)
    x, y = int(random.integers(0, width - 16)), int(random.integers(0, height - 16))
    w, h = int(random.integers(12, width - x + 1)), int(random.integers(12, height - y + 1))
    image = np.zeros((height, width, 3), np.uint8)
    image[y : y + h, x : x + w, seed % 3] = 255
    return image, objects((x, y, x + w, y + h), label=seed % 3)


@pytest.mark.parametrize("mosaics", [True, False])
@pytest.mark.parametrize("scales", [True, False])
def test_boxes_follow_what_is_drawn_through_every_change(mosaics: bool, scales: bool) -> None:
    half = Half([drawn(seed) for seed in range(12)])
    augmentation = YoloAugmentation(64, mosaic=mosaics, augment=True, multi_scale=scales)
    sides, several = set(), 0
    for seed in range(15):
        for pixels, found in augmentation.batch(half, [0, 5, 7], seeded(seed)):
            side = len(pixels)
            sides.add(side)
            assert pixels.shape == (side, side, 3) and pixels.dtype == np.uint8
            assert (found.boxes >= 0).all() and (found.boxes <= side).all()
            several = max(several, len(found))
            for box, label in zip(found.boxes.round().int().tolist(), found.labels.tolist(), strict=True):
                left, top, right, bottom = box
                inside = pixels[top + 1 : bottom - 1, left + 1 : right - 1, label]
                assert inside.size == 0 or inside.min() > 200, (seed, box)
                beyond = [
                    strip for strip in (
                        pixels[top : bottom, max(0, left - 3) : max(0, left - 2), label],
                        pixels[top : bottom, right + 2 : right + 3, label],
                        pixels[max(0, top - 3) : max(0, top - 2), left : right, label],
                        pixels[bottom + 2 : bottom + 3, left : right, label],
                    ) if strip.size
                ]  # fmt: skip
                # Where another rectangle of the same colour touches, an edge cannot be told.
                assert len(beyond) < 2 or min(strip.mean() for strip in beyond) < 200, (seed, box)
    assert sides == ({32, 64, 96} if scales else {64})
    assert several > 1 if mosaics else several == 1


def test_a_seed_repeats_a_batch_and_another_gives_another() -> None:
    half = Half([drawn(seed) for seed in range(8)])
    augmentation = YoloAugmentation(64, mosaic=True, augment=True, multi_scale=True)

    def batch(seed: int) -> list[Pixels]:
        return [pixels for pixels, _ in augmentation.batch(half, [1, 2, 3], seeded(seed))]

    first, again, other = batch(1), batch(1), batch(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    # Each image is asked for once, however often it appears.
    assert all(len(asked) == len(set(asked)) for asked in half.asked)


def test_without_augmentation_and_mosaic_each_image_is_letterboxed_only() -> None:
    half = Half([drawn(seed) for seed in range(4)])
    augmentation = YoloAugmentation(64, mosaic=False, augment=False, multi_scale=False)
    for (pixels, found), item in zip(
        augmentation.batch(half, [3, 0], seeded(0)), (half.items[3], half.items[0]), strict=True
    ):
        wanted, inside, _ = letterbox(*item, 64)
        assert np.array_equal(pixels, wanted)
        assert torch.equal(found.boxes, inside.boxes) and torch.equal(found.labels, inside.labels)
    assert half.asked == [[0, 3]]


def test_a_mosaic_without_augmentation_keeps_the_size_of_things() -> None:
    half = Half([(plain(64, 64, WHITE), objects((0, 0, 64, 64)))])
    ((pixels, found),) = YoloAugmentation(64, mosaic=True, augment=False, multi_scale=False).batch(
        half, [0], seeded(3)
    )
    # Wherever the four meet, they fill the middle of the canvas, which is all that is seen.
    assert (pixels == WHITE).all()
    assert sum(((b[2] - b[0]) * (b[3] - b[1])) for b in found.boxes.tolist()) <= 64 * 64


def test_unreadable_images_give_no_result_and_leave_their_place_in_others_grey() -> None:
    items = [(plain(64, 64, WHITE), objects((0, 0, 64, 64)))] * 2
    augmentation = YoloAugmentation(64, mosaic=True, augment=False, multi_scale=False)
    assert augmentation.batch(Half(items, unreadable=[0, 1]), [0, 1], seeded(0)) == []
    grey = 0
    for seed in range(6):
        found = augmentation.batch(Half(items, unreadable=[1]), [1, 0], seeded(seed))
        assert len(found) == 1
        colours = np.unique(found[0][0])
        assert set(colours.tolist()) <= {114, 250}
        grey += 114 in colours
    assert grey > 2


def test_images_without_objects_are_background() -> None:
    half = Half([(plain(64, 48, RED), objects())])
    for mosaics in (True, False):
        augmentation = YoloAugmentation(64, mosaic=mosaics, augment=True, multi_scale=False)
        ((pixels, found),) = augmentation.batch(half, [0], seeded(0))
        assert found.boxes.shape == (0, 4) and found.labels.dtype == torch.int64
        assert pixels.shape == (64, 64, 3)


def test_a_side_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32, not 100"):
        YoloAugmentation(100, mosaic=True, augment=True, multi_scale=False)
