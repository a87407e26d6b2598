"""The `api-version` of a request: any version that Azure could have published; nonsense is refused.

Answers do not depend on it. Clients of Resource Manager send dates (`2025-12-01`, `2024-01-01-preview`),
those of the data planes numbers (`v1.0`, `1.5.0`). Resource Manager demands one; the data planes do not.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache

from flask import request

from amlocal.emulator.http.errors import bad_request

_DATED = re.compile(r"(\d{4}-\d{2}-\d{2})(?:-[a-z]{1,40})?\Z", re.ASCII)
_NUMBERED = re.compile(r"v?\d{1,4}(?:\.\d{1,4}){1,2}\Z", re.ASCII)


@lru_cache(maxsize=256)
def well_formed(text: str) -> bool:
    """Whether `text` has the form of an api-version: a date that exists, or a number."""
    if _NUMBERED.match(text):
        return True
    dated = _DATED.match(text)
    if dated is None:
        return False
    try:
        date.fromisoformat(dated[1])
    except ValueError:
        return False
    return True


def check() -> None:
    """Raises 400 for an api-version in the query that cannot be one, or that Resource Manager misses."""
    given = request.args.getlist("api-version")
    if request.path.startswith("/subscriptions/") and not any(given):
        raise bad_request(
            "MissingApiVersionParameter",
            "The query lacks `api-version`: add, for example, ?api-version=2025-12-01.",
            target="api-version",
        )
    for text in given:
        if not well_formed(text):
            raise bad_request(
                "InvalidApiVersionParameter",
                f"The api-version {text[:60]!r} is invalid: it must be a date such as 2025-12-01, "
                "with -preview after it for previews.",
                target="api-version",
            )
