"""Wanted entries of maps of texts (tags, properties), found by SQLite's JSON functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, exists, func


@dataclass(frozen=True)
class Entry:
    """A wanted entry of a map of texts: where the map is, a key, a value (None: any).

    `path` is a JSON path in the column `column`.
    """

    path: str
    key: str
    value: str | None
    column: str = "body"


def having(query: Select[Any], table: Table, entries: Sequence[Entry]) -> Select[Any]:
    """`query` for the rows of `table` that have all `entries`."""
    for entry in entries:
        pairs = func.json_each(table.c[entry.column], entry.path).table_valued("key", "value")
        conditions: list[ColumnElement[bool]] = [pairs.c.key == entry.key]
        if entry.value is not None:
            conditions.append(pairs.c.value == entry.value)
        query = query.where(exists().select_from(pairs).where(*conditions).correlate(table))
    return query
