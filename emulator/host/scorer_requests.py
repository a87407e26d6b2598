"""A request as models see it, and its body as JSON. Part of `scorer.py`.

Standard library only.
"""

from __future__ import annotations

import json
import math
from typing import Any, Mapping, NamedTuple  # noqa: UP035  (older Pythons)

# Values in one body: JSON of many tiny values takes tens of times its size in memory.
MAX_VALUES = 10_000_000
NAME_LENGTH = 80


class BadInput(Exception):
    """The request is not what the model takes; the text tells the client what and where.

    `status` is the HTTP status that says so; `headers` go with it.
    """

    def __init__(self, message: str, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class Request:
    """One request to /score; the body can be taken once, so that nobody holds it longer than needed."""

    def __init__(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self._body: bytes | None = body

    def take(self) -> bytes:
        body, self._body = self._body, None
        assert body is not None, "the body was taken before"
        return body

    def only(self, *methods: str) -> None:
        """Raises BadInput (405) for every other method."""
        if self.method not in methods:
            allowed = ", ".join(methods)
            raise BadInput(f"{self.method} is not taken here, but {allowed}", 405, {"Allow": allowed})

    def text(self) -> str:
        """The body as text. Raises BadInput when it is not UTF-8."""
        body = self.take()
        try:
            # A byte order mark, as PowerShell writes it, is not part of the text.
            return body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            where, byte = error.start, error.object[error.start]
            raise BadInput(f"the body is not UTF-8 text: byte {where} is 0x{byte:02x}") from None

    def json(self, most: int = MAX_VALUES) -> dict[str, Any]:
        """The body as a JSON object of at most `most` values.

        Raises BadInput for what is not JSON, for an object with the same key twice and for all but objects.
        """
        text = self.text()
        if text.count(",") + text.count("[") + text.count("{") > most:
            raise BadInput(f"the body has more than {most} values", 413)
        try:
            value = json.loads(text, object_pairs_hook=unique)
        except json.JSONDecodeError as error:
            # The error holds the whole body.
            raise BadInput(f"the body is not JSON: {error}") from None
        except ValueError:
            raise BadInput("the body has a number with too many digits") from None
        except RecursionError:
            raise BadInput("the body is nested too deeply") from None
        if not isinstance(value, dict):
            raise BadInput(f"the body must be a JSON object, not {type(value).__name__}")
        return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BadInput(f"an object of the body has the key {twice[:NAME_LENGTH]!r} twice")
    return found


def check_number(value: Any, where: str) -> None:
    """Raises BadInput for what JSON or a column cannot hold: NaN, infinities, more than 64 bits."""
    try:
        _check_number(value, where)
    except RecursionError:
        raise BadInput(f"{where}: the value is nested too deeply") from None


def _check_number(value: Any, where: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            word = "NaN" if math.isnan(value) else "an infinite or too large number"
            raise BadInput(f"{where}: {word} is no JSON value; use null for a value that is missing")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise BadInput(f"{where}: the number has more than 64 bits")
    elif isinstance(value, list):
        for item in value:
            _check_number(item, where)
    elif isinstance(value, dict):
        for item in value.values():
            _check_number(item, where)


class Answer(NamedTuple):
    """What goes back to the caller; `headers` has the content type."""

    status: int
    body: bytes
    headers: list[tuple[str, str]]
