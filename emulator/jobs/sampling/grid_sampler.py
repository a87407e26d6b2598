"""Grid sampling: every combination once, one sub-space after the other, the last parameter changing fastest.

Source: "Hyperparameter tuning a model": grid sampling can only be used with choice.
"""

from __future__ import annotations

from collections.abc import Sequence

from amlocal.emulator.jobs.sampling import walk
from amlocal.emulator.jobs.sampling.space import Choice, Sample, Space, SpaceError, SubSpace, Trial


def check(space: Space) -> None:
    """Raises SpaceError naming a parameter that cannot be enumerated."""
    for subspace in space.subspaces:
        _check(subspace)


def _check(subspace: SubSpace) -> None:
    for name, distribution in subspace.parameters.items():
        if not isinstance(distribution, Choice):
            raise SpaceError(f"{name}: grid sampling takes choice only, not {distribution.kind}")
        for value in distribution.values:
            if isinstance(value, SubSpace):
                _check(value)


def draw(space: Space, history: Sequence[Trial], seed: int, index: int) -> Sample | None:
    """The combination number `index`, from 0; None when there are no more. Raises SpaceError."""
    check(space)
    for subspace in space.subspaces:
        size = subspace.size
        if size is None:
            raise SpaceError("grid sampling takes choice only")
        if index < size:
            return walk.nth(subspace, index)
        index -= size
    return None
