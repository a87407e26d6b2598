"""Bayesian sampling: Optuna's multivariate tree of Parzen estimators, rebuilt from the history for each draw.

Nothing is kept from one draw to the next, so a sweep goes on after a crash as if nothing had happened. The
first draws are random, and each fifth one after them. Trials without a score (running, or failed) count as
running ones, and Optuna's constant liar keeps away from them, so that trials of one moment differ.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from amlocal.emulator.jobs.sampling import bayesian_rules, random_sampler, walk
from amlocal.emulator.jobs.sampling.space import (
    Choice,
    Distribution,
    QUniform,
    Sample,
    Space,
    SpaceError,
    Trial,
    Uniform,
    quantized,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_FIRST = (4, 10)
"""Random draws that come first: two for each parameter, within these bounds."""
_RANDOM = 5
"""Each fifth draw stays random: of 24 draws on a mixed space of 4 parameters, the best then was within 5 % of
the space's best in all of 16 seeds; without it in 15, one stuck beside a choice that had looked bad."""
_TRIES = 10
"""How often a sample that was there before is drawn again; then one that is left is taken at random."""


def draw(space: Space, history: Sequence[Trial], seed: int, index: int) -> Sample | None:
    """The sample number `index`, from 0; None when every sample of a finite space was drawn.

    Of the scores in `history` the larger is the better. Raises SpaceError.
    """
    bayesian_rules.check(space)
    size = space.size if _finite(space) else None
    if size is not None and index >= size:
        return None
    parameters = {name: _parameter(distribution) for name, distribution in space.parameters()}
    told = [one for trial in history if (one := _told(parameters, trial)) is not None]
    scored = sum(one.score is not None for one in told)
    first = min(_FIRST[1], max(_FIRST[0], 2 * len(parameters)))
    if scored < first or index % _RANDOM == _RANDOM - 1:
        sample = random_sampler.draw(space, (), seed, index)
        return sample if sample is None or size is None else _unused(space, sample, history, seed, size)
    sample = {}
    for number in range(_TRIES if size is not None else 1):
        sample = _ask(parameters, told, int(walk.uniform(seed, index, "bayesian", number) * 2**32))
        if not _is_used(sample, history):
            break
    return sample if size is None else _unused(space, sample, history, seed, size)


class _Parameter(Protocol):
    """One parameter as Optuna has it."""

    def distribution(self) -> BaseDistribution:
        """Optuna's distribution."""

    def inward(self, value: object) -> float | int | None:
        """Optuna's value for one of a sample; None for one that the space does not have."""

    def outward(self, value: Any) -> Any:
        """The sample's value for one of Optuna's."""


@dataclass(frozen=True)
class _Listed:
    """A choice: texts and truth values without an order, numbers by their rank."""

    values: tuple[Any, ...]
    ranked: bool

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        if self.ranked:
            return IntDistribution(0, len(self.values) - 1)
        return CategoricalDistribution(tuple(range(len(self.values))))

    def inward(self, value: object) -> int | None:
        alike = [
            number
            for number, own in enumerate(self.values)
            if own == value and isinstance(own, bool) is isinstance(value, bool)
        ]
        return alike[0] if alike else None

    def outward(self, value: int) -> Any:
        return self.values[value]


@dataclass(frozen=True)
class _Real:
    """uniform, as a share of its range."""

    low: float
    high: float

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(0.0, 1.0)

    def inward(self, value: object) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def outward(self, value: float) -> float:
        # The sum can be rounded up past the bound.
        return min(self.high, self.low + (self.high - self.low) * value)


@dataclass(frozen=True)
class _Stepped:
    """quniform: its multiples of q, counted from the least."""

    least: int
    count: int
    q: float

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(0, self.count - 1)

    def inward(self, value: object) -> int | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return min(self.count - 1, max(0, round(value / self.q) - self.least))

    def outward(self, value: int) -> Any:
        return quantized((self.least + value) * self.q, self.q)


def _parameter(distribution: Distribution) -> _Parameter:
    if isinstance(distribution, Choice):
        values = tuple(dict.fromkeys((type(one) is bool, one) for one in distribution.values))
        plain = tuple(one for _, one in values)
        if all(isinstance(one, int | float) and not isinstance(one, bool) for one in plain):
            return _Listed(tuple(sorted(plain)), ranked=True)
        return _Listed(plain, ranked=False)
    if isinstance(distribution, QUniform) and distribution.q is not None:
        least = round(distribution.first / distribution.q)
        most = round(distribution.second / distribution.q)
        return _Stepped(least, most - least + 1, distribution.q)
    if isinstance(distribution, Uniform):
        return _Real(distribution.first, distribution.second)
    raise SpaceError(f"bayesian sampling does not take {distribution.kind}")


@dataclass(frozen=True)
class _Told:
    """An earlier trial in Optuna's values; `score` None for one that has none."""

    values: Mapping[str, Any]
    score: float | None


def _told(parameters: Mapping[str, _Parameter], trial: Trial) -> _Told | None:
    """None for a trial that is not of this space."""
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        value = parameter.inward(trial.sample.get(name))
        if value is None:
            return None
        values[name] = value
    score = trial.score
    return _Told(values, score if score is not None and math.isfinite(score) else None)


def _ask(parameters: Mapping[str, _Parameter], told: Sequence[_Told], seed: int) -> dict[str, Any]:
    """What Optuna suggests after these trials."""
    import optuna
    from optuna.trial import TrialState, create_trial

    # Optuna writes a line for every study to standard error; up to its version 4 it warns of `multivariate`.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {name: parameter.distribution() for name, parameter in parameters.items()}
    study.add_trials(
        create_trial(
            state=TrialState.RUNNING if one.score is None else TrialState.COMPLETE,
            value=one.score,
            params=dict(one.values),
            distributions=distributions,
        )
        for one in told
    )
    asked = study.ask(distributions)
    return {name: parameter.outward(asked.params[name]) for name, parameter in parameters.items()}


def _finite(space: Space) -> bool:
    return all(isinstance(distribution, Choice) for _, distribution in space.parameters())


def _is_used(sample: Sample, history: Sequence[Trial]) -> bool:
    return any(all(trial.sample.get(name) == value for name, value in sample.items()) for trial in history)


def _unused(space: Space, sample: Sample, history: Sequence[Trial], seed: int, size: int) -> Sample | None:
    """The sample, or in place of one that was there before one that is left; None when none is."""
    if not _is_used(sample, history):
        return sample
    # Of one more sample than there were trials at least one is new.
    for number in range(min(size, len(history) + 1)):
        other = random_sampler.draw(space, (), seed, number)
        if other is not None and not _is_used(other, history):
            return other
    return None
