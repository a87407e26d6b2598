"""Which models suit the data and the machine: AutoMode's candidates and their order.

A score in powers of two: how far the number of parameters is from what the data can teach, whether there are
pretrained weights, and what a trial costs beside the cheapest one.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amlocal.compat import names
from amlocal.emulator.jobs.automode import cost, recipes
from amlocal.emulator.jobs.automode.facts import MODEL, SIZE, Facts, Start, key_of

_FAMILY = 0.75
"""What each model of the same family that was taken before takes off."""
_COST = 0.3
"""What twice the time takes off."""
_PRETRAINED = 1.5
_FEW = 50_000
"""Images below which a transformer with random weights is hopeless beside a convolutional network."""
_HOPELESS = 4.0
_TEACH: Mapping[Start, tuple[tuple[float, float], ...]] = {
    "pretrained": ((1000, 25.0), (20000, 45.0), (math.inf, 90.0)),
    "random": ((300, 6.0), (3000, 12.0), (30000, 25.0), (math.inf, 60.0)),
}
"""Millions of parameters that fewer than so many images can teach."""


@dataclass(frozen=True)
class Candidate:
    """A model that can be tried, and the sample with which it is tried first. `parameters` are millions."""

    model: str
    start: Start
    parameters: float
    sample: Mapping[str, Any]
    seconds: float
    reason: str

    @property
    def label(self) -> str:
        """The model's name, with its model_size where that is a part of the sample."""
        size = self.sample.get(SIZE)
        return self.model if size is None else f"{self.model} ({size})"


def wanted(facts: Facts, start: Start) -> float:
    """Millions of parameters that so many images can teach."""
    size = next(size for images, size in _TEACH[start] if facts.train_images < images)
    return size * (1 if facts.classes <= 50 else 1.5 if facts.classes <= 500 else 2)


def candidates(facts: Facts) -> list[Candidate]:
    """Every model that can be tried, the default one among them, best suited first.

    One that the user named is the only one, in each of its sizes. A model that the fixed parameters do not
    fit (a ViT for images smaller than one patch, say) is none.
    """
    found: list[Candidate] = []
    named = facts.fixed.get(MODEL)
    for name in [str(named)] if named else dict.fromkeys(key.partition(":")[0] for key in facts.starts):
        for variant in recipes.variants(facts, name):
            start = facts.starts.get(key_of(facts.task, name, {**variant, **facts.fixed}))
            if start is None:
                continue
            with contextlib.suppress(names.BadParameter):
                found.append(_candidate(facts, name, start, variant))
    cheapest = min((one.seconds for one in found), default=1.0)
    scores = {id(one): suits(facts, one, cheapest) for one in found}
    return sorted(found, key=lambda one: (-scores[id(one)], one.label))


def spread(facts: Facts, ordered: Sequence[Candidate], count: int) -> list[Candidate]:
    """`count` of them: each time the best suited one, less for families that are there already."""
    cheapest = min((one.seconds for one in ordered), default=1.0)
    taken: list[Candidate] = []
    left = list(ordered)
    seen: Counter[str] = Counter()

    def gain(one: Candidate) -> tuple[float, int]:
        again = _FAMILY * seen[_family(facts, one)]
        return suits(facts, one, cheapest) - again, -left.index(one)

    while left and len(taken) < count:
        best = max(left, key=gain)
        left.remove(best)
        taken.append(best)
        seen[_family(facts, best)] += 1
    return taken


def suits(facts: Facts, one: Candidate, cheapest: float) -> float:
    """The more the better."""
    score = -abs(math.log2(one.parameters / wanted(facts, one.start)))
    score += _PRETRAINED if one.start == "pretrained" else 0.0
    row = names.model(facts.task, one.model)
    if one.start == "random" and recipes.is_transformer(row) and facts.train_images < _FEW:
        score -= _HOPELESS
    return score - _COST * math.log2(one.seconds / cheapest)


def _family(facts: Facts, one: Candidate) -> str:
    return names.model(facts.task, one.model).family


def _candidate(facts: Facts, name: str, start: Start, variant: Mapping[str, Any]) -> Candidate:
    row = names.model(facts.task, name)
    sample = recipes.recipe(facts, row, start, variant)
    # What memory a step takes grows with the batch: it is halved until there is room.
    room = cost.room(facts)
    halved = False
    while (
        room is not None
        and recipes.BATCH not in facts.fixed
        and cost.memory(facts, sample) > room
        and cost.whole(facts, sample)[recipes.BATCH] > 1
    ):
        sample = {**sample, recipes.BATCH: cost.whole(facts, sample)[recipes.BATCH] // 2}
        halved = True
    values = cost.whole(facts, sample)
    millions = cost.parameters(row, values)
    kind = "pretrained weights" if start == "pretrained" else "random weights"
    reason = (
        f"{millions:g} million parameters from {kind}, where {facts.train_images} images of {facts.classes} "
        f"classes suit about {wanted(facts, start):g} million"
    )
    if halved:
        reason += f"; training_batch_size {sample[recipes.BATCH]} fits into memory"
    return Candidate(name, start, millions, sample, cost.seconds(facts, sample), reason)
