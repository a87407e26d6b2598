"""Makes AutoMode's plan: which models are tried first, in which order, with which parameters, and why.

The default model comes first, as a job of one trial would train it. About two fifths of the other trials go
to other models, spread over families; the rest varies what worked (`refine`). The time limit is shared
out: every trial but the first gets an equal share, a model that needs more is left out, and where the shares
would be too small for any model there are fewer trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from amlocal.compat import names
from amlocal.emulator.jobs.automode import cost, models
from amlocal.emulator.jobs.automode import policy as automode_policy
from amlocal.emulator.jobs.automode import recipes as automode_recipes
from amlocal.emulator.jobs.automode.facts import MODEL, Facts, key_of
from amlocal.emulator.jobs.automode.models import Candidate
from amlocal.emulator.jobs.automode.plan import AutoPlan, Choice, LeftOut, span
from amlocal.emulator.jobs.automode.policy import KeepingBandit
from amlocal.emulator.jobs.sampling.space import Sample

USED = 0.95
"""Share of the time limit that is planned with."""
LEAST = 0.4
"""Least share of its epochs with which a model is worth a trial."""
_UNPROVEN = 0.5
_FAIR = 0.6
_SPREAD = 0.4
_MOST_MODELS = 5
_DEAR = 10.0
"""A model that takes so many times as long as the best suited one is not worth it, however long the limit."""


def plan(facts: Facts, seed: int) -> AutoPlan:
    """The plan for a job; the same arguments give the same plan. Raises ValueError when no model can be
    trained here at all."""
    found = models.candidates(facts)
    if not found:
        raise ValueError("no model of this task can be trained here")
    default = _default(facts)
    left_out: list[LeftOut] = []
    first: list[Choice] = []
    if default is None:
        left_out.append(LeftOut(names.default_model(facts.task), "it has no pretrained weights here"))
    elif default.seconds > facts.timeout and MODEL not in facts.fixed:
        left_out.append(LeftOut(_model(facts, default.sample), _too_long(default, facts.timeout)))
    else:
        first.append(default)
    kept = bool(first)
    rest = facts.timeout * USED * facts.lanes - sum(choice.seconds for choice in first)
    wanted = facts.max_trials - len(first)
    count = _count(found, rest, wanted)
    # Until a trial has shown how fast this machine is, half the time stays in reserve.
    share = min(rest / count, facts.timeout * (USED if kept else _UNPROVEN)) if count else 0.0
    taken = models.spread(
        facts,
        [
            one
            for one in found
            if not _same(facts, one, first) and not _is_dear(one, found[0]) and _fits(facts, one, share)
        ],
        min(_MOST_MODELS, math.ceil(count * _SPREAD)),
    )
    fitting = [_choice(facts, one, share) for one in taken]
    first_model = default and _model(facts, default.sample)
    left_out += [
        LeftOut(one.label, _over(facts, one, found[0], share))
        for one in found
        if count and one.model != first_model and (_is_dear(one, found[0]) or not _fits(facts, one, share))
    ]
    if not first and not fitting:
        cheapest = min(found, key=lambda one: (one.seconds, one.label))
        fitting = [_choice(facts, cheapest, facts.timeout * _UNPROVEN, least=1)]
        left_out = [one for one in left_out if one.model != cheapest.label]
    first += fitting
    return AutoPlan(
        facts=facts,
        seed=seed,
        first=tuple(first),
        trials=max(len(first), kept + count if taken else len(first)),
        share=share,
        tight=count < wanted or any(_is_cut(facts, choice) for choice in fitting),
        default=default,
        default_first=kept,
        left_out=tuple(left_out),
        policy=_policy(facts, first),
    )


def _default(facts: Facts) -> Choice | None:
    """What a job of one trial would train; None where it cannot be trained here."""
    named = facts.fixed.get(MODEL)
    model = str(named or names.default_model(facts.task))
    if key_of(facts.task, model, facts.fixed) not in facts.starts:
        return None
    sample: dict[str, Any] = {} if named else {MODEL: model}
    what = "the model that the job names" if named else "the default model"
    return Choice(
        sample,
        f"{what}, as a job of one trial trains it: whatever follows, the result is not worse",
        cost.seconds(facts, sample),
        int(cost.whole(facts, sample)[automode_recipes.EPOCHS]),
    )


def _count(found: Sequence[Candidate], rest: float, wanted: int) -> int:
    """How many trials there is time for, besides the first."""
    need = _FAIR * min(one.seconds for one in found)
    if rest >= wanted * need:
        return wanted
    return max(0, math.floor(rest / need))


def _least(facts: Facts, one: Candidate) -> int:
    """The fewest epochs with which the candidate is worth a trial."""
    epochs = int(cost.whole(facts, one.sample)[automode_recipes.EPOCHS])
    return epochs if automode_recipes.EPOCHS in facts.fixed else max(1, math.ceil(LEAST * epochs))


def _fits(facts: Facts, one: Candidate, share: float) -> bool:
    return cost.seconds(facts, one.sample, epochs=_least(facts, one)) <= share


def _same(facts: Facts, one: Candidate, first: Sequence[Choice]) -> bool:
    return any(cost.whole(facts, one.sample) == cost.whole(facts, choice.sample) for choice in first)


def _choice(facts: Facts, one: Candidate, share: float, least: int | None = None) -> Choice:
    sample, epochs = dict(one.sample), int(cost.whole(facts, one.sample)[automode_recipes.EPOCHS])
    reason = one.reason
    if one.seconds > share and automode_recipes.EPOCHS not in facts.fixed:
        few = max(least or 1, min(epochs, cost.epochs_within(facts, sample, share)))
        sample = automode_recipes.with_epochs(sample, few)
        reason += f"; {few} instead of {epochs} epochs keep it within its share of {span(share)}"
    return Choice(sample, reason, cost.seconds(facts, sample), epochs)


def _is_cut(facts: Facts, choice: Choice) -> bool:
    return bool(cost.whole(facts, choice.sample)[automode_recipes.EPOCHS] < choice.epochs)


def _policy(facts: Facts, first: Sequence[Choice]) -> KeepingBandit:
    """By the fewest evaluations of a planned trial other than the first."""
    found = [cost.whole(facts, choice.sample) for choice in first[1:] or first]
    return automode_policy.policy(
        min(values[automode_recipes.EPOCHS] // values["evaluation_frequency"] for values in found)
    )


def _model(facts: Facts, sample: Sample) -> str:
    return str(sample.get(MODEL) or facts.fixed.get(MODEL))


def _too_long(default: Choice, timeout: float) -> str:
    return (
        f"the default model; its {default.epochs} epochs are predicted to take {span(default.seconds)}, more "
        f"than the whole time limit of {span(timeout)}, so alone it would not end either; should the first "
        "trials show that there is time for it, it is trained after all"
    )


def _is_dear(one: Candidate, best: Candidate) -> bool:
    return one.seconds > _DEAR * best.seconds


def _over(facts: Facts, one: Candidate, best: Candidate, share: float) -> str:
    if _is_dear(one, best):
        return (
            f"predicted {span(one.seconds)}, more than {_DEAR:g} times the {span(best.seconds)} of "
            f"{best.label}, which suits best"
        )
    epochs = _least(facts, one)
    least = cost.seconds(facts, one.sample, epochs=epochs)
    return f"predicted {span(least)} for {epochs} epochs, more than its share of {span(share)}"
