"""Index assets: named, versioned pointers to an index's folder, on the asset service's own routes.

Their shape is the asset service's: flat, without ARM's `properties`; a stage of Archived archives a version.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify
from sqlalchemy import Connection

from amlocal.compat import cloud
from amlocal.emulator.arm import documents, filters
from amlocal.emulator.arm.datastores import long_uri
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import (
    Call,
    Resource,
    check_name,
    check_version,
    checked,
    find,
    json_body,
    missing,
    text_of,
)
from amlocal.emulator.arm.routes import WORKSPACE_RULE, list_view, workspace_of
from amlocal.emulator.http import paging
from amlocal.emulator.http.errors import bad_request, conflict
from amlocal.emulator.services import Services

# Name rules and place in the store; the routes are those below.
INDEXES = Resource(path="indexes", title="Index", versioned=True, top_level=())
RULE = f"/genericasset{WORKSPACE_RULE}/indexes"
_KEPT = ("storageUri", "stage", "description", "tags", "properties")
_STAGES = ("Development", "Production", "Archived")
_NEXT = ":getNextVersion"


def create_blueprint(services: Services) -> Blueprint:
    """Routes of index assets."""
    blueprint = Blueprint("indexes", __name__)

    def where(arguments: dict[str, str]) -> Call:
        workspace = workspace_of(services, arguments)
        name, version = arguments.get("name", ""), arguments.get("version", "")
        if name:
            check_name(INDEXES, name.removesuffix(_NEXT))
        if version:
            check_version(version)
        return Call(services, workspace, INDEXES, name, version)

    def answer(call: Call, found: list[Document], skip: int, top: int) -> Response:
        items = [_shown(call, document) for document in found]
        return jsonify(paging.page(services.settings.base_url, items, skip, top))

    @blueprint.get(RULE)
    def list_latest(**arguments: str) -> Response:
        call = where(arguments)
        skip, top = paging.window()
        found = services.store.read(
            lambda c: documents.latest_of_each(c, call.workspace.id, INDEXES.kind, skip=skip, limit=top + 1)
        )
        return answer(call, found, skip, top)

    @blueprint.get(f"{RULE}/<name>/versions")
    def list_versions(**arguments: str) -> Response:
        call = where(arguments)
        skip, top = paging.window()
        view, entries = list_view(), filters.entries(INDEXES)
        found = services.store.read(
            lambda c: documents.listing(
                c,
                call.workspace.id,
                INDEXES.kind,
                name=call.name,
                view=view,
                entries=entries,
                skip=skip,
                limit=top + 1,
            )
        )
        return answer(call, list(found), skip, top)

    @blueprint.get(f"{RULE}/<name>")
    def latest(**arguments: str) -> Response:
        call = where(arguments)
        found = services.store.read(lambda c: documents.latest(c, call.workspace.id, INDEXES.kind, call.name))
        if found is None:
            raise missing(INDEXES, call.name)
        return jsonify(_shown(call, found))

    @blueprint.post(f"{RULE}/<name>")
    def next_version(**arguments: str) -> Response:
        call = where(arguments)
        if not call.name.endswith(_NEXT):
            raise bad_request("InvalidRequestContent", f"{call.name[:100]!r} is not {_NEXT} of an index.")
        name = call.name.removesuffix(_NEXT)

        def read(c: Connection) -> tuple[Document | None, str]:
            newest = documents.latest(c, call.workspace.id, INDEXES.kind, name)
            return newest, documents.next_versions(c, call.workspace.id, INDEXES.kind, [name])[name.lower()]

        newest, following = services.store.read(read)
        return jsonify({"latestVersion": newest.version if newest else None, "nextVersion": int(following)})

    @blueprint.get(f"{RULE}/<name>/versions/<version>")
    def get(**arguments: str) -> Response:
        call = where(arguments)
        return jsonify(_shown(call, find(services, call.workspace, INDEXES, call.name, call.version)))

    @blueprint.put(f"{RULE}/<name>/versions/<version>")
    def put(**arguments: str) -> Response:
        call = where(arguments)
        body = _prepared(call, json_body())

        def write(c: Connection) -> tuple[Document, bool]:
            present = documents.get(c, call.workspace.id, INDEXES.kind, call.name, call.version)
            uri = body["properties"]["storageUri"]
            if present is not None and present.properties["storageUri"] != uri:
                raise conflict(
                    f"Index {call.name}:{call.version} exists already and its `storageUri` cannot be "
                    "changed. Create a new version.",
                    target="storageUri",
                )
            archived = body["properties"]["stage"] == "Archived"
            return documents.put(
                c, call.workspace.id, INDEXES.kind, call.name, call.version, body, archived=archived
            )

        document, created = services.store.write(write)
        response = jsonify(_shown(call, document))
        response.status_code = 201 if created else 200
        return response

    return blueprint


def _prepared(call: Call, sent: dict[str, Any]) -> dict[str, Any]:
    """The body to store. Raises AzureError: 400 for a wrong field, an unknown stage or a missing folder."""
    kept = {key: sent[key] for key in _KEPT if sent.get(key) is not None}
    checked({"properties": {"isAnonymous": False, **kept}})
    stage = kept.setdefault("stage", "Development")
    if stage not in _STAGES:
        raise bad_request(
            "InvalidStage", f"stage {str(stage)[:60]!r}: use {', '.join(_STAGES)}.", target="stage"
        )
    uri = text_of(kept, "storageUri")
    path = call.services.resolver.resolve(call.workspace, uri)
    if not path.exists():
        raise bad_request("InvalidStorageUri", f"There is nothing at {uri[:300]}.", target="storageUri")
    kept["storageUri"] = long_uri(call, path)
    return {"properties": kept}


def _shown(call: Call, document: Document) -> dict[str, Any]:
    return {
        # Clients take name and version from this id; it has the form that data assets have there.
        "id": f"azureml://locations/{cloud.LOCATION}/workspaces/{call.workspace.id}/indexes"
        f"/{document.name}/versions/{document.version}",
        **document.properties,
        "systemData": {
            "createdAt": document.created_at,
            "createdBy": "local user",
            "createdByType": "User",
            "lastModifiedAt": document.modified_at,
        },
    }
