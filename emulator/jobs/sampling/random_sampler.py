"""Random sampling, by plain or by Sobol's quasi-random numbers.

Source: "Hyperparameter tuning a model" (seed, rule, logbase), and its rule that there are fewer trials than
asked for where the space has fewer samples: by plain numbers no sample of a sub-space of choices comes twice,
by Sobol's none of a whole space of choices.
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
    sizes = [_countable(subspace) for subspace in space.subspaces]
    known = [size for size in sizes if size is not None]
    if len(known) == len(sizes) and index >= sum(known):
        return None
    if rule == "sobol" and len(known) < len(sizes):
        return _sobol(space, seed, index, base)
    if known:
        return _without_repeats(space, sizes, seed, index, base)
    return walk.draw(space, lambda path: walk.uniform(seed, index, *path), base)


def _countable(subspace: SubSpace) -> int | None:
    """The number of its samples, where that is small enough for two of them to be alike by chance."""
    listed = all(_is_listed(distribution) for distribution in subspace.parameters.values())
    size = subspace.size if listed else None
    return size if size is not None and size <= _COUNTABLE else None


def _is_listed(distribution: Distribution) -> bool:
    if isinstance(distribution, Choice):
        inner = [value for value in distribution.values if isinstance(value, SubSpace)]
        return all(_is_listed(below) for value in inner for below in value.parameters.values())
    return distribution.size is not None


def _without_repeats(space: Space, sizes: Sequence[int | None], seed: int, index: int, base: float) -> Sample:
    """Shuffles only as far as `index`: which sub-space comes at each step, then which of its samples. A
    sub-space whose size is None never runs out."""
    left = [math.inf if size is None else size for size in sizes]
    moved: list[dict[int, int]] = [{} for _ in space.subspaces]
    for step in range(index + 1):
        open_ones = [number for number, count in enumerate(left) if count]
        chosen = open_ones[int(walk.uniform(seed, step) * len(open_ones))]
        if sizes[chosen] is None:
            continue
        # Fisher and Yates: the last one that is left takes the place of the one drawn.
        place = int(walk.uniform(seed, step, chosen) * left[chosen])
        last = int(left[chosen]) - 1
        drawn = moved[chosen].get(place, place)
        moved[chosen][place] = moved[chosen].get(last, last)
        left[chosen] = last
    if sizes[chosen] is None:
        return walk.within(
            space.subspaces[chosen], (chosen,), lambda path: walk.uniform(seed, index, *path), base
        )
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
