"""Images of different sizes in one batch: padding, colours, targets, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from amlocal.trainers.data import augment, batches
from amlocal.trainers.data.detection_batches import Batch, collate
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.objects import Objects

CPU = torch.device("cpu")


def objects(*rows: tuple[float, float, float, float]) -> Objects:
    return Objects(
        torch.tensor(rows, dtype=torch.float32).reshape(-1, 4),
        torch.arange(len(rows)),
        torch.tensor([n == 1 for n in range(len(rows))], dtype=torch.bool),
        tuple((torch.tensor([[a, b], [c, b], [c, d], [a, d]], dtype=torch.float32),) for a, b, c, d in rows),
    )


def collated(
    items: list[tuple[Pixels, Objects]], *, channels_last: bool = True, masks: bool = False
) -> Batch:
    return collate(
        items,
        stride=4,
        fill=(255, 0, 127.5),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        device=CPU,
        channels_last=channels_last,
        masks=masks,
    )


def test_images_are_padded_to_the_stride_with_exactly_the_colour_asked_for() -> None:
    white, black = np.full((2, 5, 3), 255, np.uint8), np.zeros((3, 2, 3), np.uint8)
    found = collated([(white, objects()), (black, objects())])
    assert found.images.shape == (2, 3, 4, 8) and found.images.dtype == torch.float32
    assert found.sizes == ((2, 5), (3, 2))
    expected = torch.tensor([2.0, -2.0, 0.0]).view(3, 1, 1).repeat(2, 1, 4, 8)
    expected[0, :, :2, :5] = 2.0  # (1 - 0.5) / 0.25
    expected[1, :, :3, :2] = -2.0
    torch.testing.assert_close(found.images, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels_last", [True, False])
def test_pixels_are_normalised_as_everywhere_and_laid_out_as_asked(channels_last: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = collate(
        [(pixels, objects())],
        stride=1,
        fill=(0, 0, 0),
        mean=mean,
        std=std,
        device=CPU,
        channels_last=channels_last,
        masks=False,
    )
    plain = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    torch.testing.assert_close(found.images, augment.Normalise(mean, std, CPU)(plain), atol=2e-6, rtol=0)
    assert found.images.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert found.images.is_contiguous() != channels_last


def test_targets_are_cut_at_the_edges_and_keep_what_can_be_learned() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    found = collated([(pixels, objects((1, 1, 6, 3), (0, 0, 2, 2), (4, 0, 5, 2))), (pixels, objects())])
    first, second = found.targets
    assert first.boxes.tolist() == [[1, 1, 4, 3], [0, 0, 2, 2]]
    assert first.labels.tolist() == [0, 1] and first.crowd.tolist() == [False, True]
    assert first.masks is None and first.polygons is not None and len(first.polygons) == 2
    assert second.boxes.shape == (0, 4)


def test_masks_are_drawn_where_they_are_asked_for() -> None:
    found = collated([(np.zeros((5, 6, 3), np.uint8), objects((1, 1, 4, 3)))], masks=True)
    masks = found.targets[0].masks
    assert masks is not None and masks.dtype == torch.bool
    expected = np.zeros((1, 5, 6), bool)
    expected[0, 1:3, 1:4] = True
    np.testing.assert_array_equal(masks.numpy(), expected)


def test_the_tensors_of_a_batch_are_found_for_the_streams_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collated([(np.zeros((4, 4, 3), np.uint8), objects((1, 1, 2, 3)))], masks=True)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    target = batch.targets[0]
    assert target.polygons is not None and target.masks is not None
    expected = [batch.images, target.boxes, target.labels, target.crowd, target.polygons[0][0], target.masks]
    found = list(batches._tensors(batch))
    assert [id(tensor) for tensor in found] == [id(tensor) for tensor in expected]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batch() -> None:
    rng = np.random.default_rng(3)
    items = [
        (rng.integers(0, 256, (5, 6, 3), dtype=np.uint8), objects((1, 1, 4, 3), (0, 0, 2, 2))),
        (rng.integers(0, 256, (7, 3, 3), dtype=np.uint8), objects()),
    ]
    expected = collated(items, masks=True)
    device = torch.device("cuda", 0)
    found = collate(
        items,
        stride=4,
        fill=(255, 0, 127.5),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        device=device,
        channels_last=True,
        masks=True,
    )
    assert found.sizes == expected.sizes and found.images.device == device
    torch.testing.assert_close(found.images.cpu(), expected.images, atol=1e-6, rtol=0)
    for ours, theirs in zip(found.targets, expected.targets, strict=True):
        assert ours.boxes.device == device and ours.masks is not None and theirs.masks is not None
        assert ours.boxes.cpu().equal(theirs.boxes) and ours.masks.cpu().equal(theirs.masks)
        assert ours.labels.cpu().equal(theirs.labels) and ours.crowd.cpu().equal(theirs.crowd)
