"""One cell of a request's column "image", as Azure's models take it: base64 text with or without line breaks,
an image's bytes, or JSON text that holds base64 text and says whether to explain the answer."""

from __future__ import annotations

import base64
import binascii
import json

COLUMN = "image"
_IMAGE = "image_base64"
_EXPLAIN = "model_explainability"


def image_bytes(number: int, cell: object, *, explained: bool = True) -> bytes:
    """The encoded image in a cell of row `number` (from 0). `explained`: whether answers of this task can be
    explained; where not, whether the cell asks for it does not matter (Azure's rule). Raises ValueError
    naming the row."""
    if isinstance(cell, bytes | bytearray | memoryview):
        raw = bytes(cell)
        # No image format begins so.
        return _from_json(number, raw, explained) if raw[:64].lstrip().startswith(b"{") else raw
    if not isinstance(cell, str):
        raise ValueError(f"row {number}: expected base64 text or bytes, not {type(cell).__name__}")
    if cell[:64].lstrip().startswith("{"):
        return _from_json(number, cell, explained)
    return _decoded(number, cell)


def _decoded(number: int, text: str) -> bytes:
    try:
        # base64.encodebytes, which the public samples use, breaks its lines; other text need not be copied.
        if any(space in text for space in "\n\r\t "):
            text = "".join(text.split())
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"row {number}: not base64 text ({error})") from error
    if not found:
        raise ValueError(f"row {number}: the text is empty; base64 text of an image is expected")
    return found


def _from_json(number: int, text: str | bytes, explained: bool) -> bytes:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"row {number}: neither base64 text nor JSON text ({error})") from error
    if not isinstance(value, dict) or not isinstance(value.get(_IMAGE), str):
        raise ValueError(f'row {number}: the JSON text needs "{_IMAGE}" with base64 text')
    explain = value.get(_EXPLAIN, False)
    if not isinstance(explain, bool):
        raise ValueError(f"row {number}: {_EXPLAIN} is {explain!r}; it must be true or false")
    if explain and explained:
        raise ValueError(
            f"row {number}: {_EXPLAIN} is true, but explanations are not there yet; send false for the "
            "probabilities alone"
        )
    return _decoded(number, value[_IMAGE])
