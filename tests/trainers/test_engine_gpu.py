"""What only a GPU shows: nothing waits for it within a step, and batches made in another stream are whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amlocal.compat import names
from amlocal.trainers import device as devices
from amlocal.trainers.checkpoints import Checkpoints
from amlocal.trainers.compiling import Forward
from amlocal.trainers.data import batches
from amlocal.trainers.layouts import Layout
from amlocal.trainers.loop import Loop
from amlocal.trainers.manner import Manner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


class Scores:
    def __init__(self) -> None:
        self.metrics = {"accuracy": 0.5, "log_loss": 1.0}


class Toy:
    """240 random pictures, prepared in another stream."""

    higher_is_better = True
    train_images = 240
    batches_per_epoch = 60
    batch_size = 4
    manner = Manner()

    def __init__(self, device: torch.device) -> None:
        self.device = device
        source = torch.Generator().manual_seed(1)
        self.images = torch.randn(240, 3, 16, 16, generator=source)
        self.targets = torch.randint(0, 3, (240,), generator=source)

    def make(self) -> Iterator[batches.Batch]:
        for start in range(0, 240, 4):
            images = batches.to_device(self.images[start : start + 4], self.device)
            targets = batches.to_device(self.targets[start : start + 4], self.device)
            yield batches.Batch(images.mul(2).contiguous(memory_format=torch.channels_last), targets)

    def train_batches(self, epoch: int) -> Iterator[batches.Batch]:
        return batches.prepared(self.make, self.device)

    def parts(self) -> dict[str, float]:
        return {}

    def forward(self, model: Callable[..., Any], batch: batches.Batch) -> Any:
        return model(batch.images)

    def loss(self, outputs: Tensor, batch: batches.Batch) -> Tensor:
        return F.cross_entropy(outputs.float(), batch.targets)

    def evaluate(self, model: nn.Module) -> Scores:
        return Scores()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def make(folder: Path, kind: str, device: torch.device, **given: Any) -> Loop:
    quick = {"number_of_epochs": 2, "early_stopping": False, "random_seed": 7}
    return Loop(
        Toy(device),
        network().to(memory_format=torch.channels_last).to(device),
        names.effective("image-classification", "resnet18", quick | given),
        primary_metric="accuracy",
        gradient_clip="norm",
        device=device,
        layout=Layout(True, kind),
        checkpoints=Checkpoints(folder),
        record=lambda metrics: None,
        keep=lambda epoch, trained: None,
    )


def test_batches_of_another_stream_arrive_whole() -> None:
    device = devices.choose()
    task = Toy(device)
    found = [(batch.images.cpu(), batch.targets.cpu()) for batch in task.train_batches(0)]
    assert torch.equal(torch.cat([images for images, _ in found]), task.images * 2)
    assert torch.equal(torch.cat([targets for _, targets in found]), task.targets)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_no_step_waits_for_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, optimizer: str
) -> None:
    device = devices.choose()
    loop = make(tmp_path, kind, device, optimizer=optimizer, learning_rate=0.001)
    real_steps, real_read = loop._steps, loop._read

    def steps(*given: Any) -> float:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return real_steps(*given)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def read(*given: Any) -> float:
        torch.cuda.set_sync_debug_mode("default")
        try:
            return real_read(*given)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(loop, "_steps", steps)
    monkeypatch.setattr(loop, "_read", read)
    fit = loop.fit(None)
    assert fit.epochs == 2
    resumed = make(tmp_path, kind, device, optimizer=optimizer, learning_rate=0.001, number_of_epochs=3)
    assert resumed.fit(Checkpoints(tmp_path).latest()).epochs == 3


def test_the_probe_measures_on_the_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = devices.choose()
    model = network().to(device)
    found = devices.layout(model, "toy", (8, 3, 16, 16), device, tmp_path, seeded=False)
    assert str(found) in capsys.readouterr().out
    assert "GiB" in devices.memory(device)


def test_compiled_steps_train_as_eager_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = devices.choose()
    monkeypatch.setattr("amlocal.trainers.compiling.worth_compiling", lambda *facts: True)
    ends = []
    for allowed in (False, True):
        loop = make(tmp_path / str(allowed), "fp32", device)
        loop._stepper.forward = forward = Forward(loop._model, allowed=allowed)
        loop.fit(None)
        assert forward.compiled == allowed
        assert not any("_orig_mod" in name for name in loop._model.state_dict())
        ends.append(torch.cat([p.detach().flatten() for p in loop._model.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], atol=1e-3, rtol=1e-2)
