"""The loop on networks of a few weights; whole trials are in test_trial.py."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_desk import FLAT, Toy, make, network, train, weights
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from amlocal.trainers import loop as loops
from amlocal.trainers.checkpoints import Checkpoints
from amlocal.trainers.compiling import Forward
from amlocal.trainers.data import batches
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.layouts import Layout


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("images", "size", "accumulate"), [(26, 4, 2), (24, 2, 4), (22, 2, 4), (21, 3, 3)])
def test_accumulated_gradients_are_those_of_the_large_batch(
    tmp_path: Path, optimizer: str, images: int, size: int, accumulate: int
) -> None:
    given = FLAT | {"optimizer": optimizer, "learning_rate": 0.02}
    large, _ = train(tmp_path / "large", Toy(images, size * accumulate), **given)
    small, _ = train(tmp_path / "small", Toy(images, size), gradient_accumulation_step=accumulate, **given)
    assert (large - weights(network())).abs().max() > 1e-2
    torch.testing.assert_close(small, large, atol=1e-6, rtol=0)


def test_accumulation_is_limited_to_the_batches_of_an_epoch(tmp_path: Path) -> None:
    all_at_once, _ = train(tmp_path / "a", Toy(24, 8), gradient_accumulation_step=3, **FLAT)
    more, _ = train(tmp_path / "b", Toy(24, 8), gradient_accumulation_step=50, **FLAT)
    assert torch.equal(all_at_once, more)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_same_start_gives_the_same_bits(tmp_path: Path, dropout: float) -> None:
    ends = [train(tmp_path / name, Toy(), network(dropout), **FLAT)[0] for name in ("one", "two")]
    assert torch.equal(*ends)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_rate_of_every_batch_follows_the_written_formula(tmp_path: Path, accumulate: int) -> None:
    task = Toy(26, 4)
    given = {"number_of_epochs": 5, "learning_rate": 0.02, "gradient_accumulation_step": accumulate}
    given |= {"warmup_cosine_lr_warmup_epochs": 2, "warmup_cosine_lr_cycles": 0.45}
    trained = make(tmp_path, task, network(), **given)
    rates: list[float] = []
    task.on_loss = lambda: rates.append(trained._stepper.optimizer.param_groups[0]["lr"])
    trained.fit(None)
    warm, total = 2 * 7, 5 * 7
    expected = [0.02 * step / warm for step in range(warm)]
    for step in range(warm, total):
        share = (step - warm) / (total - warm)
        expected.append(0.02 * max(0.0, 0.5 * (1 + math.cos(math.pi * 2 * 0.45 * share))))
    assert rates == pytest.approx(expected, abs=1e-12)


READERS = ("item", "cpu", "tolist", "numpy", "__float__", "__bool__", "__int__")


def test_the_loss_is_read_every_50_steps_and_at_the_end_and_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: Counter[str] = Counter()
    task = Toy(243, 2)
    ready = [list(task.train_batches(epoch)) for epoch in range(2)]
    monkeypatch.setattr(task, "train_batches", lambda epoch: iter(ready[epoch]))
    trained = make(tmp_path, task, network(), optimizer="adamw", learning_rate=0.001)
    real = trained._steps

    def counted(epoch: int, given: Any) -> float:
        with monkeypatch.context() as patch:
            for name in READERS:
                patch.setattr(Tensor, name, watched(name, getattr(Tensor, name)))
            return real(epoch, given)

    def watched(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            found[name] += 1
            return method(*arguments, **options)

        return call

    monkeypatch.setattr(trained, "_steps", counted)
    trained.fit(None)
    # 121 batches an epoch: after 50, 100 and 121 of them.
    assert found == {"tolist": 6}


def test_a_due_line_reads_the_loss_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = iter(range(0, 10_000, 4))
    task = Toy(26, 2)
    trained = make(tmp_path, task, network(), number_of_epochs=1)
    trained._lines._clock = lambda: float(next(now))
    trained.fit(None)
    said = [line for line in capsys.readouterr().out.splitlines() if "step" in line]
    assert len(said) > 1
    assert re.search(r"^  epoch 1/1  step \d+/13  loss 1\.\d+  .* images/s  .* GiB$", said[0])


@pytest.mark.parametrize(
    ("scores", "given", "expected"),
    [
        # From epoch 2 on, evaluations without progress count; three of them end it.
        ([0.5] * 9, {"early_stopping_delay": 2, "early_stopping_patience": 3}, (5, 4, [0, 1, 2, 3, 4])),
        (
            [0.1, 0.9, 0.2, 0.3, 0.9, 0.4, 0.5, 0.6, 0.7],
            {"early_stopping_delay": 1, "early_stopping_patience": 4},
            (6, 4, [0, 1, 2, 3, 4, 5]),
        ),
        ([0.5] * 9, {"early_stopping": False}, (9, 8, list(range(9)))),
        (
            [0.1, 0.0, 0.2, 0.0, 0.3, 0.0, 0.1, 0.9],
            {"evaluation_frequency": 2, "early_stopping": False, "number_of_epochs": 8},
            (8, 7, [0, 2, 4, 6, 7]),
        ),
    ],
)
def test_evaluations_and_early_stopping_follow_the_rules(
    tmp_path: Path, scores: list[float], given: dict[str, Any], expected: tuple[int, int, list[int]]
) -> None:
    task = Toy(8, 8, scores)
    given = {"number_of_epochs": 9, "early_stopping": True} | given
    _, fit = train(tmp_path, task, **given)
    assert (fit.epochs, fit.best_epoch, task.evaluated) == expected
    assert fit.score == scores[fit.best_epoch]
    assert fit.best.exists()


def test_batches_that_fall_out_leave_the_rest_of_the_epoch_as_it_is(tmp_path: Path) -> None:
    task = Toy(24, 4)
    task.lost = {4, 5}
    short, _ = train(tmp_path / "short", task, gradient_accumulation_step=3, number_of_epochs=1, **FLAT)
    assert len(task.seen) == 4
    # 12 images, then 4: the second step is the mean over 4 images.
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for which in ([*task.seen[0], *task.seen[1], *task.seen[2]], task.seen[3]):
        optimizer.zero_grad()
        F.cross_entropy(model(task.images[which]), task.targets[which]).backward()
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                assert parameter.grad is not None
                parameter.grad += 1e-4 * parameter.detach()
        optimizer.step()
    torch.testing.assert_close(short, weights(model), atol=1e-6, rtol=0)
    task.lost = set(range(6))
    with pytest.raises(TrainingError, match="none of the training images"):
        train(tmp_path / "none", task)


def test_fp16_trains_with_a_scaler_whose_state_is_kept(tmp_path: Path) -> None:
    task, model = Toy(24, 8), network()
    trained = make(tmp_path, task, model, Layout(False, "fp16"), **FLAT)
    assert trained._stepper.scaler.is_enabled()
    trained.fit(None)
    assert bool(torch.isfinite(weights(model)).all())
    assert (weights(model) - weights(network())).abs().max() > 1e-2
    checkpoint = Checkpoints(tmp_path).latest()
    assert checkpoint is not None
    assert checkpoint.state["scaler"]["scale"] > 0
    scaler = {**checkpoint.state["scaler"], "scale": 512.0}
    resumed = make(tmp_path, Toy(24, 8), network(), Layout(False, "fp16"), **FLAT)
    resumed.fit(replace(checkpoint, state={**checkpoint.state, "scaler": scaler}))
    assert resumed._stepper.scaler.get_scale() == 512.0


def test_a_network_is_compiled_on_the_way_and_its_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "amlocal.trainers.compiling.worth_compiling", lambda *facts: bool(asked.append(facts)) or True
    )
    ends = []
    for allowed in (False, True):
        task, model = Toy(26, 8), network()
        trained = make(tmp_path / str(allowed), task, model, number_of_epochs=3, **FLAT)
        trained._stepper.forward = Forward(
            model,
            allowed=allowed,
            compile_=lambda given: torch.compile(given, backend="eager"),
            clock=lambda: 0.0,
        )
        trained.fit(None)
        assert trained._stepper.forward.compiled == allowed
        ends.append(weights(model))
    # After the first whole batch of the third epoch: the first epoch is too early to measure.
    assert [steps for steps, *_ in asked] == [3]
    assert re.search(r"^compiled in \d+ s$", capsys.readouterr().out, re.MULTILINE)
    torch.testing.assert_close(ends[0], ends[1], atol=1e-6, rtol=0)
    checkpoint = Checkpoints(tmp_path / "True").latest()
    assert checkpoint is not None
    assert set(load_file(checkpoint.best)) == set(network().state_dict())


def test_an_exploding_loss_ends_the_trial_at_the_next_reading(tmp_path: Path) -> None:
    task = Toy(300, 2)
    real = task.loss
    calls: list[int] = []

    def exploding(outputs: Tensor, batch: batches.Batch) -> Tensor:
        calls.append(1)
        return real(outputs, batch) * (1000.0 if len(calls) > 30 else 1.0)

    task.loss = exploding  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"explodes.*learning_rate 0\.1"):
        train(tmp_path, task, **FLAT)
    assert len(calls) == loops._READ_EVERY
