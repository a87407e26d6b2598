"""Networks that are hard to start from random weights learn four images by heart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from amlocal.compat import names
from amlocal.trainers import optim, registry
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.metrics import detection as metrics
from amlocal.trainers.metrics import objects as compared

COLOURS = np.eye(3, dtype=np.float32)
CLASSES = ["red", "green", "blue"]
WARM = 10
"""Steps. RetinaNet's authors warm up too: with SGD at learning rate 0.01 and no warm-up the scores of its
heads, four plain layers that begin small, overshoot all at once at about the 15th step, in torchvision as
well."""
CASES = [
    ("rtmdet_tiny_8xb32-300e_coco", 128, 1e-3, 90),
    # Its family's quick test is in test_detection_overfit_small.py.
    pytest.param("retinanet_resnet50_fpn", 64, 3e-4, 80, marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def painted(side: int) -> tuple[Tensor, list[Objects]]:
    """Four grey images (4, 3, side, side), 0 to 1, with a coloured rectangle each."""
    random = np.random.default_rng(1)
    images = np.full((4, 3, side, side), 0.5, np.float32)
    found = []
    for number in range(4):
        places = random.integers((5, 5, 40, 40), (40, 40, 80, 70)) * side // 128
        left, top, width, height = (int(place) for place in places)
        label = number % 3
        images[number, :, top : top + height, left : left + width] = COLOURS[label][:, None, None]
        box = torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32)
        found.append(Objects(box, torch.tensor([label]), torch.tensor([False]), None, None))
    return torch.from_numpy(images), found


@pytest.mark.parametrize(("name", "side", "rate", "steps"), CASES)
def test_four_images_are_learned_by_heart_from_random_weights(
    name: str, side: int, rate: float, steps: int
) -> None:
    if name.startswith("rtmdet"):
        pytest.importorskip("mmdet")
    torch.manual_seed(0)
    row = names.model("image-object-detection", name)
    network = registry.builder(row.builder)(row, len(CLASSES), None, {})
    module: Any = network.module.train()
    images, targets = painted(side)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (network.mean, network.std))
    batch = (images - mean) / std, [(side, side)] * 4, targets
    settings = {"optimizer": "adamw", "learning_rate": rate, "weight_decay": 1e-4}
    settings |= {"beta1": 0.9, "beta2": 0.999, "ams_gradient": False}
    optimizer = optim.optimizer(module, settings)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * optim.warmup_cosine(step + 1, WARM, steps, 0.45)
        optimizer.zero_grad(set_to_none=True)
        loss = sum(module(*batch).values())
        loss.backward()
        optim.clip(module.parameters(), row.gradient_clip)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    module.eval()
    with torch.no_grad():
        found = module(*batch[:2])
    result = metrics.evaluate(
        [compared.truth(one, side, side, masks=False) for one in targets],
        [compared.found(one, side, side, masks=False) for one in found],
        CLASSES,
        kind="bbox",
        metric_type="voc",
    )
    assert result.scalars["mean_average_precision"] >= 0.9
