from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from amlocal.trainers.data import augment, batches, colour
from amlocal.trainers.data.images import Pixels

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
        (colour.brightness, reference.adjust_brightness, [0.6, 0.9, 1.0, 1.1, 1.4, 1.3]),
        (colour.contrast, reference.adjust_contrast, [0.6, 0.9, 1.0, 1.1, 1.4, 1.3]),
        (colour.saturation, reference.adjust_saturation, [0.6, 0.9, 1.0, 1.1, 1.4, 1.3]),
        (colour.hue, reference.adjust_hue, [-0.4, -0.1, 0.0, 0.17, 0.33, 0.4]),
    ],
)
def test_colour_changes_are_torchvisions_with_a_number_for_each_image(
    pictures: Tensor, ours: Change, theirs: Callable[[Tensor, float], Tensor], values: list[float]
) -> None:
    expected = torch.stack([theirs(image, value) for image, value in zip(pictures, values, strict=True)])
    assert torch.allclose(ours(pictures.clone(), torch.tensor(values)), expected, atol=2e-3)


def test_colours_are_changed_in_place_and_stay_in_range(pictures: Tensor) -> None:
    for change in (colour.brightness, colour.contrast, colour.saturation):
        images = pictures.clone()
        assert change(images, torch.tensor([0.6, 1.4] * 3)) is images
        assert 0 <= images.min() <= images.max() <= 1
    images = pictures.clone()
    assert colour.hue(images, torch.tensor([0.4, -0.4] * 3)) is images
    assert torch.allclose(images.amax(1), pictures.amax(1), atol=1e-6)
    assert torch.allclose(images.amin(1), pictures.amin(1), atol=1e-6)


def test_a_whole_turn_of_hue_is_torchvisions_everywhere_on_the_circle() -> None:
    circle = torch.linspace(0, 1, 241)
    hsv = torch.stack((circle, torch.full_like(circle, 0.7), torch.full_like(circle, 0.8)))
    wave = lambda n: 0.8 - 0.56 * (lambda k: torch.minimum(k, 4 - k).clamp(0, 1))((n + hsv[0] * 6) % 6)  # noqa: E731
    image = torch.stack((wave(5), wave(3), wave(1))).view(1, 3, 1, -1)
    for turn in (-0.4, -0.25, -1 / 6, 0.0, 0.1, 1 / 3, 0.4):
        ours = colour.hue(image.clone(), torch.tensor([turn]))
        assert torch.allclose(ours[0], reference.adjust_hue(image[0], turn), atol=1e-4)


def test_about_half_are_mirrored_and_about_half_recoloured(pictures: Tensor) -> None:
    many = pictures[3:4].repeat(400, 1, 1, 1)
    found = augment.flip_and_jitter(many.clone(), batches.generator(1, 0))
    same = sum(torch.equal(image, many[0]) for image in found)
    mirrored = sum(torch.equal(image, many[0].flip(2)) for image in found)
    assert 70 < same < 130
    assert 70 < mirrored < 130
    assert found.min() >= 0.0
    assert found.max() <= 1.0


def test_share_and_ranges_of_mirror_images_and_colour_changes() -> None:
    n = 20_000
    found = augment.Changes.draw(n, batches.generator(5, 0))
    assert found.flips.float().mean().item() == pytest.approx(0.5, abs=0.015)
    assert len(found.chosen) / n == pytest.approx(0.5, abs=0.015)
    both = found.flips[found.chosen].float().mean().item()
    assert both == pytest.approx(0.5, abs=0.02)  # one does not depend on the other
    for column, (low, high) in enumerate([(0.6, 1.4)] * 3 + [(-0.4, 0.4)]):
        numbers = found.numbers[:, column].double()
        assert low <= numbers.min() < low + 0.01
        assert high - 0.01 < numbers.max() <= high
        assert numbers.mean().item() == pytest.approx((low + high) / 2, abs=0.01)
        assert numbers.std().item() == pytest.approx((high - low) / 12**0.5, abs=0.01)
    correlations = torch.corrcoef(found.numbers.T.double()) - torch.eye(4)
    assert correlations.abs().max() < 0.04


def test_every_order_of_the_four_colour_changes_comes_up() -> None:
    source = batches.generator(6, 0)
    orders = Counter(tuple(augment.Changes.draw(1, source).order) for _ in range(2400))
    assert len(orders) == 24
    assert min(orders.values()) > 60


def test_area_and_logarithm_of_the_aspect_are_uniform_where_every_crop_fits() -> None:
    """Crops of 8 to 50 % of a square always fit, so among them no draw is favoured."""
    boxes = augment.crop_boxes([(2000, 2000)] * 20_000, batches.generator(8, 0))
    share = np.array([box.height * box.width for box in boxes]) / 2000**2
    small = share < 0.5
    assert small.sum() > 8000
    counts, _ = np.histogram(share[small], bins=6, range=(0.08, 0.5))
    assert counts.min() > 0.9 * counts.mean()
    aspect = np.log([box.width / box.height for box in boxes])[small]
    counts, _ = np.histogram(aspect, bins=6, range=(np.log(3 / 4), np.log(4 / 3)))
    assert counts.min() > 0.9 * counts.mean()
    assert counts.sum() >= small.sum() - 20


def test_crops_lie_anywhere() -> None:
    boxes = augment.crop_boxes([(300, 400)] * 5000, batches.generator(9, 0))
    for place, room in (
        ([box.top for box in boxes], [300 - box.height for box in boxes]),
        ([box.left for box in boxes], [400 - box.width for box in boxes]),
    ):
        share = np.array([p / r for p, r in zip(place, room, strict=True) if r > 20])
        assert share.mean() == pytest.approx(0.5, abs=0.02)
        assert share.min() == 0
        assert share.max() == 1


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


@pytest.mark.parametrize("size", [(300, 400), (200, 200), (100, 260)])
def test_crops_are_spread_as_torchvisions(size: tuple[int, int]) -> None:
    height, width = size
    ours = augment.crop_boxes([size] * 3000, batches.generator(3, 0))
    theirs = v2.RandomResizedCrop(10)
    image = torch.empty(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        drawn = [theirs.make_params([image]) for _ in range(3000)]
    for mine, other in (
        ([b.height * b.width for b in ours], [p["height"] * p["width"] for p in drawn]),
        ([b.width / b.height for b in ours], [p["width"] / p["height"] for p in drawn]),
        ([b.top for b in ours], [p["top"] for p in drawn]),
        ([b.left for b in ours], [p["left"] for p in drawn]),
    ):
        assert ks_2samp(mine, other).pvalue > 0.001


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


def random_images(sizes: list[tuple[int, int]]) -> list[Pixels]:
    return [
        np.random.default_rng(n).integers(0, 256, (h, w, 3), dtype=np.uint8) for n, (h, w) in enumerate(sizes)
    ]


SIZES = [(70, 90), (64, 200), (24, 24), (31, 17), (300, 130), (1, 9), (128, 128)]


@pytest.mark.parametrize("size", [24, 33])
@pytest.mark.parametrize(("dtype", "levels"), [(torch.float32, 1), (torch.float16, 2)])
def test_crops_on_a_device_are_those_on_the_cpu(size: int, dtype: torch.dtype, levels: int) -> None:
    images = random_images(SIZES)
    device = augment.DeviceCrops(size, torch.device("cpu"), dtype)
    for seed in range(6):
        there = device(images, batches.generator(seed))
        here = augment.random_resized_crops(images, size, batches.generator(seed))
        assert there.dtype == here.dtype == torch.uint8
        assert there.shape == here.shape == (len(SIZES), 3, size, size)
        assert (there.int() - here.int()).abs().max() <= levels


def test_crops_on_a_device_can_be_mirrored() -> None:
    images = random_images([(70, 90)] * 4)
    device = augment.DeviceCrops(24, torch.device("cpu"))
    boxes = augment.crop_boxes([(70, 90)] * 4, batches.generator(3))
    plain = device.resized(images, boxes)
    flipped = device.resized(images, boxes, torch.tensor([True, False, True, False]))
    assert (flipped[0].flip(2).int() - plain[0].int()).abs().max() <= 1
    assert torch.equal(flipped[1], plain[1])


def test_the_whole_recipe_is_its_parts_and_the_same_on_a_device() -> None:
    images = random_images(SIZES * 4)
    whole = augment.Augmentation(24, torch.device("cpu"))(images, batches.generator(4, 1))
    source = batches.generator(4, 1)
    parts = augment.flip_and_jitter(augment.random_resized_crops(images, 24, source), source)
    assert torch.equal(whole, parts)
    assert whole.dtype == torch.float32
    assert 0 <= whole.min() <= whole.max() <= 1
    on_device = augment.Augmentation(24, torch.device("cpu"))
    on_device._crops = augment.DeviceCrops(24, torch.device("cpu"))
    plain = augment.Changes.draw(len(images), _after_crops(len(images)))
    there = on_device(images, batches.generator(4, 1))
    untouched = sorted(set(range(len(images))) - set(plain.chosen.tolist()))
    assert untouched
    assert (there[untouched] - whole[untouched]).abs().max() <= 1.5 / 255
    assert (there - whole).abs().mean() < 1 / 255


def _after_crops(n: int) -> torch.Generator:
    source = batches.generator(4, 1)
    augment.crop_boxes([(9, 9)] * n, source)
    return source


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_recipe_gives_the_same_images_and_never_waits_for_the_gpu() -> None:
    images = random_images(SIZES * 8)
    here = augment.Augmentation(64, torch.device("cpu"))(images, batches.generator(4, 1))
    device = torch.device("cuda")
    recipe = augment.Augmentation(64, device)
    recipe(images, batches.generator(4, 1))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = recipe(images, batches.generator(4, 1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert there.is_cuda
    differences = (there.cpu() - here).abs()
    assert differences.mean() < 1 / 255
    crops = augment.DeviceCrops(64, device)(images, batches.generator(5)).cpu()
    expected = augment.random_resized_crops(images, 64, batches.generator(5))
    assert (crops.int() - expected.int()).abs().max() <= 2


def test_colours_do_not_depend_on_how_many_images_are_done_at_once(
    pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = pictures.repeat(8, 1, 1, 1)
    at_once = augment.flip_and_jitter(many.clone(), batches.generator(7))
    monkeypatch.setattr(augment, "_NUMBERS_AT_ONCE", 1)
    assert torch.allclose(augment.flip_and_jitter(many.clone(), batches.generator(7)), at_once, atol=1e-6)


def operations(work: Callable[[], object]) -> Counter[str]:
    """How often each of PyTorch's operations is called, but for those that only look at memory or copy."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    looks = "view select slice as_strided reshape permute narrow split to _to_copy copy_ empty empty_strided"
    events = {event.key: event.count for event in profile.key_averages()}
    names = {f"aten::{name}" for name in looks.split()}
    return Counter({k: v for k, v in events.items() if k.startswith("aten::") and k not in names})


def test_one_image_is_resized_once_on_the_cpu_and_a_whole_batch_by_two_products_on_a_device() -> None:
    images = random_images([(70, 90)] * 8)
    here = operations(lambda: augment.random_resized_crops(images, 24, batches.generator(1)))
    assert here["aten::_upsample_bilinear2d_aa"] == 8
    device = augment.DeviceCrops(24, torch.device("cpu"))
    there = operations(lambda: device(images, batches.generator(1)))
    assert there["aten::bmm"] == 2
    assert there["aten::_upsample_bilinear2d_aa"] == 0
    twice = operations(lambda: device(images * 2, batches.generator(1)))
    assert sum(twice.values()) == sum(there.values())


def test_colour_changes_are_a_fixed_number_of_operations_whatever_the_batch() -> None:
    def calls(n: int) -> Counter[str]:
        images = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        return operations(lambda: augment.flip_and_jitter(images, batches.generator(2)))

    few, many = calls(16), calls(64)
    assert sum(few.values()) == sum(many.values())
    numbers = torch.full((4,), 0.3)
    images = torch.rand(4, 3, 8, 8)
    assert sum(operations(lambda: colour.hue(images, numbers)).values()) <= 32
    assert sum(operations(lambda: colour.brightness(images, numbers)).values()) <= 2


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
