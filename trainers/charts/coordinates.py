"""The axes of parallel coordinates: where on its axis each hyperparameter's value stands."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from amlocal.trainers.charts import labels

MOST_AXES = 12
_MOST_TICKS = 9
_FEW = 5
_STEEP = 30.0
_SPREAD = 0.02
ABSENT = -0.06
"""Where lines pass whose trial does not have the hyperparameter."""


@dataclass(frozen=True)
class Coordinate:
    """One axis, from 0 to 1: of numbers from `low` to `high`, or of `words` from the bottom to the top.

    `few`: the numbers where they are few. `absent`: not every trial has the hyperparameter.
    """

    name: str
    words: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    logarithmic: bool = False
    absent: bool = False
    few: tuple[float, ...] = ()

    @classmethod
    def of_numbers(
        cls, name: str, values: Sequence[float], *, absent: bool = False, steep: float = _STEEP
    ) -> Self:
        """An axis for numbers, logarithmic where all are positive and their ratio is at least `steep`."""
        low, high = min(values), max(values)
        few = tuple(sorted(set(values)))
        return cls(
            name,
            low=low,
            high=high,
            logarithmic=low > 0 and high / low >= steep,
            absent=absent,
            few=few if len(few) <= _FEW else (),
        )

    @property
    def shown(self) -> str:
        return labels.shown([self.name], 22)[0]

    def height(self, value: Any, trial: str) -> float:
        """Where a value stands; among words moved a little, by the trial's name, so that lines stay apart."""
        if value is None:
            return ABSENT
        if not self.words:
            return self._number(float(value))
        shift = (hashlib.sha256(trial.encode()).digest()[0] / 255.0 - 0.5) * 2.0 * _SPREAD
        return self._word(self.words.index(_text(value))) + shift

    def ticks(self) -> list[tuple[float, str]]:
        """(height, text) of what is written at the axis."""
        found = [(ABSENT, "not set")] if self.absent else []
        if self.words:
            step = labels.every(len(self.words), _MOST_TICKS)
            texts = labels.shown(self.words, 16)
            return found + [(self._word(i), texts[i]) for i in range(0, len(texts), step)]
        if self.few:
            return found + [(self._number(value), f"{value:.4g}") for value in self.few]
        if self.logarithmic:
            first, last = math.log(self.low), math.log(self.high)
            values = [math.exp(first + (last - first) * part / 4) for part in range(5)]
        else:
            values = [self.low + (self.high - self.low) * part / 4 for part in range(5)]
        return found + [(part / 4, f"{value:.3g}") for part, value in enumerate(values)]

    def _number(self, value: float) -> float:
        if self.low == self.high:
            return 0.5
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def _word(self, place: int) -> float:
        return 0.5 if len(self.words) == 1 else place / (len(self.words) - 1)


def coordinates(parameters: Sequence[Mapping[str, Any]]) -> list[Coordinate]:
    """An axis for each hyperparameter that is not the same in all trials, at most MOST_AXES of them."""
    found = []
    for name in dict.fromkeys(name for given in parameters for name in given):
        values = [given.get(name) for given in parameters]
        there = [value for value in values if value is not None]
        if len({_text(value) for value in there}) + (len(there) < len(values)) < 2:
            continue
        absent = len(there) < len(values)
        if all(_is_number(value) for value in there):
            found.append(Coordinate.of_numbers(name, [float(value) for value in there], absent=absent))
        else:
            words = sorted({_text(value) for value in there})
            found.append(Coordinate(name, words=tuple(words), absent=absent))
    return found[:MOST_AXES]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
