from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from amlocal.compat import names
from amlocal.trainers import optim
from amlocal.trainers.checkpoints import Checkpoints


def parameters(**given: Any) -> dict[str, Any]:
    return names.effective("image-classification", "resnet18", given)


def test_warmup_cosine_follows_the_formula_batch_by_batch() -> None:
    schedule = optim.Schedule(
        parameters(number_of_epochs=6, warmup_cosine_lr_warmup_epochs=2, warmup_cosine_lr_cycles=0.45), 5
    )
    found = [schedule.factor(epoch, batch) for epoch in range(6) for batch in range(5)]
    expected = [step / 10 for step in range(10)]
    expected += [0.5 * (1 + math.cos(math.pi * 2 * 0.45 * (step - 10) / 20)) for step in range(10, 30)]
    assert found == pytest.approx(expected)
    assert found[0] == 0.0
    assert optim.warmup_cosine(30, 10, 30, 0.45) == pytest.approx(0.0245, abs=1e-4)


def test_warmup_as_long_as_the_training_or_none_at_all() -> None:
    long = optim.Schedule(parameters(number_of_epochs=1, warmup_cosine_lr_warmup_epochs=2), 4)
    assert [long.factor(0, b) for b in range(4)] == [0, 0.125, 0.25, 0.375]
    none = optim.Schedule(parameters(number_of_epochs=1, warmup_cosine_lr_warmup_epochs=0), 4)
    assert none.factor(0, 0) == 1.0


def test_step_schedule_is_pytorchs_steplr() -> None:
    given = parameters(
        learning_rate_scheduler="step", step_lr_step_size=2, step_lr_gamma=0.3, learning_rate=0.4
    )
    model = nn.Linear(2, 2)
    ours = optim.optimizer(model, given)
    theirs = torch.optim.SGD(model.parameters(), lr=0.4)
    reference = torch.optim.lr_scheduler.StepLR(theirs, 2, 0.3)
    for epoch in range(7):
        assert optim.Schedule(given, 3).apply(ours, epoch, 1) == pytest.approx(reference.get_last_lr()[0])
        assert {group["lr"] for group in ours.param_groups} == {0.4 * 0.3 ** (epoch // 2)}
        theirs.step()
        reference.step()


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenetv2_100"])
def test_only_weights_of_convolutions_and_linear_layers_decay(architecture: str) -> None:
    model = timm.create_model(architecture, num_classes=3)
    weights, norms, biases = optim.parameter_groups(model, 0.01)
    assert [group["weight_decay"] for group in (weights, norms, biases)] == [0.01, 0.0, 0.0]
    assert all(p.ndim in (2, 4) for p in weights["params"])
    batch_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {id(p) for p in norms["params"]} == {id(m.weight) for m in batch_norms}
    assert len(biases["params"]) == len(batch_norms) + 1
    together = [p for group in (weights, norms, biases) for p in group["params"]]
    assert {id(p) for p in together} == {id(p) for p in model.parameters()}
    assert len(together) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("given", "kind", "facts"),
    [
        (
            {"optimizer": "sgd", "momentum": 0.8, "nesterov": False},
            "SGD",
            {"momentum": 0.8, "nesterov": False},
        ),
        ({"optimizer": "adam", "beta1": 0.8, "beta2": 0.9}, "Adam", {"betas": (0.8, 0.9), "amsgrad": False}),
        ({"optimizer": "adamw", "ams_gradient": True}, "AdamW", {"betas": (0.9, 0.999), "amsgrad": True}),
    ],
)
def test_optimizers_get_their_own_parameters(given: dict[str, Any], kind: str, facts: dict[str, Any]) -> None:
    found = optim.optimizer(nn.Linear(2, 2), parameters(learning_rate=0.02, weight_decay=0.5, **given))
    assert type(found).__name__ == kind
    assert {group["lr"] for group in found.param_groups} == {0.02}
    assert [group["weight_decay"] for group in found.param_groups] == [0.5, 0.0]
    for group in found.param_groups:
        assert {key: group[key] for key in facts} == facts


@pytest.mark.parametrize(
    "given",
    [
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
        {"optimizer": "sgd", "momentum": 0.0, "nesterov": False},
        {"optimizer": "adam"},
        {"optimizer": "adam", "ams_gradient": True},
        {"optimizer": "adamw"},
    ],
)
def test_fused_optimizers_step_as_the_plain_ones_do(given: dict[str, Any]) -> None:
    ends = []
    for fused in (None, False):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 2))
        found = optim.optimizer(model, parameters(learning_rate=0.01, **given), fused=fused)
        assert bool(found.param_groups[0].get("fused")) is (fused is None)
        for _ in range(20):
            found.zero_grad()
            (model(torch.randn(8, 6)) - 1).square().mean().backward()
            found.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fused_steps_go_on_exactly_after_a_checkpoint_of_channels_last_weights(
    tmp_path: Path, optimizer: str
) -> None:
    """A file keeps no order in memory, and a fused step pairs numbers by their place in memory."""

    def step(model: nn.Module, found: torch.optim.Optimizer, seed: int) -> None:
        images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        found.zero_grad()
        model(images.to(memory_format=torch.channels_last)).square().mean().backward()
        found.step()

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return model, optim.optimizer(model, parameters(optimizer=optimizer))

    (whole, first), (resumed, second) = make(), make()
    step(whole, first, 1)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, whole, first, {}, best=True)
    checkpoint = checkpoints.latest()
    assert checkpoint is not None
    checkpoints.restore(checkpoint, resumed, second)
    step(whole, first, 2)
    step(resumed, second, 2)
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_where_there_is_no_fused_step_the_plain_one_is_taken() -> None:
    model = nn.Linear(2, 2, dtype=torch.complex64)
    found = optim.optimizer(model, parameters())
    assert type(found) is torch.optim.SGD
    assert not found.param_groups[0].get("fused")


def test_the_rate_is_multiplied_by_the_number_of_processes() -> None:
    given = parameters(learning_rate=0.02, warmup_cosine_lr_warmup_epochs=0)
    found = optim.optimizer(nn.Linear(2, 2), given)
    assert optim.Schedule(given, 4, scale=3).apply(found, 0, 0) == pytest.approx(0.06)
    assert [group["lr"] for group in found.param_groups] == pytest.approx([0.06, 0.06])


def test_gradients_are_clipped_by_value_or_by_norm() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([30.0, -40.0, 1.0])
    optim.clip([parameter], "value")
    assert parameter.grad.tolist() == [5.0, -5.0, 1.0]
    parameter.grad = torch.tensor([30.0, -40.0, 0.0])
    optim.clip([parameter], "norm")
    assert parameter.grad.tolist() == pytest.approx([0.6, -0.8, 0.0], abs=1e-6)


def play(scores: list[float], patience: int, delay: int, enabled: bool = True) -> tuple[int, int]:
    """Epochs run and best epoch."""
    stopping = optim.EarlyStopping(enabled=enabled, patience=patience, delay=delay)
    for epoch, score in enumerate(scores):
        stopping.update(epoch, score)
        if stopping.stop:
            return epoch + 1, stopping.best_epoch
    return len(scores), stopping.best_epoch


def test_early_stopping_counts_from_the_delay_and_stops_at_the_patience() -> None:
    flat = [0.5] * 10
    assert play(flat, patience=2, delay=5) == (7, 6)
    assert play(flat, patience=3, delay=1) == (4, 3)
    assert play(flat, patience=2, delay=5, enabled=False) == (10, 9)
    assert play([0.5, 0.4, 0.3, 0.6, 0.5, 0.5, 0.6, 0.2], patience=3, delay=1) == (7, 6)
    assert play([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], patience=1, delay=1) == (6, 5)


def test_a_restored_counter_goes_on_where_it_was() -> None:
    first = optim.EarlyStopping(enabled=True, patience=3, delay=0)
    for epoch, score in enumerate([0.5, 0.4, 0.4]):
        first.update(epoch, score)
    second = optim.EarlyStopping(enabled=True, patience=3, delay=0)
    second.restore(first.state())
    assert not second.stop
    second.update(3, 0.4)
    assert second.stop
    assert second.best == 0.5
    assert second.best_epoch == 0
