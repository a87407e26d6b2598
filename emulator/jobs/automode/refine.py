"""AutoMode's later trials: the best one so far, changed in one respect.

What helped when it was tried is done again from the new best, what did not is left; when every change was
tried, learning rate and epochs are drawn near the best. Two of three trials start from the best trial, the
third from the best one of the second best model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amlocal.compat import names
from amlocal.emulator.jobs.automode import cost
from amlocal.emulator.jobs.automode import moves as moving
from amlocal.emulator.jobs.automode.facts import MODEL, Facts, key_of
from amlocal.emulator.jobs.automode.moves import Move
from amlocal.emulator.jobs.automode.recipes import EPOCHS, RATE, with_epochs
from amlocal.emulator.jobs.sampling import walk
from amlocal.emulator.jobs.sampling.space import Sample
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps.plan import Played

_NEAR = 0.9
"""The second best model is varied, too, while it scores at least this share of the best."""
_THIRD = 3
_TRIES = 8
_LATEST = 40
"""Trials of a network of which every two are compared: with a thousand the comparisons would take long."""
_ENDED = (JobState.FAILED, JobState.CANCELED)


@dataclass(frozen=True)
class _Tried:
    """A trial with all its parameters; `score` None while it is not known."""

    index: int
    sample: Sample
    values: Mapping[str, Any]
    network: tuple[Any, ...]
    score: float | None


@dataclass(frozen=True)
class Varied:
    """A sample and why it is one."""

    sample: Sample
    reason: str


def variations(facts: Facts, seed: int, trials: Sequence[Played], index: int, after: int) -> Iterator[Varied]:
    """Samples for trial `index`, the most promising first, none that was tried; `after` is the number of
    trials that were not made here."""
    tried = [_tried(facts, trial) for trial in trials]
    for base in _bases(tried, (index - after) % _THIRD == _THIRD - 1):
        where = f"around trial {base.index} ({_name(base)}{_scored(base)})"
        for move, why in _ordered(facts, base, tried):
            sample = {**base.sample, **move.changes}
            if _is_new(facts, sample, tried):
                yield Varied(sample, f"{where}: {move.told(base.values)}; {why}")
        yield from _near(facts, seed, base, tried, index, where)


def is_new(facts: Facts, sample: Sample, trials: Sequence[Played]) -> bool:
    """Whether no trial had these parameters."""
    return _is_new(facts, sample, [_tried(facts, trial) for trial in trials])


def _tried(facts: Facts, trial: Played) -> _Tried:
    values = cost.whole(facts, trial.sample)
    score = trial.score
    if score is None and trial.state in _ENDED:
        score = float("-inf")
    return _Tried(trial.index, trial.sample, values, moving.network(facts, values), score)


def _bases(tried: Sequence[_Tried], second: bool) -> list[_Tried]:
    """From which trials to vary, in this order."""
    scored = [one for one in tried if one.score is not None and one.score > float("-inf")]
    if not scored:
        # Nothing is known yet: the plan's best suited model is varied, or the only one there is.
        return [*tried[1:2], *tried[:1]]
    best = max(scored, key=lambda one: (one.score, -one.index))
    others = [one for one in scored if one.network != best.network]
    next_best = max(others, key=lambda one: (one.score, -one.index), default=None)
    if next_best is None or (next_best.score or 0.0) < _NEAR * (best.score or 0.0):
        return [best]
    return [next_best, best] if second else [best, next_best]


def _ordered(facts: Facts, base: _Tried, tried: Sequence[_Tried]) -> list[tuple[Move, str]]:
    """The moves from a trial: what helped first, then what was not tried, in the order of `moves`."""
    row = names.model(facts.task, base.values[MODEL])
    start = facts.starts.get(key_of(facts.task, row.name, base.values), "random")
    helped, unknown = [], []
    for move in moving.moves(facts, row, start, base.values):
        trend = _trend(move, base, tried)
        if trend is True:
            helped.append((move, "this helped before"))
        elif trend is None:
            unknown.append((move, "not tried yet"))
    return [*helped, *unknown]


def _trend(move: Move, base: _Tried, tried: Sequence[_Tried]) -> bool | None:
    """Whether the latest change of this kind between two trials of the network made the score better; None
    where there was none."""
    found: bool | None = None
    own = [one for one in tried if one.network == base.network and one.score is not None][-_LATEST:]
    for later in own:
        for earlier in own:
            changed = moving.changed(earlier.values, later.values)
            if (
                earlier.index < later.index
                and changed
                and changed <= set(move.keys)
                and moving.direction(move, earlier.values[move.first], later.values[move.first])
            ):
                found = (later.score or 0.0) > (earlier.score or 0.0)
    return found


def _is_new(facts: Facts, sample: Sample, tried: Sequence[_Tried]) -> bool:
    """Whether no trial had these parameters. A sample that its model cannot have is none either."""
    try:
        values = cost.whole(facts, sample)
    except names.BadParameter:
        return False
    own = [one for one in tried if one.values[MODEL] == values[MODEL]]
    return all(moving.changed(one.values, values) for one in own)


def _near(
    facts: Facts, seed: int, base: _Tried, tried: Sequence[_Tried], index: int, where: str
) -> Iterator[Varied]:
    """Learning rates within a factor of 2, and up to half as many epochs more, drawn by the seed."""
    for number in range(_TRIES):
        sample = dict(base.sample)
        told = []
        if RATE not in facts.fixed:
            factor = 2.0 ** (2 * walk.uniform(seed, index, "rate", number) - 1)
            sample[RATE] = float(f"{min(1.0, base.values[RATE] * factor):.2g}")
            told.append(f"learning_rate {sample[RATE]:g}")
        if EPOCHS not in facts.fixed:
            more = 1 + 0.5 * walk.uniform(seed, index, "epochs", number)
            sample = with_epochs(sample, round(base.values[EPOCHS] * more))
            told.append(f"number_of_epochs {sample[EPOCHS]}")
        if told and _is_new(facts, sample, tried):
            yield Varied(sample, f"{where}: {' and '.join(told)}, drawn near it: single changes were tried")


def _name(base: _Tried) -> str:
    model, size = base.network
    return f"{model} {size}" if size else str(model)


def _scored(base: _Tried) -> str:
    return "" if base.score is None else f", score {base.score:.4g}"
