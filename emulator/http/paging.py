"""Pages of a list: `$top` (or `count`), `$skip`, and the `nextLink` that leads to the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from flask import request

from amlocal.emulator.http.errors import bad_request

PAGE = 200
_LARGEST = 1000
_VIEWS = ("ActiveOnly", "ArchivedOnly", "All")


def window() -> tuple[int, int]:
    """(skip, top) of the request. Raises 400 for values that are not whole numbers from 0."""
    return _number("$skip", 0, 10**9), max(1, _number("$top", _number("count", PAGE, _LARGEST), _LARGEST))


def _number(name: str, default: int, largest: int) -> int:
    text = request.args.get(name)
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise bad_request(
            "InvalidQueryParameter", f"{name}={text[:40]!r} is not a whole number from 0.", target=name
        )
    return min(int(text), largest)


def page(base_url: str, items: Sequence[Any], skip: int, top: int) -> dict[str, Any]:
    """The body of a list; `items` are those from `skip` on, one more than `top` if there are more."""
    body: dict[str, Any] = {"value": list(items[:top])}
    if len(items) > top:
        arguments = [(key, value) for key, value in request.args.items(multi=True) if key != "$skip"]
        arguments.append(("$skip", str(skip + top)))
        body["nextLink"] = f"{base_url}{request.path}?{urlencode(arguments)}"
    return body


def list_view() -> str:
    """`listViewType` of the request. Registry clients send the enum's repr, hence the last dot-part."""
    text = request.args.get("listViewType", "ActiveOnly").rpartition(".")[2]
    for view in _VIEWS:
        if text.replace("_", "").lower() == view.lower():
            return view
    raise bad_request(
        "InvalidQueryParameter",
        f"listViewType={text[:40]!r}: use {', '.join(_VIEWS)}.",
        target="listViewType",
    )
