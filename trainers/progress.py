"""What a person reads while a trial runs: plain lines on stdout, each flushed at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

# NotSet is, in Azure's words, "No logs emitted".
_LEVELS = {"Debug": 10, "Info": 20, "Warning": 30, "Error": 40, "Critical": 50, "NotSet": 60}
_DEBUG, _INFO, _WARNING = (_LEVELS[name] for name in ("Debug", "Info", "Warning"))


class _Level:
    lowest = _INFO


def set_level(name: str) -> None:
    """Print lines of log_verbosity `name` and above. Errors and the final line are always printed.

    Raises KeyError for a name that Azure does not have.
    """
    _Level.lowest = _LEVELS[name]


def silence() -> None:
    """Leave the lines of a trial to another process of it."""
    _Level.lowest = sys.maxsize


def debugging() -> bool:
    """Whether details are asked for."""
    return _Level.lowest <= _DEBUG


def _print(text: str) -> None:
    print(text, flush=True)


def debug(text: str) -> None:
    """A detail that only log_verbosity Debug shows."""
    if _Level.lowest <= _DEBUG:
        _print(text)


def say(text: str = "") -> None:
    """Print one line now; the log is followed line by line."""
    if _Level.lowest <= _INFO:
        _print(text)


def warn(text: str) -> None:
    """A line that should catch the eye."""
    if _Level.lowest <= _WARNING:
        _print(f"WARNING: {text}")


def error(text: str) -> None:
    """Why the trial failed."""
    if _Level.lowest < sys.maxsize:
        _print(f"ERROR: {text}")


def final(text: str) -> None:
    """How the trial ended, at every log_verbosity."""
    if _Level.lowest < sys.maxsize:
        _print(text)


def header(title: str, facts: Mapping[str, object]) -> None:
    """A title and facts, one under the other, aligned."""
    say(title)
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        say(f"  {name:<{width}}  {value}")
    say()


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 07 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class EpochLines:
    """One line per finished epoch; within long epochs a line every `every` seconds; at log_verbosity Debug
    a line per step.

    `images` is how many the trial trains on in one epoch, in all processes; `memory` says what is in use.
    """

    def __init__(
        self,
        epochs: int,
        images: int,
        every: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        memory: Callable[[], str] = str,
    ):
        self._epochs = epochs
        self._images = images
        self._every = every
        self._clock = clock
        self._memory = memory
        self._seconds: list[float] = []
        self._besides = 0.0
        self._start = self._last = clock()
        self._epoch = self._steps = 0
        self._metric = ""

    def begin(self, epoch: int, steps: int) -> None:
        """`epoch` (from 0) of `steps` steps starts now."""
        self._epoch = epoch
        self._steps = steps
        self._start = self._last = self._clock()

    @property
    def due(self) -> bool:
        """Whether a line should be printed at this step: the last one is long ago, or details are asked
        for."""
        return debugging() or self._clock() - self._last >= self._every

    def step(self, step: int, images: int, loss: float) -> None:
        """`step` steps and `images` images of the current epoch are done, with this mean loss."""
        self._last = now = self._clock()
        passed = max(now - self._start, 1e-9)
        left = passed / max(step, 1) * max(0, self._steps - step) + self._besides
        left += self._epochs_left() * self._epoch_seconds(passed * self._steps / max(step, 1))
        self._say(
            f"  epoch {self._name()}  step {step}/{self._steps}  loss {loss:.4f}{self._metric}",
            images / passed,
            left,
        )

    def end(self, train_seconds: float, values: Mapping[str, float | None], best: bool) -> None:
        """The current epoch is over, evaluation included; `values` are shown in their order. Lines within
        the next epoch repeat the first of them that is no loss."""
        passed = self._clock() - self._start
        self._seconds.append(passed)
        self._besides = max(0.0, passed - train_seconds)
        present = {name: value for name, value in values.items() if value is not None}
        if metric := next((name for name in present if "loss" not in name), None):
            self._metric = f"  {metric} {present[metric]:.4f}"
        shown = "".join(f"  {name} {value:.4f}" for name, value in present.items())
        rate = self._images / max(train_seconds, 1e-9)
        left = self._epochs_left() * self._epoch_seconds(passed)
        self._say(f"epoch {self._name()}{shown}", rate, left, "  *" if best else "")

    def _epochs_left(self) -> int:
        return self._epochs - self._epoch - 1

    def _epoch_seconds(self, projected: float) -> float:
        recent = self._seconds[-5:]
        return sum(recent) / len(recent) if recent else projected

    def _name(self) -> str:
        return f"{self._epoch + 1:>{len(str(self._epochs))}}/{self._epochs}"

    def _say(self, text: str, rate: float, left: float, mark: str = "") -> None:
        parts = [text, f"{rate:.0f} images/s" if rate >= 10 else f"{rate:.1f} images/s"]
        parts.append(f"{duration(left)} left")
        if memory := self._memory():
            parts.append(memory)
        say("  ".join(parts) + mark)


def flush() -> None:
    """Push out everything printed so far."""
    sys.stdout.flush()
    sys.stderr.flush()
