from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from amlocal.trainers.data import augment, batches

Change = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture
def pictures() -> Tensor:
    found = torch.rand(6, 3, 9, 11, generator=torch.Generator().manual_seed(2))
    found[0] = 0.5
    found[1, :, :4] = 0.0
    found[2, :, :4] = 1.0
    return found


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (augment.brightness, reference.adjust_brightness, [0.6, 0.9, 1.0, 1.1, 1.4, 1.3]),
        (augment.contrast, reference.adjust_contrast, [0.6, 0.9, 1.0, 1.1, 1.4, 1.3]),
        (augment.saturation, reference.adjust_saturation, [0.6, 0.9, 1.0, 1.1, 1.4, 1.3]),
        (augment.hue, reference.adjust_hue, [-0.4, -0.1, 0.0, 0.17, 0.33, 0.4]),
    ],
)
def test_colour_changes_are_torchvisions_with_a_number_for_each_image(
    pictures: Tensor, ours: Change, theirs: Callable[[Tensor, float], Tensor], values: list[float]
) -> None:
    expected = torch.stack([theirs(image, value) for image, value in zip(pictures, values, strict=True)])
    assert torch.allclose(ours(pictures.clone(), torch.tensor(values)), expected, atol=2e-3)


def test_about_half_are_mirrored_and_about_half_recoloured(pictures: Tensor) -> None:
    many = pictures[3:4].repeat(400, 1, 1, 1)
    found = augment.flip_and_jitter(many.clone(), batches.generator(1, 0))
    same = sum(torch.equal(image, many[0]) for image in found)
    mirrored = sum(torch.equal(image, many[0].flip(2)) for image in found)
    assert 70 < same < 130
    assert 70 < mirrored < 130
    assert found.min() >= 0.0
    assert found.max() <= 1.0


def test_crops_cover_azures_range_of_areas_and_aspects() -> None:
    source = batches.generator(3, 0)
    boxes = [augment.crop_box(300, 400, source) for _ in range(2000)]
    areas = [h * w / (300 * 400) for _, _, h, w in boxes]
    aspects = [w / h for _, _, h, w in boxes]
    assert all(t >= 0 and left >= 0 and t + h <= 300 and left + w <= 400 for t, left, h, w in boxes)
    assert min(areas) == pytest.approx(0.08, abs=0.01)
    assert max(areas) > 0.9
    assert min(aspects) == pytest.approx(0.75, abs=0.02)
    assert max(aspects) == pytest.approx(4 / 3, abs=0.02)
    theirs = v2.RandomResizedCrop(10)
    areas_there = [
        (lambda p: p["height"] * p["width"])(theirs.make_params([torch.empty(3, 300, 400)])) / (300 * 400)
        for _ in range(2000)
    ]
    assert np.mean(areas) == pytest.approx(np.mean(areas_there), abs=0.03)


def test_long_strips_fall_back_to_the_middle() -> None:
    assert augment.crop_box(1000, 1, batches.generator(1)) == (499, 0, 1, 1)
    assert augment.crop_box(10, 400, batches.generator(1))[2:] == (10, 13)


def test_a_crop_is_torchvisions_resized_crop() -> None:
    image = np.random.default_rng(1).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    ours = augment.random_resized_crops([image], 24, batches.generator(9))[0]
    top, left, height, width = augment.crop_box(70, 90, batches.generator(9))
    planes = torch.from_numpy(image).permute(2, 0, 1)
    theirs = reference.resized_crop(planes, top, left, height, width, [24, 24], antialias=True)
    assert (ours.int() - theirs.int()).abs().max() <= 1


def test_the_same_generator_repeats_a_batch() -> None:
    images = [np.random.default_rng(n).integers(0, 256, (40, 50, 3), dtype=np.uint8) for n in range(5)]

    def make(seed: int) -> Tensor:
        source = batches.generator(seed, 4, 1)
        return augment.flip_and_jitter(augment.random_resized_crops(images, 16, source).float() / 255, source)

    assert torch.equal(make(1), make(1))
    assert not torch.equal(make(1), make(2))


def test_batches_are_a_shuffle_that_seed_and_epoch_repeat() -> None:
    first = batches.shuffled(10, 4, batches.generator(1, 0))
    assert sorted(n for batch in first for n in batch) == list(range(10))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert first == batches.shuffled(10, 4, batches.generator(1, 0))
    assert first != batches.shuffled(10, 4, batches.generator(1, 1))
    assert first != batches.shuffled(10, 4, batches.generator(2, 0))


def test_a_single_image_left_over_joins_the_batch_before() -> None:
    assert batches.chunks(range(9), 4) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert [len(batch) for batch in batches.chunks(range(3), 1)] == [1, 1, 1]
    assert batches.chunks(range(1), 4) == [[0]]


def test_work_ahead_keeps_order_and_carries_errors_over() -> None:
    assert list(batches.ahead(lambda: iter(range(20)))) == list(range(20))

    def broken():
        yield 1
        raise KeyError("x")

    found = batches.ahead(broken)
    assert next(found) == 1
    with pytest.raises(KeyError):
        next(found)
