"""Data assets: named, versioned pointers to files, folders and MLTables in a datastore."""

from __future__ import annotations

from typing import Any

from amlocal.emulator.arm.datastores import long_uri
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, properties_of, text_of
from amlocal.emulator.http.errors import bad_request

_TYPES = ("uri_file", "uri_folder", "mltable")


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = properties_of(body)
    data_type = text_of(properties, "dataType")
    uri = text_of(properties, "dataUri")
    if data_type not in _TYPES:
        raise bad_request(
            "InvalidDataType", f"dataType {data_type[:60]!r}: use {', '.join(_TYPES)}.", target="dataType"
        )
    if present is not None and (uri, data_type) == (
        present.properties["dataUri"],
        present.properties["dataType"],
    ):
        return body  # nothing but texts change; the data itself may be gone by now
    path = call.services.resolver.resolve(call.workspace, uri)
    if data_type == "mltable" and not (path / "MLTable").is_file():
        raise bad_request(
            "InvalidMLTable",
            f"{uri} holds no file named MLTable. An mltable asset is a folder with an MLTable file in it.",
            target="dataUri",
        )
    if data_type == "uri_file" and not path.is_file():
        raise bad_request("InvalidDataUri", f"{uri} is not a file.", target="dataUri")
    if data_type == "uri_folder" and not path.is_dir():
        raise bad_request("InvalidDataUri", f"{uri} is not a folder.", target="dataUri")
    slash = "/" if data_type == "uri_folder" else ""
    return {**body, "properties": {**properties, "dataUri": long_uri(call, path) + slash}}


DATA = Resource(
    path="data",
    title="Data asset",
    versioned=True,
    immutable=("dataUri", "dataType"),
    top_level=(),
    prepare=_prepare,
)
