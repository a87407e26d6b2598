"""Filters of a list by tags and properties: `tags=team,stage=dev` means "has team, and stage is dev".

Source: the `$tags`, `tags` and `properties` query parameters of Azure's data and model versions.
"""

from __future__ import annotations

from flask import request

from amlocal.emulator.arm.resource import Resource
from amlocal.emulator.http.errors import bad_request
from amlocal.emulator.store.entries import Entry

_MOST = 50


def entries(resource: Resource) -> list[Entry]:
    """What the request asks the listed documents to have. Raises 400."""
    tags = "$.tags" if "tags" in resource.top_level else "$.properties.tags"
    return read(tags=("body", tags), properties=("body", "$.properties.properties"))


def of_jobs() -> list[Entry]:
    """What the request asks the listed jobs to have. Raises 400."""
    return read(tags=("tags", "$"), properties=("properties", "$"))


def read(*, tags: tuple[str, str], properties: tuple[str, str]) -> list[Entry]:
    """The wanted entries; `tags` and `properties` are the column and JSON path of those maps. Raises 400."""
    found = []
    for parameter, (column, path) in (
        ("$tags", tags),
        ("tags", tags),
        ("tag", tags),
        ("properties", properties),
        ("$properties", properties),
    ):
        text = request.args.get(parameter, "")
        for part in text.split(",") if text else ():
            key, equals, value = part.partition("=")
            if not key.strip():
                raise bad_request(
                    "InvalidQueryParameter",
                    f"{parameter}={text[:100]!r} must be names, or name=value, with commas between them.",
                    target=parameter,
                )
            found.append(Entry(path, key.strip(), value.strip() if equals else None, column))
    if len(found) > _MOST:
        raise bad_request(
            "InvalidQueryParameter", f"At most {_MOST} tags and properties can be asked for.", target="tags"
        )
    return found
