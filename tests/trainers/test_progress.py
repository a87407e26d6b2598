from __future__ import annotations

from collections.abc import Iterator

import pytest

from amlocal.trainers import progress
from amlocal.trainers.progress import EpochLines

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def ordinary_level() -> Iterator[None]:
    progress.set_level("Info")
    yield
    progress.set_level("Info")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def speak() -> None:
    progress.debug("a detail")
    progress.say("a line")
    progress.warn("look out")
    progress.error("it broke")
    progress.final("the end")


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("Debug", ["a detail", "a line", "WARNING: look out", "ERROR: it broke", "the end"]),
        ("Info", ["a line", "WARNING: look out", "ERROR: it broke", "the end"]),
        ("Warning", ["WARNING: look out", "ERROR: it broke", "the end"]),
        ("Error", ["ERROR: it broke", "the end"]),
        ("Critical", ["ERROR: it broke", "the end"]),
        ("NotSet", ["ERROR: it broke", "the end"]),
    ],
)
def test_log_verbosity_decides_which_lines_are_printed(
    capsys: Captured, level: str, expected: list[str]
) -> None:
    progress.set_level(level)
    speak()
    assert capsys.readouterr().out.splitlines() == expected


def test_a_silenced_process_prints_nothing_and_an_unknown_level_is_an_error(capsys: Captured) -> None:
    progress.silence()
    speak()
    assert capsys.readouterr().out == ""
    with pytest.raises(KeyError):
        progress.set_level("Loud")


def test_one_line_per_epoch_with_speed_time_left_and_memory(capsys: Captured) -> None:
    clock = Clock()
    lines = EpochLines(12, 200, clock=clock, memory=lambda: "2.1 GiB")
    lines.begin(1, 25)
    clock.now += 20
    assert lines.due
    clock.now += 5
    values = {"loss": 0.51234, "validation loss": None, "accuracy": 0.875}
    lines.end(20.0, values, True)
    assert capsys.readouterr().out == (
        "epoch  2/12  loss 0.5123  accuracy 0.8750  10 images/s  4 min 10 s left  2.1 GiB  *\n"
    )


def test_in_a_long_epoch_a_line_is_due_every_15_seconds(capsys: Captured) -> None:
    clock = Clock()
    lines = EpochLines(3, 1000, clock=clock)
    lines.begin(0, 100)
    assert not lines.due
    clock.now += 14.9
    assert not lines.due
    clock.now += 0.1
    assert lines.due
    lines.step(10, 100, 1.5)
    # 90 steps of 1.5 s are left of this epoch, and two epochs of 150 s.
    expected = "  epoch 1/3  step 10/100  loss 1.5000  6.7 images/s  7 min 15 s left\n"
    assert capsys.readouterr().out == expected
    assert not lines.due
    clock.now += 15
    assert lines.due


def test_later_lines_know_the_metric_and_what_evaluation_takes(capsys: Captured) -> None:
    clock = Clock()
    lines = EpochLines(3, 1000, clock=clock)
    lines.begin(0, 100)
    clock.now += 130
    lines.end(100.0, {"loss": 1.0, "AUC_weighted": 0.9, "accuracy": 0.5}, False)
    lines.begin(1, 100)
    clock.now += 50
    capsys.readouterr()
    lines.step(50, 500, 0.75)
    # 50 steps of 1 s, 30 s of evaluation, one more epoch of 130 s.
    expected = "  epoch 2/3  step 50/100  loss 0.7500  AUC_weighted 0.9000  10 images/s  3 min 30 s left\n"
    assert capsys.readouterr().out == expected


def test_at_debug_every_step_is_due() -> None:
    lines = EpochLines(1, 10, clock=Clock())
    lines.begin(0, 5)
    assert not lines.due
    progress.set_level("Debug")
    assert lines.due


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
