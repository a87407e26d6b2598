"""MLflow's language of filters and orders for registered models and their versions.

Source: "Search Registered Models" and "Search Model Versions" in MLflow's documentation: comparisons with
AND between them, of name, version_number, run_id, source_path and tags.KEY.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any, TypeVar

MODEL_KEYS = frozenset({"name"})
VERSION_KEYS = frozenset({"name", "version_number", "run_id", "source_path"})
MODEL_ORDERS = frozenset({"name", "creation_timestamp", "last_updated_timestamp", "timestamp"})
VERSION_ORDERS = frozenset({"name", "version_number", "creation_timestamp", "last_updated_timestamp"})
LONGEST = 5000
_TEXT = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_COMPARISON = re.compile(
    rf"""\s*(?:(?P<of>attributes?|attr|tags?)\.)?(?P<key>`[^`]+`|"[^"]+"|[\w.\-/]+)
    \s*(?P<how>!=|<=|>=|=|<|>|I?LIKE\b|IN\b)
    \s*(?P<value>{_TEXT}|-?\d+|\((?:\s*(?:{_TEXT})\s*,?)+\s*\))\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_AND = re.compile(r"AND\b", re.IGNORECASE)
_WHOLE = re.compile(_TEXT)
T = TypeVar("T")


class FilterError(ValueError):
    """A filter or an order that MLflow's language does not have."""


@dataclass(frozen=True)
class Comparison:
    """One comparison; `values` has more than one entry for IN alone."""

    key: str
    tag: bool
    how: str
    values: tuple[str, ...]

    def fits(self, fields: Mapping[str, Any], tags: Mapping[str, str]) -> bool:
        """Whether a model's fields and tags are as wanted. A tag that is not there fits nothing."""
        found = tags.get(self.key) if self.tag else fields.get(self.key)
        if found is None:
            return False
        wanted = self.values[0]
        if self.key == "version_number" and not self.tag:
            # A version that is no number is never equal to, above or below one.
            if not str(found).isdecimal():
                return self.how == "!="
            one, other = int(found), int(wanted)
            return {
                "=": one == other, "!=": one != other, "<": one < other, "<=": one <= other,
                ">": one > other, ">=": one >= other,
            }[self.how]  # fmt: skip
        if self.how == "IN":
            return found in self.values
        if self.how in ("LIKE", "ILIKE"):
            return _like(wanted, self.how == "ILIKE").fullmatch(str(found)) is not None
        return (found == wanted) == (self.how == "=")


def parse(text: str | None, keys: frozenset[str]) -> list[Comparison]:
    """The comparisons of a filter. Raises FilterError saying where it is wrong."""
    rest = (text or "").strip()
    if len(rest) > LONGEST:
        raise FilterError(f"A filter has at most {LONGEST} characters.")
    found: list[Comparison] = []
    while rest:
        match = _COMPARISON.match(rest)
        if match is None:
            raise FilterError(f"Invalid filter at {rest[:100]!r}: write KEY = 'VALUE' [AND ...].")
        found.append(_comparison(match, keys))
        rest = rest[match.end() :]
        if rest:
            joined = _AND.match(rest)
            if joined is None or not rest[joined.end() :].strip():
                raise FilterError(f"Invalid filter at {rest[:100]!r}: comparisons are joined by AND.")
            rest = rest[joined.end() :]
    return found


def _comparison(match: re.Match[str], keys: frozenset[str]) -> Comparison:
    tag = (match["of"] or "").lower().startswith("tag")
    key, how, value = match["key"].strip('`"'), match["how"].upper(), match["value"]
    if not tag and key not in keys:
        raise FilterError(f"Invalid attribute key {key[:100]!r}: use {', '.join(sorted(keys))} or tags.KEY.")
    if how == "IN":
        if key != "run_id" or not value.startswith("("):
            raise FilterError("IN takes a list of texts and works with run_id only.")
        return Comparison(key, tag, how, tuple(_plain(part) for part in _WHOLE.findall(value)))
    if not tag and key == "version_number":
        if how in ("LIKE", "ILIKE") or not value.lstrip("-").isdecimal():
            raise FilterError("version_number is compared with a whole number.")
        return Comparison(key, tag, how, (value,))
    if how not in ("=", "!=", "LIKE", "ILIKE") or value[0] not in "'\"":
        raise FilterError(f"{key[:100]!r} is compared with a text in quotes, by =, !=, LIKE or ILIKE.")
    return Comparison(key, tag, how, (_plain(value),))


def _plain(quoted: str) -> str:
    return re.sub(r"\\(.)", r"\1", quoted[1:-1])


def _like(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    # fnmatch's patterns never go back, however many wildcards there are.
    literal = re.sub(r"([*?\[])", r"[\1]", pattern).replace("%", "*").replace("_", "?")
    return re.compile(fnmatch.translate(literal), re.IGNORECASE if ignore_case else 0)


def ordered(
    items: list[T], orders: Sequence[str], keys: frozenset[str], fields: Callable[[T], Mapping[str, Any]]
) -> list[T]:
    """`items` in MLflow's order (`name ASC`, `last_updated_timestamp DESC`). Raises FilterError."""
    read = [_order(text, keys) for text in orders]
    if len({key for key, _ in read}) != len(read):
        raise FilterError("An order names a key more than once.")

    def compare(one: T, other: T) -> int:
        left, right = fields(one), fields(other)
        for key, ascending in read:
            a, b = _sortable(left[key]), _sortable(right[key])
            if a != b:
                return (-1 if a < b else 1) * (1 if ascending else -1)
        return 0

    return sorted(items, key=cmp_to_key(compare))


def _sortable(value: Any) -> tuple[int, int, str]:
    """Numbers by size, before texts."""
    text = str(value)
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)


def _order(text: str, keys: frozenset[str]) -> tuple[str, bool]:
    parts = text.replace("`", "").split()
    key = parts[0].removeprefix("attributes.").removeprefix("attribute.") if parts else ""
    direction = parts[1].upper() if len(parts) > 1 else "ASC"
    if key not in keys or len(parts) > 2 or direction not in ("ASC", "DESC"):
        raise FilterError(f"Invalid order {text[:100]!r}: use {', '.join(sorted(keys))} with ASC or DESC.")
    return key, direction == "ASC"
