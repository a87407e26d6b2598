"""The routes of a declared resource: list, get, put, patch, delete, versions, actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flask import Blueprint, Response, jsonify, request
from sqlalchemy import Connection

from amlocal.emulator import crash_points
from amlocal.emulator.arm import documents, filters
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.merging import merge as merge
from amlocal.emulator.arm.preconditions import Precondition
from amlocal.emulator.arm.rendering import contained, rendered
from amlocal.emulator.arm.resource import (
    Call,
    Resource,
    check_name,
    check_version,
    checked,
    find,
    json_body,
    missing,
)
from amlocal.emulator.http import paging
from amlocal.emulator.http import versions as api_versions
from amlocal.emulator.http.errors import conflict, not_there_yet
from amlocal.emulator.http.paging import list_view as list_view
from amlocal.emulator.services import Services
from amlocal.emulator.store.entries import Entry
from amlocal.emulator.store.workspace import PROVIDER, Workspace

WORKSPACE_RULE = (
    f"/subscriptions/<subscription>/resourceGroups/<group>/providers/{PROVIDER}/workspaces/<workspace>"
)


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
        if not resource.read_only:
            add(item, "PUT", handler.put_container)
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
        api_versions.check()
        workspace = self.services.workspaces.get(
            arguments["subscription"], arguments["group"], arguments["workspace"]
        )
        parents = [arguments[key] for key in sorted(arguments) if key[0] == "p" and key[1:].isdigit()]
        for parent in parents:
            check_name(self.resource, parent)
        if "name" in arguments:
            if self.resource.versioned and request.method == "GET":
                # azure-ai-ml leaves the prefix when it looks up azureml:NAME@latest.
                arguments["name"] = arguments["name"].removeprefix("azureml:")
            check_name(self.resource, arguments["name"])
        version = arguments.get("version", "")
        if version:
            check_version(version)
        names = [*parents, arguments["name"]] if "name" in arguments else parents
        return Call(self.services, workspace, self.resource, self.resource.key(names), version)

    def get(self, **arguments: str) -> Response:
        call = self.call(arguments)
        if call.version and call.version == self.resource.default_version:
            document = self.newest(call)[0]
        else:
            document = find(self.services, call.workspace, self.resource, call.name, call.version)
        response = jsonify(rendered(call, document))
        response.headers["ETag"] = document.etag
        return response

    def list(self, **arguments: str) -> Response:
        call = self.call(arguments)
        skip, top = paging.window()
        view = list_view()
        entries = filters.entries(self.resource)
        if self.resource.versioned:
            items = self.containers(call, view, entries, skip, top)
        else:
            items = self.plain(call, view, entries, skip, top)
        return jsonify(paging.page(self.services.settings.base_url, items, skip, top))

    def plain(
        self, call: Call, view: str, entries: Sequence[Entry], skip: int, top: int
    ) -> Sequence[dict[str, Any]]:
        """Documents without versions; those that are built in come first."""
        kind, resource = self.resource.kind, self.resource
        prefix = f"{call.name}/" if call.name else None
        tests = [
            (test, request.args[name]) for name, test in resource.filters.items() if request.args.get(name)
        ]
        listed = resource.listed(call)
        if listed is not None:
            tests.append((lambda document, _: listed(document), ""))
        builtin = (
            [] if entries or view == "ArchivedOnly" else list(resource.builtin(self.services, call.workspace))
        )
        if tests:
            # A test is Python's, so the documents have to be read to be counted.
            stored = self.services.store.read(
                lambda c: documents.listing(
                    c, call.workspace.id, kind, prefix=prefix, view=view, entries=entries
                )
            )
            kept = [d for d in [*builtin, *stored] if all(test(d, value) for test, value in tests)]
            found = kept[skip : skip + top + 1]
        else:
            first = builtin[skip : skip + top + 1]
            stored = self.services.store.read(
                lambda c: documents.listing(
                    c,
                    call.workspace.id,
                    kind,
                    prefix=prefix,
                    view=view,
                    entries=entries,
                    skip=max(0, skip - len(builtin)),
                    limit=top + 1 - len(first),
                )
            )
            found = [*first, *stored]
        return [rendered(call, document) for document in found]

    def containers(
        self, call: Call, view: str, entries: Sequence[Entry], skip: int, top: int
    ) -> Sequence[dict[str, Any]]:
        """Names of a versioned resource, in two queries whatever their number; built-in ones come first."""
        kind, workspace = self.resource.kind, call.workspace
        hidden = bool(entries) or view == "ArchivedOnly"
        builtin = [] if hidden else list(self.newest_builtin(workspace).values())
        first = builtin[skip : skip + top + 1]

        def read(c: Connection) -> tuple[Sequence[Document], dict[str, str]]:
            found = documents.latest_of_each(
                c,
                workspace.id,
                kind,
                view=view,
                entries=entries,
                without=self.resource.unlisted,
                skip=max(0, skip - len(builtin)),
                limit=top + 1 - len(first),
            )
            return found, documents.next_versions(c, workspace.id, kind, [d.name for d in found])

        found, following = self.services.store.read(read)
        return [
            *(contained(call, document, document.version) for document in first),
            *(contained(call, document, following[document.name.lower()]) for document in found),
        ]

    def newest_builtin(self, workspace: Workspace) -> dict[str, Document]:
        """By lower-cased name the newest version of everything built in; nobody can add one."""
        found = self.resource.builtin(self.services, workspace) if self.resource.versioned else ()
        return {document.name.lower(): document for document in found}

    def container(self, **arguments: str) -> Response:
        return jsonify(self.container_of(self.call(arguments)))

    def container_of(self, call: Call) -> dict[str, Any]:
        return contained(call, *self.newest(call))

    def newest(self, call: Call) -> tuple[Document, str]:
        """The newest active version of a name, and what the next one will be numbered. Raises 404."""
        kind, workspace = self.resource.kind, call.workspace

        def read(c: Connection) -> tuple[Document, str] | None:
            newest = documents.latest(c, workspace.id, kind, call.name)
            if newest is None:
                return None
            following = documents.next_versions(c, workspace.id, kind, [newest.name])
            return newest, following[newest.name.lower()]

        found = self.services.store.read(read)
        if found is None:
            builtin = self.newest_builtin(workspace).get(call.name.lower())
            if builtin is None:
                raise missing(self.resource, call.name)
            return builtin, builtin.version
        return found

    def put_container(self, **arguments: str) -> Response:
        """Archive or restore every version of a name, which is all that a container can be told."""
        call = self.call(arguments)
        body = checked(json_body())
        archived = body["properties"].get("isArchived")
        if call.name.lower() in self.newest_builtin(call.workspace):
            raise conflict(f"{self.resource.title} {call.name!r} is built in and cannot be changed.")
        shown = self.container_of(call)["properties"]
        for key in ("tags", "properties", "description"):
            if body["properties"].get(key) and body["properties"][key] != shown[key]:
                raise not_there_yet(f"Changing `{key}` of all versions of {call.name} at once")
        self.services.store.write(
            lambda c: documents.set_archived(
                c, call.workspace.id, self.resource.kind, call.name, bool(archived)
            )
        )
        return jsonify(self.container_of(call))

    def versions(self, **arguments: str) -> Response:
        call = self.call(arguments)
        skip, top = paging.window()
        searched = self.resource.search(call)
        if searched is not None:
            items = [rendered(call, document) for document in searched[skip : skip + top + 1]]
            return jsonify(paging.page(self.services.settings.base_url, items, skip, top))
        view = list_view()
        entries = filters.entries(self.resource)
        newest_first = request.args.get("$orderBy", "").lower().endswith("desc")
        found = self.services.store.read(
            lambda c: documents.listing(
                c,
                call.workspace.id,
                self.resource.kind,
                name=call.name,
                view=view,
                entries=entries,
                newest_first=newest_first,
                skip=skip,
                limit=top + 1,
            )
        )
        items = [rendered(call, document) for document in found]
        return jsonify(paging.page(self.services.settings.base_url, items, skip, top))

    def put(self, **arguments: str) -> Response:
        call = self.call(arguments)
        return self.store(call, json_body())

    def patch(self, **arguments: str) -> Response:
        call = self.call(arguments)
        present = find(self.services, call.workspace, self.resource, call.name, call.version)
        return self.store(call, merge(present.body, json_body()))

    def store(self, call: Call, body: dict[str, Any]) -> Response:
        """Check, store, answer 201 for a new document and 200 for a known one."""
        resource = self.resource
        body = checked(body)
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
        archived = resource.versioned and bool(kept["properties"].get("isArchived"))
        kept["properties"] = {key: value for key, value in kept["properties"].items() if key != "isArchived"}

        def write(c: Connection) -> tuple[Document, bool]:
            now_present = documents.get(c, call.workspace.id, resource.kind, call.name, call.version)
            precondition.check(now_present)
            if now_present is not None:
                self.check_immutable(call, now_present, kept["properties"])
            settled = resource.settle(c, call, prepared, kept)
            return documents.put(
                c, call.workspace.id, resource.kind, call.name, call.version, settled, archived=archived
            )

        crash_points.reach("asset.checked")
        document, created = self.services.store.write(write)
        crash_points.reach("asset.stored")
        special = resource.after_put(call, document, created)
        response = special or jsonify(rendered(call, document))
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
        crash_points.reach("asset.deleted")
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


def workspace_of(services: Services, arguments: dict[str, str]) -> Workspace:
    """The workspace in a route's arguments, for routes that are not of a declared resource."""
    services.auth.require_user()
    api_versions.check()
    return services.workspaces.get(arguments["subscription"], arguments["group"], arguments["workspace"])
