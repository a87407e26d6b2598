"""Drawing a whole sample: which number goes to which parameter; and a finite space's samples by number."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from amlocal.emulator.jobs.sampling.space import Choice, Distribution, Sample, Space, SpaceError, SubSpace

Path = tuple[str | int, ...]
"""Where a number is needed: () picks the sub-space, (0, "momentum") draws that parameter of the first one."""


def uniform(seed: int, index: int, *path: str | int) -> float:
    """A number in [0, 1) that depends on nothing but the arguments, on every machine and at any time."""
    text = "\0".join(map(str, (seed, index, *path)))
    digest = hashlib.sha256(text.encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2.0**53


def draw(space: Space, number: Callable[[Path], float], base: float = math.e) -> Sample:
    """The sample that the numbers in [0, 1) give; one is asked for at each place. Raises SpaceError."""
    count = len(space.subspaces)
    chosen = min(int(number(()) * count), count - 1) if count > 1 else 0
    return within(space.subspaces[chosen], (chosen,), number, base)


def within(subspace: SubSpace, path: Path, number: Callable[[Path], float], base: float) -> dict[str, Any]:
    """What `draw` gives once it has picked the sub-space at `path`."""
    sample = {}
    for name, distribution in subspace.parameters.items():
        place = (*path, name)
        value = distribution.at(number(place), base)
        if isinstance(value, SubSpace) and isinstance(distribution, Choice):
            value = within(value, (*place, distribution.values.index(value)), number, base)
        sample[name] = value
    return sample


def places(space: Space) -> Iterator[Path]:
    """Every place at which `draw` may ask for a number, always in the same order."""
    yield ()
    for number, subspace in enumerate(space.subspaces):
        yield from _places(subspace, (number,))


def _places(subspace: SubSpace, path: Path) -> Iterator[Path]:
    for name, distribution in subspace.parameters.items():
        yield (*path, name)
        if isinstance(distribution, Choice):
            for number, value in enumerate(distribution.values):
                if isinstance(value, SubSpace):
                    yield from _places(value, (*path, name, number))


def nth(subspace: SubSpace, number: int) -> Sample:
    """A finite sub-space's sample by its number from 0; the last parameter changes fastest."""
    sample: dict[str, Any] = {}
    for name, distribution in reversed(list(subspace.parameters.items())):
        size = distribution.size
        if size is None:
            raise SpaceError(f"{name}: the values of {distribution.kind} cannot be listed")
        number, digit = divmod(number, size)
        sample[name] = _value(distribution, digit)
    return dict(reversed(sample.items()))


def _value(distribution: Distribution, number: int) -> Any:
    if not isinstance(distribution, Choice):
        return number
    for value in distribution.values:
        size = value.size if isinstance(value, SubSpace) else 1
        if size is None:
            break
        if number < size:
            return nth(value, number) if isinstance(value, SubSpace) else value
        number -= size
    raise SpaceError("choice: its values cannot be listed")
