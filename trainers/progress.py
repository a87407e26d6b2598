"""What a person reads while a trial runs: plain lines on stdout, each flushed at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping


def say(text: str = "") -> None:
    """Print one line now; the log is followed line by line."""
    print(text, flush=True)


def warn(text: str) -> None:
    """A line that should catch the eye."""
    say(f"WARNING: {text}")


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
    """One line per finished epoch; within long epochs a line every `every` seconds."""

    def __init__(
        self, epochs: int, images: int, every: float = 15.0, clock: Callable[[], float] = time.monotonic
    ):
        self._epochs = epochs
        self._images = images
        self._every = every
        self._clock = clock
        self._seconds: list[float] = []
        self._start = self._last = clock()
        self._epoch = 0

    def begin(self, epoch: int) -> None:
        """`epoch` (from 0) starts now."""
        self._epoch = epoch
        self._start = self._last = self._clock()

    def step(self, images_done: int, loss: float) -> None:
        """Some images of the current epoch are done; speaks up only if the last line is long ago."""
        now = self._clock()
        if now - self._last < self._every or images_done >= self._images:
            return
        self._last = now
        rate = images_done / (now - self._start)
        say(
            f"  epoch {self._epoch + 1}/{self._epochs}: {images_done}/{self._images} images  "
            f"loss {loss:.4f}  {rate:.0f} images/s"
        )

    def end(self, train_seconds: float, values: Mapping[str, float | None], best: bool) -> None:
        """The current epoch is over, evaluation included; `values` are shown in their order."""
        self._seconds.append(self._clock() - self._start)
        recent = self._seconds[-5:]
        left = (self._epochs - self._epoch - 1) * sum(recent) / len(recent)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)
        width = len(str(self._epochs))
        say(
            f"epoch {self._epoch + 1:>{width}}/{self._epochs}  {shown}  "
            f"{self._images / max(train_seconds, 1e-9):.0f} images/s  "
            f"{duration(left)} left{'  *' if best else ''}"
        )


def flush() -> None:
    """Push out everything printed so far."""
    sys.stdout.flush()
    sys.stderr.flush()
