"""The loop when memory is short: smaller batches, the same steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from loop_desk import FLAT, Toy, make, network, train, weights
from torch import Tensor, nn

from amlocal.trainers.checkpoints import Checkpoints
from amlocal.trainers.data import batches
from amlocal.trainers.errors import TrainingError


class Small(nn.Module):
    """Fails on more than `most` images, from the `after`-th call in training on."""

    def __init__(self, most: int, error: Callable[[], Exception], after: int = 0) -> None:
        super().__init__()
        self.inner = network(0.5)
        self.most, self.error, self.after = most, error, after

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.after -= 1
            if self.after < 0 and len(images) > self.most:
                raise self.error()
        found: Tensor = self.inner(images)
        return found


SHORTAGES = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    lambda: RuntimeError("not enough memory: you tried to allocate 8 bytes"),
    MemoryError,
]


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_a_batch_that_does_not_fit_is_halved_and_accumulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shortage: Callable[[], Exception]
) -> None:
    task = Toy(24, 8)
    short, fit = train(tmp_path / "short", task, Small(3, shortage), **FLAT)
    said = [line for line in capsys.readouterr().out.splitlines() if "does not fit" in line]
    assert len(said) == 2
    assert "a batch of 4 does not fit" in said[1]
    assert "going on with 2 and the gradients of 4 batches together" in said[1]
    assert "epoch 1 starts again" in said[1]
    assert (task.batch_size, fit.epochs) == (2, 2)
    given = FLAT | {"gradient_accumulation_step": 4}
    straight, _ = train(tmp_path / "straight", Toy(24, 2), Small(99, MemoryError), **given)
    assert torch.equal(short, straight)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("after", [2, 3, 5])
def test_after_steps_were_taken_the_epoch_goes_back_to_its_beginning(
    tmp_path: Path, after: int, optimizer: str
) -> None:
    """As if the shortage had come at the first of the epoch's three steps."""
    given = FLAT | {"optimizer": optimizer, "learning_rate": 0.02}
    late_task, early_task = Toy(24, 8), Toy(24, 8)
    late, _ = train(tmp_path / "late", late_task, Small(4, MemoryError, after), **given)
    early, _ = train(tmp_path / "early", early_task, Small(4, MemoryError, after // 3 * 3), **given)
    assert torch.equal(late, early)
    # The same images in the same order as without a shortage.
    assert [i for which in late_task.seen[-6:] for i in which] == [
        i for which in batches.shuffled(24, 8, batches.generator(5, 1)) for i in which
    ]


@pytest.mark.parametrize(
    ("images", "size", "most", "expected"), [(40, 13, 4, (4, 3)), (12, 64, 6, (6, 2)), (40, 16, 4, (4, 4))]
)
def test_odd_batches_keep_the_images_of_a_step_nearly_alike(
    tmp_path: Path, images: int, size: int, most: int, expected: tuple[int, int]
) -> None:
    task = Toy(images, size)
    trained = make(tmp_path, task, Small(most, MemoryError), **FLAT)
    trained.fit(None)
    assert (task.batch_size, trained._stepper.accumulation) == expected


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (MemoryError(), TrainingError, r"not enough memory to train on a single image.*crop size"),
        (RuntimeError("mat1 and mat2 differ"), RuntimeError, "mat1 and mat2"),
    ],
)
def test_one_image_that_does_not_fit_and_other_errors_end_the_trial(
    tmp_path: Path, error: Exception, expected: type[Exception], words: str
) -> None:
    with pytest.raises(expected, match=words):
        train(tmp_path, Toy(8, 4), Small(0, lambda: error))


def test_a_resumed_attempt_goes_on_with_the_smaller_batch(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", Toy(24, 8), Small(4, MemoryError), number_of_epochs=3, **FLAT)
    folder = tmp_path / "half"
    train(folder, Toy(24, 8), Small(4, MemoryError), number_of_epochs=2, **FLAT)
    task, model = Toy(24, 8), Small(4, MemoryError)
    torch.manual_seed(99)
    resumed = make(folder, task, model, number_of_epochs=3, **FLAT)
    resumed.fit(Checkpoints(folder).latest())
    assert task.batch_size == 4
    assert {len(which) for which in task.seen} == {4}
    assert torch.equal(weights(model), whole)
