"""JSON Lines as Azure Machine Learning reads them: one object a line, and where exactly a line is wrong."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longest line that is read, in bytes; the longest real ones are instance segmentation's polygons."""

_SKIP_BYTES = 1024 * 1024

# Keys: the spellings in MLTable's own schema for read_json_lines. utf16 is left out on purpose: its line
# ends are not byte 10.
ENCODINGS: Mapping[str, str] = {
    "utf8": "utf-8",
    "utf-8": "utf-8",
    "utf8bom": "utf-8",
    "iso88591": "latin-1",
    "iso-8859-1": "latin-1",
    "latin1": "latin-1",
    "latin-1": "latin-1",
    "ascii": "ascii",
    "windows1252": "cp1252",
    "windows-1252": "cp1252",
}


class DataError(ValueError):
    """Data that cannot be used. `code` is a PascalCase name, `where` is file:line, a file or a folder."""

    def __init__(self, code: str, message: str, where: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = where


class Line(NamedTuple):
    """One line that is not empty: `value` when it is a JSON object, else `fault` and the 1-based `column`."""

    number: int
    value: dict[str, Any] | None
    fault: str = ""
    column: int = 1


def read_lines(path: Path, *, encoding: str = "utf8", limit: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """The lines of a file; empty ones are skipped and still counted. A byte order mark and CRLF are fine.

    Raises OSError when the file cannot be read, KeyError for an encoding that is not in ENCODINGS.
    """
    codec = ENCODINGS[encoding.lower()]
    with path.open("rb") as stream:
        number = 0
        while raw := stream.readline(limit + 1):
            number += 1
            if len(raw) > limit and not raw.endswith(b"\n"):
                _skip_line(stream)
                yield Line(number, None, f"line is longer than {limit:,} bytes", limit + 1)
                continue
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw.isspace() and raw:
                yield _read_line(number, raw, codec)


def brief(value: Any) -> str:
    """A value from a user's file for a message: one short line, whatever the value is."""
    shortener = reprlib.Repr()
    shortener.maxlevel = 2
    text = shortener.repr(value)
    return text if len(text) <= 120 else text[:120] + "…"


def _read_line(number: int, raw: bytes, codec: str) -> Line:
    try:
        text = raw.rstrip(b"\r\n").decode(codec)
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        return Line(number, None, f"byte 0x{byte:02x} is not {codec}: {error.reason}", error.start + 1)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return Line(number, None, _explain(text, error), error.pos + 1)
    except (RecursionError, ValueError) as error:
        return Line(number, None, f"not usable JSON: {str(error)[:120]}")
    if isinstance(value, dict):
        return Line(number, value)
    return Line(number, None, f"is JSON but not an object: {brief(value)}")


def _explain(text: str, error: json.JSONDecodeError) -> str:
    fault = f"not JSON: {error.msg}"
    if text.lstrip().startswith("{") and not text[error.pos :].strip():
        fault += " at the end of the line; an object must be whole on one line"
    return fault


def _skip_line(stream: BinaryIO) -> None:
    while (piece := stream.readline(_SKIP_BYTES)) and not piece.endswith(b"\n"):
        pass
