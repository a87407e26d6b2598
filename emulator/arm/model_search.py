"""Lists of a model's versions by stage, version, description, and from an offset on.

Source: the query parameters of Azure's "Model Versions - List" (2023-08-01-preview).
"""

from __future__ import annotations

from flask import request

from amlocal.emulator.arm import documents, filters
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call
from amlocal.emulator.http.errors import bad_request
from amlocal.emulator.http.paging import list_view

_ASKED = ("stage", "version", "description", "offset")


def search(call: Call) -> list[Document] | None:
    """The versions that the query asks for; None where it asks for no more than every list."""
    asked = {name: request.args[name] for name in _ASKED if request.args.get(name)}
    if not asked:
        return None
    offset = asked.get("offset", "0")
    if not (offset.isascii() and offset.isdigit() and len(offset) <= 12):
        raise bad_request(
            "InvalidQueryParameter", f"offset={offset[:40]!r} is not a whole number from 0.", target="offset"
        )
    view, entries = list_view(), filters.entries(call.resource)
    newest_first = request.args.get("$orderBy", "").lower().endswith("desc")
    found = call.services.store.read(
        lambda c: documents.listing(
            c,
            call.workspace.id,
            call.resource.kind,
            name=call.name,
            view=view,
            entries=entries,
            newest_first=newest_first,
        )
    )
    return [document for document in found if _fits(document, asked)][int(offset) :]


def _fits(document: Document, asked: dict[str, str]) -> bool:
    properties = document.properties
    return (
        asked.get("version", document.version) == document.version
        and asked.get("stage", "").lower() in ("", str(properties.get("stage") or "").lower())
        and asked.get("description", "") in str(properties.get("description") or "")
    )
