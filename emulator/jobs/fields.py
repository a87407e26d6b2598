"""Reading a submitted body: every value is checked for its type; errors name the field and the remedy.

A field is named as the SDK's users know it, with its place in the REST body in `target`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from amlocal.emulator.http.errors import user_error

_DURATION = re.compile(
    r"P(?:(?P<weeks>\d{1,6})W)?(?:(?P<days>\d{1,6}(?:\.\d+)?)D)?"
    r"(?:T(?:(?P<hours>\d{1,9}(?:\.\d+)?)H)?(?:(?P<minutes>\d{1,9}(?:\.\d+)?)M)?(?:(?P<seconds>\d{1,12}(?:\.\d+)?)S)?)?"
)
_SECONDS = {"weeks": 604800, "days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def shown(value: object) -> str:
    """A client's value for a message: quoted and short."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def mapping(parent: Mapping[str, Any], key: str, target: str) -> dict[str, Any]:
    """The object at `key`; empty when it is absent or null."""
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise user_error(f"{target} must be an object, not {shown(value)}.", target=target)
    return value


def text(parent: Mapping[str, Any], key: str, target: str, *, limit: int = 1024) -> str | None:
    """The text at `key`; None when it is absent, null or empty."""
    value = parent.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise user_error(f"{target} must be a text, not {shown(value)}.", target=target)
    if len(value) > limit:
        raise user_error(f"{target} is longer than {limit} characters.", target=target)
    if not value.isprintable():
        raise user_error(f"{target} has a control character in it: {shown(value)}.", target=target)
    return value


def whole(parent: Mapping[str, Any], key: str, name: str, target: str, *, maximum: int) -> int | None:
    """The whole number from 1 to `maximum` at `key`; None when it is absent."""
    value = parent.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
        raise user_error(
            f"{name} is {shown(value)}; it must be a whole number from 1 to {maximum}.", target=target
        )
    return value


def fraction(parent: Mapping[str, Any], key: str, name: str, target: str) -> float | None:
    """The number between 0 and 1, both excluded, at `key`; None when it is absent."""
    value = parent.get(key)
    if value is None:
        return None
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not 0.0 < number < 1.0:
        raise user_error(f"{name} is {shown(value)}; it must be a number between 0 and 1.", target=target)
    return number


def texts(parent: Mapping[str, Any], key: str) -> dict[str, str]:
    """An object of texts (tags, properties); null values are left out.

    A number or a truth value among the properties is taken as its text, as Azure does: its own samples set
    node_count_per_trial to 2.
    """
    found = {}
    for name, value in mapping(parent, key, key).items():
        if value is None:
            continue
        if key == "properties" and isinstance(value, int | float):
            value = str(value)
        if not isinstance(value, str):
            raise user_error(
                f"{key}.{name} must be a text, not {shown(value)}; write it in quotes.",
                target=f"{key}.{name}",
            )
        found[name] = value
    return found


def duration(value: object, name: str, target: str, *, maximum: float) -> float:
    """An ISO 8601 duration of weeks, days, hours, minutes, seconds ("PT1H30M") in seconds, above 0."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    parts = {unit: number for unit, number in match.groupdict().items() if number} if match else {}
    if not parts:
        raise user_error(
            f"{name} is {shown(value)}; it must be an ISO 8601 duration such as PT1H30M or P2D.",
            target=target,
        )
    seconds = sum(float(number) * _SECONDS[unit] for unit, number in parts.items())
    if not 0 < seconds <= maximum:
        raise user_error(
            f"{name} is {shown(value)}; it must be longer than 0 and at most {maximum / 86400:g} days.",
            target=target,
        )
    return seconds
