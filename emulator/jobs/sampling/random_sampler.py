"""Random sampling, by plain or by Sobol's quasi-random numbers.

Source: "Hyperparameter tuning a model" (seed, rule, logbase), and its rule that there are fewer trials than
asked for where the space has fewer samples: no sample of a space of choices comes twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from amlocal.emulator.jobs.sampling import walk
from amlocal.emulator.jobs.sampling.space import (
    Choice,
    Distribution,
    Sample,
    Space,
    SpaceError,
    SubSpace,
    Trial,
)

RULES = ("random", "sobol")
_BITS = 30
# With more samples than this, two that are alike are not to be feared.
_COUNTABLE = 2**53


def draw(
    space: Space,
    history: Sequence[Trial],
    seed: int,
    index: int,
    *,
    rule: str = "random",
    base: float = math.e,
) -> Sample | None:
    """The sample number `index`, from 0, of a seed: the same whatever was drawn before, on every machine.

    None when every sample of a finite space was drawn. `base` is that of the log distributions. Raises
    SpaceError for values beyond what a number can be.
    """
    size = space.size if _listed(space) else None
    if size is not None and size <= _COUNTABLE:
        return _without_repeats(space, seed, index) if index < size else None
    if rule == "sobol":
        return _sobol(space, seed, index, base)
    return walk.draw(space, lambda path: walk.uniform(seed, index, *path), base)


def _listed(space: Space) -> bool:
    return all(_is_listed(distribution) for _, distribution in space.parameters())


def _is_listed(distribution: Distribution) -> bool:
    if isinstance(distribution, Choice):
        inner = [value for value in distribution.values if isinstance(value, SubSpace)]
        return all(_is_listed(below) for value in inner for below in value.parameters.values())
    return distribution.size is not None


def _without_repeats(space: Space, seed: int, index: int) -> Sample:
    """Shuffles only as far as `index`: which sub-space comes at each step, then which of its samples."""
    left = [subspace.size or 0 for subspace in space.subspaces]
    moved: list[dict[int, int]] = [{} for _ in space.subspaces]
    for step in range(index + 1):
        open_ones = [number for number, count in enumerate(left) if count]
        chosen = open_ones[int(walk.uniform(seed, step) * len(open_ones))]
        # Fisher and Yates: the last one that is left takes the place of the one drawn.
        place = int(walk.uniform(seed, step, chosen) * left[chosen])
        last = left[chosen] - 1
        drawn = moved[chosen].get(place, place)
        moved[chosen][place] = moved[chosen].get(last, last)
        left[chosen] = last
    return walk.nth(space.subspaces[chosen], drawn)


def _sobol(space: Space, seed: int, index: int, base: float) -> Sample:
    """Sobol's sequence, its digits shifted by the seed, one dimension for each place."""
    from scipy.stats import qmc  # type: ignore[import-untyped]

    dimensions = {place: number for number, place in enumerate(walk.places(space))}
    if len(dimensions) > qmc.Sobol.MAXDIM:
        raise SpaceError(f"the rule sobol takes at most {qmc.Sobol.MAXDIM} parameters")
    sequence = qmc.Sobol(len(dimensions), scramble=False, bits=_BITS)
    if index:
        sequence.fast_forward(index)
    point = sequence.random(1)[0]

    def number(path: walk.Path) -> float:
        shift = int(walk.uniform(seed, 0, "sobol", *path) * 2**_BITS)
        return float((int(point[dimensions[path]] * 2**_BITS) ^ shift) / 2**_BITS)

    return walk.draw(space, number, base)
