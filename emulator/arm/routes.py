"""The routes of a declared resource: list, get, put, patch, delete, versions, actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, jsonify, request
from sqlalchemy import Connection

from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import (
    Call,
    Resource,
    arm_id,
    check_name,
    check_version,
    find,
    json_body,
    missing,
    properties_of,
)
from amlocal.emulator.http import paging
from amlocal.emulator.http.errors import AzureError, bad_request, conflict
from amlocal.emulator.services import Services
from amlocal.emulator.store.workspace import PROVIDER, Workspace

WORKSPACE_RULE = (
    f"/subscriptions/<subscription>/resourceGroups/<group>/providers/{PROVIDER}/workspaces/<workspace>"
)
_VIEWS = ("ActiveOnly", "ArchivedOnly", "All")


def register(blueprint: Blueprint, resource: Resource, services: Services) -> None:
    """Add every route of `resource` to `blueprint`."""
    handler = _Handler(resource, services)
    parents = resource.path.count("{}")
    path = resource.path
    for number in range(parents):
        path = path.replace("{}", f"<p{number}>", 1)
    collection = f"{WORKSPACE_RULE}/{path}"
    item = f"{collection}/<name>"
    kind = resource.kind.replace("/", "_")

    def add(rule: str, verb: str, function: Callable[..., Any]) -> None:
        blueprint.add_url_rule(rule, f"{kind}_{verb}_{rule.count('/')}", _bound(function), methods=[verb])

    add(collection, "GET", handler.list)
    if not resource.versioned:
        add(item, "GET", handler.get)
        if not resource.read_only:
            add(item, "PUT", handler.put)
            add(item, "PATCH", handler.patch)
        if resource.deletable and not resource.read_only:
            add(item, "DELETE", handler.delete)
    else:
        add(item, "GET", handler.container)
        versions = f"{item}/versions"
        add(versions, "GET", handler.versions)
        add(f"{versions}/<version>", "GET", handler.get)
        if not resource.read_only:
            add(f"{versions}/<version>", "PUT", handler.put)
        if resource.deletable and not resource.read_only:
            add(item, "DELETE", handler.delete)
            add(f"{versions}/<version>", "DELETE", handler.delete)
    for action, act in resource.actions.items():
        blueprint.add_url_rule(
            f"{item}/{action}", f"{kind}_{action}", _bound(handler.acting(act)), methods=["POST"]
        )
    for action, version_act in resource.version_actions.items():
        blueprint.add_url_rule(
            f"{item}/versions/<version>/{action}",
            f"{kind}_version_{action}",
            _bound(handler.version_acting(version_act)),
            methods=["POST"],
        )


def _bound(function: Callable[..., Any]) -> Callable[..., Any]:
    def view(**arguments: str) -> Any:
        return function(**arguments)

    return view


class _Handler:
    def __init__(self, resource: Resource, services: Services) -> None:
        self.resource = resource
        self.services = services

    def call(self, arguments: dict[str, str]) -> Call:
        """Authenticate, find the workspace, and name what is addressed."""
        self.services.auth.require_user()
        workspace = self.services.workspaces.get(
            arguments["subscription"], arguments["group"], arguments["workspace"]
        )
        parents = [arguments[key] for key in sorted(arguments) if key[0] == "p" and key[1:].isdigit()]
        names = [*parents, arguments["name"]] if "name" in arguments else parents
        for parent in parents:
            check_name(self.resource, parent)
        if "name" in arguments:
            check_name(self.resource, arguments["name"])
        version = arguments.get("version", "")
        if version:
            check_version(version)
        return Call(self.services, workspace, self.resource, self.resource.key(names), version)

    def rendered(self, call: Call, document: Document) -> dict[str, Any]:
        """The document as clients see it."""
        resource = call.resource
        shown = Call(call.services, call.workspace, resource, document.name, document.version)
        body = {
            key: document.body[key]
            for key in resource.top_level
            if key in document.body and key not in resource.hidden
        }
        properties = resource.present(shown, document)
        if resource.versioned:
            properties.setdefault("isArchived", document.archived)
        return {
            "id": arm_id(call.workspace, resource, document.name, document.version),
            "name": document.version or document.name.rpartition("/")[2],
            "type": f"{PROVIDER}/workspaces/{resource.kind}{'/versions' if document.version else ''}",
            "etag": document.etag,
            "properties": properties,
            "systemData": {
                "createdAt": document.created_at,
                "createdBy": "local user",
                "createdByType": "User",
                "lastModifiedAt": document.modified_at,
                "lastModifiedBy": "local user",
                "lastModifiedByType": "User",
            },
            **body,
        }

    def get(self, **arguments: str) -> Response:
        call = self.call(arguments)
        document = find(self.services, call.workspace, self.resource, call.name, call.version)
        response = jsonify(self.rendered(call, document))
        response.headers["ETag"] = document.etag
        return response

    def list(self, **arguments: str) -> Response:
        call = self.call(arguments)
        skip, top = paging.window()
        view = list_view()
        kind, resource = self.resource.kind, self.resource
        prefix = f"{call.name}/" if call.name else None
        active_filters = [
            (test, request.args[name]) for name, test in resource.filters.items() if request.args.get(name)
        ]

        def read(c: Connection) -> list[Document]:
            if resource.versioned:
                return documents.latest_of_each(
                    c, call.workspace.id, kind, view=view, skip=skip, limit=top + 1
                )
            everything = documents.listing(c, call.workspace.id, kind, prefix=prefix, view=view)
            everything = [*resource.builtin(self.services, call.workspace), *everything]
            kept = [d for d in everything if all(test(d, value) for test, value in active_filters)]
            return kept[skip : skip + top + 1]

        found = self.services.store.read(read)
        items = [self.contained(call, d) if resource.versioned else self.rendered(call, d) for d in found]
        return jsonify(paging.page(self.services.settings.base_url, items, skip, top))

    def contained(self, call: Call, latest: Document) -> dict[str, Any]:
        """The container of a name's versions, as lists show it."""
        versions = self.services.store.read(
            lambda c: [
                d.version
                for d in documents.listing(
                    c, call.workspace.id, self.resource.kind, name=latest.name, view="All"
                )
            ]
        )
        shown = self.rendered(call, latest)
        properties = {
            "latestVersion": latest.version,
            "nextVersion": documents.next_version(versions),
            "isArchived": latest.archived,
            "tags": shown["properties"].get("tags") or {},
            "properties": shown["properties"].get("properties") or {},
            "description": shown["properties"].get("description"),
        }
        for key in ("dataType", "environmentType", "modelType"):
            if key in shown["properties"]:
                properties[key] = shown["properties"][key]
        return {
            **shown,
            "id": arm_id(call.workspace, self.resource, latest.name),
            "name": latest.name,
            "type": f"{PROVIDER}/workspaces/{self.resource.kind}",
            "properties": properties,
        }

    def container(self, **arguments: str) -> Response:
        call = self.call(arguments)
        newest = self.services.store.read(
            lambda c: documents.listing(
                c,
                call.workspace.id,
                self.resource.kind,
                name=call.name,
                view="All",
                newest_first=True,
                limit=1,
            )
        )
        if not newest:
            raise missing(self.resource, call.name)
        return jsonify(self.contained(call, newest[0]))

    def versions(self, **arguments: str) -> Response:
        call = self.call(arguments)
        skip, top = paging.window()
        newest_first = request.args.get("$orderBy", "").lower().endswith("desc")
        found = self.services.store.read(
            lambda c: documents.listing(
                c,
                call.workspace.id,
                self.resource.kind,
                name=call.name,
                view=list_view(),
                newest_first=newest_first,
                skip=skip,
                limit=top + 1,
            )
        )
        items = [self.rendered(call, document) for document in found]
        return jsonify(paging.page(self.services.settings.base_url, items, skip, top))

    def put(self, **arguments: str) -> Response:
        call = self.call(arguments)
        body = json_body()
        properties_of(body)
        return self.store(call, body)

    def patch(self, **arguments: str) -> Response:
        call = self.call(arguments)
        present = find(self.services, call.workspace, self.resource, call.name, call.version)
        return self.store(call, merge(present.body, json_body()))

    def store(self, call: Call, body: dict[str, Any]) -> Response:
        """Check, store, answer 201 for a new document and 200 for a known one."""
        resource = self.resource
        for document in resource.builtin(self.services, call.workspace):
            if (document.name.lower(), document.version) == (call.name.lower(), call.version):
                raise conflict(f"{resource.title} {call.name!r} is built in and cannot be changed.")
        present = self.services.store.read(
            lambda c: documents.get(c, call.workspace.id, resource.kind, call.name, call.version)
        )
        precondition = Precondition.of_request()
        precondition.check(present)
        prepared = resource.prepare(call, body, present)
        kept = {key: prepared[key] for key in ("properties", *resource.top_level) if key in prepared}
        archived = bool(kept["properties"].get("isArchived", False)) if resource.versioned else False

        def write(c: Connection) -> tuple[Document, bool]:
            now_present = documents.get(c, call.workspace.id, resource.kind, call.name, call.version)
            precondition.check(now_present)
            if now_present is not None:
                self.check_immutable(call, now_present, kept["properties"])
            return documents.put(
                c, call.workspace.id, resource.kind, call.name, call.version, kept, archived=archived
            )

        document, created = self.services.store.write(write)
        special = resource.after_put(call, document, created)
        response = special or jsonify(self.rendered(call, document))
        if special is None:
            response.status_code = 201 if created else 200
        response.headers["ETag"] = document.etag
        return response

    def check_immutable(self, call: Call, present: Document, properties: dict[str, Any]) -> None:
        for name in self.resource.immutable:
            if present.properties.get(name) != properties.get(name):
                raise conflict(
                    f"{self.resource.title} {call.name}:{call.version} exists already and its `{name}` "
                    "cannot be changed. Create a new version.",
                    target=name,
                )

    def delete(self, **arguments: str) -> Response:
        call = self.call(arguments)
        resource = self.resource
        if resource.versioned and not call.version:
            gone = self.services.store.write(
                lambda c: documents.remove(c, call.workspace.id, resource.kind, call.name)
            )
            return Response(status=200 if gone else 204)
        for builtin in resource.builtin(self.services, call.workspace):
            if (builtin.name.lower(), builtin.version) == (call.name.lower(), call.version):
                raise conflict(f"{resource.title} {call.name!r} is built in and cannot be deleted.")
        document = self.services.store.read(
            lambda c: documents.get(c, call.workspace.id, resource.kind, call.name, call.version)
        )
        if document is None:
            return Response(status=204)
        Precondition.of_request().check(document)
        special = resource.on_delete(call, document)
        if special is not None:
            return special
        self.services.store.write(
            lambda c: documents.remove(c, call.workspace.id, resource.kind, call.name, call.version)
        )
        return Response(status=200)

    def acting(self, act: Any) -> Callable[..., Any]:
        def action(**arguments: str) -> Any:
            call = self.call(arguments)
            document = find(self.services, call.workspace, self.resource, call.name, call.version)
            answer = act(call, document)
            return answer if isinstance(answer, Response) else jsonify(answer)

        return action

    def version_acting(self, act: Any) -> Callable[..., Any]:
        def action(**arguments: str) -> Any:
            answer = act(self.call(arguments))
            return answer if isinstance(answer, Response) else jsonify(answer)

        return action


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


@dataclass(frozen=True)
class Precondition:
    """The request's If-Match and If-None-Match (RFC 9110). Read once: the writer's thread has no request."""

    match: str | None
    none_match: str | None

    @classmethod
    def of_request(cls) -> Precondition:
        return cls(request.headers.get("If-Match"), request.headers.get("If-None-Match"))

    def check(self, present: Document | None) -> None:
        """Raises 412."""
        if self.match and (present is None or self.match not in ("*", present.etag)):
            raise AzureError(
                412, "PreconditionFailed", "The resource has changed: its etag is not the one in If-Match."
            )
        if self.none_match == "*" and present is not None:
            raise AzureError(412, "PreconditionFailed", "The resource exists already.")


def merge(present: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """JSON merge patch (RFC 7396)."""
    merged = dict(present)
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def workspace_of(services: Services, arguments: dict[str, str]) -> Workspace:
    """The workspace in a route's arguments, for routes that are not of a declared resource."""
    services.auth.require_user()
    return services.workspaces.get(arguments["subscription"], arguments["group"], arguments["workspace"])
