"""The search space of a sweep job as the REST body has it: {"lr": ["uniform", [0.1, 0.9]], ...}.

Source: what azure-ai-ml sends. A value of choice can be an object whose values are distributions again: an
inner sub-space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from amlocal.emulator.jobs.sampling.space import (
    KINDS,
    Choice,
    Distribution,
    Space,
    SpaceError,
    SubSpace,
    Value,
    of_numbers,
)

_DEEPEST = 8
_MOST = 1000


def parse(body: object) -> Space:
    """The space of a sweep job. Raises SpaceError naming the parameter."""
    if not isinstance(body, dict) or not body:
        raise SpaceError('search_space must be an object such as {"lr": ["uniform", [0.1, 0.9]]}')
    return Space((_subspace(body, "search_space", 0),))


def dump(space: Space) -> dict[str, Any]:
    """The space as a sweep job has it; several sub-spaces are a choice of `model`, as in AutoML's sweeps."""
    dumped = [_dump(one) for one in space.subspaces]
    return dumped[0] if len(dumped) == 1 else {"model": ["choice", [dumped]]}


def _dump(subspace: SubSpace) -> dict[str, Any]:
    return {name: _dumped(distribution) for name, distribution in subspace.parameters.items()}


def _dumped(distribution: Distribution) -> list[Any]:
    if isinstance(distribution, Choice):
        values = [_dump(value) if isinstance(value, SubSpace) else value for value in distribution.values]
        return ["choice", [values]]
    return [distribution.kind, list(distribution.numbers())]


def _subspace(body: Mapping[str, Any], place: str, depth: int) -> SubSpace:
    if depth > _DEEPEST:
        raise SpaceError(f"{place}: search spaces are nested more than {_DEEPEST} deep")
    if len(body) > _MOST:
        raise SpaceError(f"{place} has {len(body)} parameters; at most {_MOST} are taken")
    found: dict[str, Distribution] = {}
    for name, value in body.items():
        here = f"{place}.{_brief(name, quoted=False)}"
        if depth and not _is_distribution(value):
            found[name] = Choice((_scalar(value, here),))
        else:
            found[name] = _distribution(value, here, depth)
    return SubSpace(found)


def _is_distribution(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and value[0] in KINDS if value else False


def _distribution(value: object, place: str, depth: int) -> Distribution:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], list):
        raise SpaceError(f'{place} is {_brief(value)}; it must be a list such as ["uniform", [0.1, 0.9]]')
    kind, arguments = value
    name = kind.lower() if isinstance(kind, str) else ""
    if name not in KINDS:
        raise SpaceError(f"{place}: {_brief(kind)} is no distribution; use one of {', '.join(KINDS)}")
    try:
        if name == "choice":
            return _choice(arguments, place, depth)
        for number in arguments:
            if isinstance(number, bool) or not isinstance(number, int | float) or not _finite(number):
                raise SpaceError(f"{name} takes numbers, not {_brief(number)}")
        return of_numbers(name, arguments)
    except SpaceError as error:
        text = error.message if error.message.startswith(place) else f"{place}: {error.message}"
        raise SpaceError(text) from error


def _choice(arguments: list[Any], place: str, depth: int) -> Choice:
    if len(arguments) != 1 or not isinstance(arguments[0], list):
        raise SpaceError('choice takes one list of values: ["choice", [["a", "b"]]]')
    values: list[Value | SubSpace] = []
    for number, value in enumerate(arguments[0]):
        here = f"{place}[{number}]"
        values.append(_subspace(value, here, depth + 1) if isinstance(value, dict) else _scalar(value, here))
    return Choice(tuple(values))


def _scalar(value: object, place: str) -> Value:
    if not isinstance(value, bool | int | float | str) or not _finite(value):
        raise SpaceError(f"{place} is {_brief(value)}; it must be a text, a number, true or false")
    return value


def _finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _brief(value: object, *, quoted: bool = True) -> str:
    text = repr(value)
    if not quoted and isinstance(value, str) and value.isprintable():
        text = value
    return text if len(text) <= 120 else text[:117] + "..."
