from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amlocal.trainers.compiling import Forward, StepTimer, possible, worth_compiling

IMAGES = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("steps", "eager", "gain", "cost", "worth"),
    [
        (10_000, 0.1, 0.2, 90.0, True),
        (1_000, 0.1, 0.2, 90.0, False),
        (4_501, 0.1, 0.2, 90.0, True),
        (4_499, 0.1, 0.2, 90.0, False),
        (0, 0.1, 0.2, 90.0, False),
        (10_000, 0.1, 0.0, 90.0, False),
        (10_000, 0.0, 0.2, 0.0, False),
    ],
)
def test_compiling_must_repay_itself(steps: int, eager: float, gain: float, cost: float, worth: bool) -> None:
    assert worth_compiling(steps, eager, gain, cost) is worth


def test_only_one_unseeded_process_on_a_gpu_may_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/cc")
    gpu = torch.device("cuda")
    assert possible(gpu, 1, seeded=False)
    assert not possible(gpu, 1, seeded=True)
    assert not possible(gpu, 2, seeded=False)
    assert not possible(torch.device("cpu"), 1, seeded=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not possible(gpu, 1, seeded=False)


class Counting:
    """Stands in for torch.compile: what it returns counts its calls."""

    def __init__(self, error: Exception | None = None) -> None:
        self.made = self.calls = 0
        self.error = error

    def __call__(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        self.made += 1

        def compiled(images: Tensor) -> Tensor:
            self.calls += 1
            if self.error is not None:
                raise self.error
            found: Tensor = model(images)
            return found

        return compiled


def decide(forward: Forward, steps: int = 100_000) -> None:
    def rehearse(compiled: Callable[[Tensor], Any]) -> None:
        compiled(IMAGES)

    forward.decide(steps, 0.1, IMAGES.shape, rehearse)


def test_a_long_training_goes_on_compiled_for_whole_batches_only() -> None:
    model, compile_ = nn.Linear(3, 2), Counting()
    forward = Forward(model, allowed=True, compile_=compile_)
    forward(IMAGES)
    assert compile_.made == 0
    decide(forward)
    assert forward.compiled
    assert torch.equal(forward(IMAGES), model(IMAGES))
    assert torch.equal(forward(IMAGES[:2]), model(IMAGES[:2]))
    assert (compile_.made, compile_.calls) == (1, 2)
    assert set(model.state_dict()) == {"weight", "bias"}


def test_it_is_decided_once_and_never_for_a_short_training() -> None:
    compile_ = Counting()
    forward = Forward(nn.Linear(3, 2), allowed=True, compile_=compile_)
    decide(forward, steps=10)
    assert not forward.undecided
    decide(forward)
    decide(Forward(nn.Linear(3, 2), allowed=False, compile_=compile_))
    assert compile_.made == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Failed to find C compiler\nmore"), "RuntimeError: Failed to find C compiler)"),
        (torch.OutOfMemoryError("CUDA out of memory."), "(CUDA out of memory.)"),
    ],
)
def test_a_network_that_cannot_be_compiled_goes_on_as_it_is(
    capsys: pytest.CaptureFixture[str], error: Exception, words: str
) -> None:
    model = nn.Linear(3, 2)
    forward = Forward(model, allowed=True, compile_=Counting(error))
    decide(forward)
    said = capsys.readouterr().out
    assert "WARNING: the network cannot be compiled" in said
    assert words in said
    assert not forward.compiled
    assert torch.equal(forward(IMAGES), model(IMAGES))


def test_the_waiting_for_data_is_no_part_of_a_step() -> None:
    now = [0.0]
    timer = StepTimer(lambda: now[0])

    def pass_time(seconds: float) -> str:
        now[0] += seconds
        return "batch"

    pass_time(99.0)
    timer.mark(50)
    assert timer.seconds is None
    for _ in range(10):
        assert timer.waiting(lambda: pass_time(3.0)) == "batch"
        pass_time(0.5)
    timer.mark(60)
    assert timer.seconds == pytest.approx(0.5)
    pass_time(7.0)
    timer.start()
    pass_time(4.0)
    timer.mark(2)
    assert timer.seconds == pytest.approx(2.0)
