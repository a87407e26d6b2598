"""AutoMode: automatic sweeps. Which models and parameters are tried, and in which order.

Our own procedure; Azure's is not public. `plan` is made once, before the first trial, and logged; then
`next_sample` gives one trial after the other, from the plan and from what the trials before it reached. Both
are pure: the same arguments give the same answer. Times are predicted (`cost`) and corrected by what
the trials took; they change a trial only where the time limit is near.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

from amlocal.emulator.jobs.automode import cost, recipes, refine
from amlocal.emulator.jobs.automode import moves as moving
from amlocal.emulator.jobs.automode.facts import Facts
from amlocal.emulator.jobs.automode.plan import AutoPlan, Choice, span
from amlocal.emulator.jobs.automode.planner import LEAST
from amlocal.emulator.jobs.automode.planner import plan as plan
from amlocal.emulator.jobs.sampling.space import Sample
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps.plan import Played

_LAST = 0.95
"""Share of the time limit until which a trial may be expected to end."""
_CORRECTION = (0.1, 10.0)


def next_sample(plan: AutoPlan, trials: Sequence[Played], index: int) -> Choice | None:
    """Trial number `index`, and why; None when there are as many as asked for, or no time for one more.

    `trials` are those made before, also the open ones.
    """
    facts = plan.facts
    if index >= facts.max_trials:
        return None
    if index == 0:
        return plan.first[0]
    taken = _taken(facts, trials)
    late = _late_default(plan, trials, taken)
    if late is not None:
        return late
    for limit in _limits(plan, trials, index):
        for choice, planned in _wanted(plan, trials, index):
            fitted = _fitted(plan, choice, _correction(facts, taken, choice.sample), limit)
            # With fewer epochs, more of them can turn out to be what was tried before.
            if fitted is not None and (planned or refine.is_new(facts, fitted.sample, trials)):
                return fitted
    return None


def why_none(plan: AutoPlan, trials: Sequence[Played], index: int) -> str:
    """What the log says when `next_sample` gave None."""
    if index >= plan.facts.max_trials:
        return f"all {plan.facts.max_trials} trials are made"
    left = max(0.0, time_left(plan, trials))
    return f"no more trials: none is predicted to end within the {span(left)} that are left"


def time_left(plan: AutoPlan, trials: Sequence[Played]) -> float:
    """Seconds that one more trial may take."""
    return plan.facts.timeout * _LAST - sum(trial.seconds or 0.0 for trial in trials) / plan.lanes


def _taken(facts: Facts, trials: Sequence[Played]) -> list[tuple[tuple[object, ...], float]]:
    """The network of each trial that ran to its end, and its time by what was predicted."""
    return [
        (_network(facts, trial.sample), trial.seconds / cost.seconds(facts, trial.sample))
        for trial in trials
        if trial.state is JobState.COMPLETED and trial.seconds
    ]


def _correction(facts: Facts, taken: Sequence[tuple[tuple[object, ...], float]], sample: Sample) -> float:
    """By what a predicted time is multiplied: the most of the trials of the same network, else the median of
    all, else 1."""
    if not taken:
        return 1.0
    network = _network(facts, sample)
    own = [ratio for other, ratio in taken if other == network]
    found = max(own) if own else statistics.median(ratio for _, ratio in taken)
    return min(_CORRECTION[1], max(_CORRECTION[0], found))


def _late_default(
    plan: AutoPlan, trials: Sequence[Played], taken: Sequence[tuple[tuple[object, ...], float]]
) -> Choice | None:
    """The default model, where the plan left it out for want of time and trials turned out faster."""
    choice = plan.default
    if plan.default_first or choice is None or not taken:
        return None
    if not refine.is_new(plan.facts, choice.sample, trials):
        return None
    seconds = choice.seconds * _correction(plan.facts, taken, choice.sample)
    if seconds > time_left(plan, trials):
        return None
    return replace(choice, seconds=seconds, reason=f"{choice.reason}; by what the first trials took, it fits")


def _wanted(plan: AutoPlan, trials: Sequence[Played], index: int) -> Iterator[tuple[Choice, bool]]:
    """What would be tried if time were no matter: the plan's models, then what varies the best of them; and
    whether it is of the plan."""
    facts = plan.facts
    seen = {_network(facts, trial.sample) for trial in (trials[1:] if plan.default_first else trials)}
    for choice in plan.first[1:]:
        if _network(facts, choice.sample) not in seen:
            yield choice, True
    for varied in refine.variations(facts, plan.seed, trials, index, len(plan.first)):
        values = cost.whole(facts, varied.sample)
        seconds = cost.seconds(facts, varied.sample)
        yield Choice(varied.sample, varied.reason, seconds, int(values[recipes.EPOCHS])), False


def _network(facts: Facts, sample: Sample) -> tuple[object, ...]:
    return moving.network(facts, cost.whole(facts, sample))


def _limits(plan: AutoPlan, trials: Sequence[Played], index: int) -> list[float]:
    """Seconds that the next trial may take: where time is short its share of what is left, and all of that
    only when nothing fits into the share."""
    left = time_left(plan, trials)
    if not plan.tight:
        return [left]
    return [left / max(1, math.ceil((plan.trials - index) / plan.lanes)), left]


def _fitted(plan: AutoPlan, choice: Choice, speed: float, limit: float) -> Choice | None:
    """The choice with as many epochs as there is time for; None where those are too few."""
    facts = plan.facts
    if speed * cost.seconds(facts, choice.sample, epochs=choice.epochs) <= limit:
        return _with(facts, choice, choice.epochs, speed)
    if recipes.EPOCHS in facts.fixed:
        return None
    epochs = min(choice.epochs, cost.epochs_within(facts, choice.sample, limit / speed))
    if epochs < max(1, math.ceil(LEAST * choice.epochs)):
        return None
    return _with(facts, choice, epochs, speed)


def _with(facts: Facts, choice: Choice, epochs: int, speed: float) -> Choice:
    planned = int(cost.whole(facts, choice.sample)[recipes.EPOCHS])
    if epochs == planned:
        return replace(choice, seconds=speed * choice.seconds)
    sample = recipes.with_epochs(choice.sample, epochs)
    why = f"{choice.reason}; {epochs} epochs, by the time that is left and what the trials so far took"
    return Choice(sample, why, speed * cost.seconds(facts, sample), choice.epochs)
