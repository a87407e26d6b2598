"""Every sampling algorithm by its name, and a sweep's choice of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from amlocal.emulator.jobs.sampling import bayesian_rules, bayesian_sampler, grid_sampler, random_sampler
from amlocal.emulator.jobs.sampling.space import Sample, Space, SpaceError, Trial


class Sampler(Protocol):
    """A pure function: the same arguments give the same sample, whatever happened in between."""

    def __call__(self, space: Space, history: Sequence[Trial], seed: int, index: int) -> Sample | None:
        """The sample number `index`, from 0; None when there are no more. Raises SpaceError."""


def _anything(space: Space) -> None:
    """Random sampling takes every space."""


CHECKS: Mapping[str, Callable[[Space], None]] = {
    "random": _anything,
    "grid": grid_sampler.check,
    "bayesian": bayesian_rules.check,
}
"""What each algorithm demands of a space; the keys are the names of all algorithms."""
SAMPLERS: Mapping[str, Sampler] = {
    "random": random_sampler.draw,
    "grid": grid_sampler.draw,
    "bayesian": bayesian_sampler.draw,
}
"""Every algorithm that is there."""


@dataclass(frozen=True)
class Sampling:
    """How a sweep draws. `seed` None: none was given; `base` is that of the log distributions."""

    algorithm: str = "random"
    seed: int | None = None
    rule: str = "random"
    base: float = math.e

    def check(self, space: Space) -> None:
        """Raises SpaceError for a space that the algorithm does not take."""
        CHECKS[self.algorithm](space)

    def draw(self, space: Space, history: Sequence[Trial], seed: int, index: int) -> Sample | None:
        """The sample number `index`; `seed` counts where none was given. Of the scores in `history` the
        larger is the better. Raises SpaceError."""
        seed = seed if self.seed is None else self.seed
        if self.algorithm != "random":
            return SAMPLERS[self.algorithm](space, history, seed, index)
        return random_sampler.draw(space, history, seed, index, rule=self.rule, base=self.base)


def read(algorithm: object) -> Sampling:
    """What a REST body says: a name, or an object with samplingAlgorithmType and its options.

    Raises SpaceError naming the field.
    """
    given: Mapping[str, Any] = algorithm if isinstance(algorithm, dict) else {}
    name = given.get("samplingAlgorithmType") if given else algorithm
    known = name.lower() if isinstance(name, str) else ""
    if known not in CHECKS:
        raise SpaceError(f"sampling_algorithm is {_brief(name)}; it must be one of {', '.join(CHECKS)}")
    if known != "random":
        return Sampling(known)
    return Sampling(known, _seed(given.get("seed")), _rule(given.get("rule")), _base(given.get("logbase")))


def _seed(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise SpaceError(f"sampling_algorithm.seed is {_brief(value)}; it must be a whole number of 32 bits")
    return value


def _rule(value: object) -> str:
    rule = "random" if value is None else value.lower() if isinstance(value, str) else ""
    if rule not in random_sampler.RULES:
        allowed = " or ".join(random_sampler.RULES)
        raise SpaceError(f"sampling_algorithm.rule is {_brief(value)}; it must be {allowed}")
    return rule


def _base(value: object) -> float:
    if value is None or value == "e":
        return math.e
    base = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            base = float(value)
        except (ValueError, OverflowError):
            base = math.nan
    if not 0 < base < math.inf or base == 1:
        raise SpaceError(
            f'sampling_algorithm.logbase is {_brief(value)}; it must be "e" or a positive number other than 1'
        )
    return base


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
