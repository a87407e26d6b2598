"""The envelope in which Azure keeps the data of a chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = dict[str, Any]


def document(kind: str, data: Mapping[str, Any]) -> Document:
    """A chart's document: schema_type and schema_version 1.0.0 around its data."""
    return {"schema_type": kind, "schema_version": "1.0.0", "data": dict(data)}
