"""The probe chooses the fastest engine that answers alike; folded, bf16 and ONNX networks answer alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import ops

from amlocal.trainers.serving import engines, probe
from amlocal.trainers.serving.folding import folded

CPU = torch.device("cpu")


def apart(one: Tensor, other: Tensor) -> float:
    return (one.double() - other.double()).abs().max().item()


class Clock:
    """Stands still but for what engines take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def maker(
        self, seconds: float, shift: float = 0.0, making: float = 0.0
    ) -> Callable[..., engines.Forward]:
        def make(plan: engines.Plan) -> engines.Forward:
            self.now += making

            def forward(inputs: Tensor) -> Tensor:
                self.now += seconds
                return inputs + shift

            return forward

        return make


def refuse(plan: engines.Plan) -> engines.Forward:
    raise engines.NotPossible("the device has none")


def broken(plan: engines.Plan) -> engines.Forward:
    raise ZeroDivisionError("an odd engine\nsecond line")


PLAN = engines.Plan(nn.Identity(), (3, 4, 4), CPU, 1)


def chosen(
    clock: Clock, makers: dict[str, Callable[..., engines.Forward]], seconds: float = 100.0
) -> probe.Choice:
    return probe.choose(PLAN, list(makers), makers, torch.zeros(4, 3), apart, seconds=seconds, timer=clock)


def test_the_fastest_engine_with_the_same_answers_is_chosen_and_all_figures_are_told() -> None:
    clock = Clock()
    choice = chosen(
        clock,
        {
            "eager": clock.maker(2.0),
            "wrong": clock.maker(0.1, shift=0.02),
            "nan": clock.maker(0.1, shift=float("inf")),
            "fast": clock.maker(0.5, shift=0.005),
            "slow": clock.maker(4.0),
            "missing": refuse,
            "broken": broken,
        },
    )
    assert choice.name == "fast"
    assert choice.difference == pytest.approx(0.005)
    assert str(choice) == (
        "eager 2.0 images/s; wrong left out, its answers differ by 0.02; "
        "nan left out, its answers differ by inf; "
        "fast 8.0 images/s; slow 1.0 images/s; missing left out, the device has none; "
        "broken left out, ZeroDivisionError: an odd engine"
    )


def test_a_gain_within_the_noise_changes_nothing() -> None:
    clock = Clock()
    assert chosen(clock, {"eager": clock.maker(1.0), "other": clock.maker(0.97)}).name == "eager"
    assert chosen(clock, {"eager": clock.maker(1.0), "other": clock.maker(0.9)}).name == "other"


def test_the_probe_ends_when_its_time_is_over() -> None:
    clock = Clock()
    makers = {"eager": clock.maker(1.0), "made": clock.maker(0.8, making=9.0), "late": clock.maker(0.1)}
    choice = chosen(clock, makers, seconds=10.0)
    assert choice.name == "made"
    assert choice.found["late"] == "not tried, no time left"


def test_an_engine_that_was_asked_for_is_taken_or_refused_with_the_reason() -> None:
    clock = Clock()
    makers = {
        "eager": clock.maker(1.0),
        "slow": clock.maker(9.0),
        "wrong": clock.maker(1.0, shift=1.0),
        "missing": refuse,
    }
    inputs = torch.zeros(4, 3)
    assert probe.fixed(PLAN, "slow", makers, inputs, apart).name == "slow"
    with pytest.raises(ValueError, match=r"engine missing is not possible: the device has none"):
        probe.fixed(PLAN, "missing", makers, inputs, apart)
    with pytest.raises(ValueError, match=r"engine wrong answers differently, by 1"):
        probe.fixed(PLAN, "wrong", makers, inputs, apart)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def network(name: str) -> nn.Module:
    torch.manual_seed(2)
    module = timm.create_model(name, pretrained=False, num_classes=5).eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-0.2, 0.2)
                part.running_var.uniform_(0.5, 2.0)
                part.weight.uniform_(0.5, 1.5)
    return module


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
@torch.inference_mode()
def test_every_engine_of_a_network_answers_alike_for_any_number_of_images(name: str) -> None:
    module = network(name)
    plan = engines.Plan(module, (3, 32, 32), CPU, 1)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    inputs = {n: torch.randn(n, 3, 32, 32) for n in (1, 2, 3)}
    expected = {n: module(x) for n, x in inputs.items()}
    for engine in ("eager", "channels_last", "folded", "folded_channels_last", "onnx"):
        forward = engines.ENGINES[engine](plan)
        for n, x in inputs.items():
            assert apart(forward(x), expected[n]) < 1e-3 * expected[n].abs().max(), engine
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


def test_folding_leaves_no_batch_normalisation_of_a_resnet() -> None:
    module = network("resnet18")
    with torch.inference_mode(False):
        assert folded(module, torch.zeros(1, 3, 32, 32)) == 20
    assert not any(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def test_a_network_without_batch_normalisation_is_not_folded() -> None:
    plan = engines.Plan(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 8, 8), CPU, 1)
    with pytest.raises(engines.NotPossible, match="no batch normalisation"):
        engines.ENGINES["folded"](plan)


class Shared(nn.Module):
    """One convolution whose outputs two normalisations take, and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.one, self.two, self.three = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.one(x) + self.two(x)
        return self.three(self.b(self.b(x)))


def test_what_does_not_belong_to_one_convolution_alone_is_not_folded() -> None:
    module = Shared().eval()
    assert folded(module, torch.zeros(1, 3, 4, 4)) == 0


def test_what_is_absent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = engines.Plan(nn.Linear(2, 2), (3, 8, 8), CPU, 1)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(engines.NotPossible, match="the package onnx is not installed"):
        engines.ENGINES["onnx"](plan)
    with pytest.raises(engines.NotPossible, match="GPU only"):
        engines.ENGINES["compiled"](plan)
    monkeypatch.setattr(engines, "has_bf16", lambda device: False)
    with pytest.raises(engines.NotPossible, match="no bf16"):
        engines.ENGINES["bf16"](plan)
    assert "bf16" not in engines.candidates(CPU)
    monkeypatch.setattr(engines, "has_bf16", lambda device: True)
    assert "bf16" in engines.candidates(CPU)


def test_a_network_that_cannot_be_exported_is_left_out_with_the_reason() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no such way")

    plan = engines.Plan(Odd(), (3, 8, 8), CPU, 1)
    with pytest.raises(engines.NotPossible, match="the export fails: no such way"):
        engines.ENGINES["onnx"](plan)


class Levels(nn.Module):
    """One convolution and its normalisation on features of two sizes; behind another, frozen statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.one, self.two = nn.BatchNorm2d(4), ops.FrozenBatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.one(self.a(level)) for level in (x, x[:, :, ::2, ::2])]
        return self.two(self.b(levels[0])).mean() + levels[1].mean()


def test_normalisation_that_runs_several_times_or_is_frozen_is_folded() -> None:
    module = Levels().eval()
    for part in (module.one, module.two):
        part.running_mean.normal_()  # type: ignore[operator, union-attr]
        part.running_var.uniform_(0.5, 2.0)  # type: ignore[operator, union-attr]
    inputs = torch.randn(2, 3, 8, 8)
    expected = module(inputs)
    with torch.inference_mode(False):
        assert folded(module, torch.zeros(1, 3, 8, 8)) == 2
    assert module(inputs).item() == pytest.approx(expected.item(), abs=1e-5)
    assert type(module.one) is type(module.two) is nn.Identity
