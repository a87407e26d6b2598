"""Rounds of windows: every contestant is measured in every round, so that what else the machine does, its
clock and its heat hit all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")

WARM_UP = 2
"""Steps at the start of each window that do not count: caches fill, kernels are chosen, workers catch up."""


@dataclass(frozen=True)
class Window:
    """So many images in so many seconds."""

    images: int
    seconds: float

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


class Contestant(Protocol):
    """Something that handles images."""

    name: str

    def window(self, seconds: float) -> Window:
        """Warm up, then work for at least `seconds`."""


@dataclass(frozen=True)
class Rate:
    """Images per second: the median of the windows, and how far they lie apart (largest minus smallest, by
    the median). `each`: of every round."""

    median: float
    spread: float
    each: tuple[float, ...] = field(default=(), compare=False)

    def ratio_spread(self, other: Rate) -> float:
        """How far the ratios to `other` lie apart from round to round (largest minus smallest, by the
        median)."""
        ratios = [own / its for own, its in zip(self.each, other.each, strict=True)]
        return (max(ratios) - min(ratios)) / statistics.median(ratios)


def settle(device: torch.device) -> float:
    """Wait for the GPU; the time then, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def window(source: Iterator[T], step: Callable[[T], int], seconds: float, device: torch.device) -> Window:
    """Feed `step`, which returns how many images it handled, from an endless source."""
    for _ in range(WARM_UP):
        step(next(source))
    begin = settle(device)
    images = 0
    while time.perf_counter() - begin < seconds or not images:
        images += step(next(source))
    return Window(images, settle(device) - begin)


def compare(
    contestants: Sequence[Contestant],
    rounds: int,
    seconds: float,
    tell: Callable[[str], None] = lambda _: None,
) -> Mapping[str, Rate]:
    """Each contestant's rate over `rounds` rounds of windows of `seconds`; each round begins with another
    one."""
    windows: dict[str, list[Window]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        turn = number % len(contestants)
        for contestant in (*contestants[turn:], *contestants[:turn]):
            tell(f"round {number + 1} of {rounds}: {contestant.name}")
            windows[contestant.name].append(contestant.window(seconds))
    return {name: rate(found) for name, found in windows.items()}


def rate(windows: Sequence[Window]) -> Rate:
    """Median and spread of some windows."""
    rates = [window.rate for window in windows]
    median = statistics.median(rates)
    return Rate(median, (max(rates) - min(rates)) / median, tuple(rates))
