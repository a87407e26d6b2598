"""Our way back through the pooling of objects gives torchvision's numbers, and is the one that is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from framed import frames
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper
from torchvision_desk import built, quick

from amlocal.trainers.models.roi_pool import RoiPool

SHAPES = [(24, 32), (12, 16), (6, 8), (3, 4)]
SLOW = "torchvision::_roi_align_backward"
# Small and large ones, one of no size, and ones that reach far beyond the image of 96 x 128 pixels.
BOXES = [
    torch.tensor([[3.0, 4, 20, 30], [50, 10, 50, 10], [0, 0, 128, 96], [-40, -30, 10, 12]]),
    torch.tensor([[100.0, 80, 190, 150], [7.3, 9.9, 8.1, 11.2], [-300, -300, 500, 500]]),
    torch.zeros(0, 4),
]


def features(dtype: torch.dtype, memory: torch.memory_format) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {
        str(level): torch.randn(3, 5, *shape, generator=generator, dtype=torch.float64)
        .to(dtype)
        .contiguous(memory_format=memory)
        .requires_grad_()
        for level, shape in enumerate(SHAPES)
    }


def pooled(kind: Any, size: Any, samples: int, maps: dict[str, Tensor]) -> Tensor:
    pool = kind(["0", "1", "2", "3"], size, samples)
    pool.scales, pool.map_levels = [2.0**-level for level in range(2, 6)], LevelMapper(2, 5)
    return pool(maps, [box.to(maps["0"].dtype) for box in BOXES], [(96, 128)] * 3)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["plain", "last"])
@pytest.mark.parametrize(("size", "samples"), [(7, 2), (14, 2), ([3, 5], 1), (2, 3)])
def test_values_and_gradients_are_torchvisions(size: Any, samples: int, memory: torch.memory_format) -> None:
    ours, theirs, again = (features(torch.float32, memory) for _ in range(3))
    one, other = pooled(RoiPool, size, samples, ours), pooled(MultiScaleRoIAlign, size, samples, theirs)
    assert torch.equal(one, other)
    above = torch.randn(one.shape, generator=torch.Generator().manual_seed(1))
    one.backward(above)
    other.backward(above)
    pooled(RoiPool, size, samples, again).backward(above)
    compared = 0
    for level, found in ours.items():
        if found.grad is None:  # no object is of that level
            assert not torch.as_tensor(theirs[level].grad).any()
            continue
        compared += bool(found.grad.any())
        torch.testing.assert_close(found.grad, theirs[level].grad, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.grad, torch.as_tensor(again[level].grad))
    assert compared


def test_short_numbers_are_pooled_as_torchvision_does() -> None:
    ours, theirs = (features(torch.bfloat16, torch.channels_last) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        one, other = pooled(RoiPool, 7, 2, ours), pooled(MultiScaleRoIAlign, 7, 2, theirs)
    assert one.dtype == other.dtype and torch.equal(one, other)
    above = torch.ones_like(one)
    one.backward(above)
    other.backward(above)
    learned = {level: found for level, found in ours.items() if found.grad is not None}
    assert len(learned) >= 2
    for level, found in learned.items():
        assert found.grad is not None and found.grad.dtype == torch.bfloat16
        torch.testing.assert_close(found.grad, theirs[level].grad, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["fasterrcnn_resnet18_fpn", "maskrcnn_resnet18_fpn"])
def test_a_training_step_takes_our_way_and_an_answer_torchvisions_own(name: str) -> None:
    module = quick(built(name).module).train()
    images, sizes, targets = frames(2, 64)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        sum(module(images, sizes, targets).values()).backward()
    called = {event.key for event in seen.key_averages()}
    assert SLOW not in called and "_PoolBackward" in called
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as seen:
        module.eval()(images, sizes)
    called = {event.key for event in seen.key_averages()}
    assert "torchvision::roi_align" in called and "_Pool" not in called
