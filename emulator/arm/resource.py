"""What a resource is: one declaration, from which routes, paging, versions, archive and error bodies come.

A new resource is a file with one `Resource(...)` in it and one line in `arm/registry.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flask import Response, request
from sqlalchemy import Connection

from amlocal.emulator.arm.documents import Document
from amlocal.emulator.http.errors import AzureError, bad_request, not_found
from amlocal.emulator.store.workspace import Workspace

if TYPE_CHECKING:
    from amlocal.emulator.services import Services

# Azure's rule for the names of assets and computes, wide enough for what its own curated names use.
ASSET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}\Z")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}\Z")

MAX_JSON = 8 * 1024**2
MAX_DEPTH = 100
_DRAINED = 64 * 1024**2


@dataclass(frozen=True)
class Call:
    """One request on one resource: who, where, on what."""

    services: Services
    workspace: Workspace
    resource: Resource
    name: str
    version: str = ""

    @property
    def arm_id(self) -> str:
        """The ARM id of the resource or version addressed."""
        return arm_id(self.workspace, self.resource, self.name, self.version)


Prepare = Callable[[Call, dict[str, Any], Document | None], dict[str, Any]]
Present = Callable[[Call, Document], dict[str, Any]]
Act = Callable[[Call, Document], Response | dict[str, Any]]
Settle = Callable[[Connection, Call, dict[str, Any], dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Resource:
    """A resource below a workspace.

    `path` is its path there; a child's holds its parent's names: `onlineEndpoints/{}/deployments`.
    `prepare(call, body, present)` checks and completes a body before it is stored (raises AzureError).
    `settle(c, call, prepared, kept)` gives what is stored of what `prepare` gave, in the transaction that
    stores it: for rules about other documents. `name_words` says the name rule in words.
    `present(call, document)` gives the `properties` that clients see.
    `top_level` names what is kept beside `properties`, `hidden` which of that no client sees.
    `immutable` names properties that an existing version must keep.
    `default_version` is a version that stands for the newest one, `unlisted` names that no list shows.
    `search(call)` answers a list of versions whose query asks for more than the name's versions, or is None.
    `listed(call)` gives a test of which documents without versions a list shows, or is None.
    `actions` are POSTs below an item. `builtin` yields documents that exist without being stored.
    """

    path: str
    title: str
    versioned: bool = False
    name_rule: re.Pattern[str] = ASSET_NAME
    name_words: str = ""
    read_only: bool = False
    deletable: bool = True
    immutable: Sequence[str] = ()
    top_level: Sequence[str] = ("tags",)
    hidden: Sequence[str] = ()
    default_version: str = ""
    unlisted: Sequence[str] = ()
    prepare: Prepare = lambda call, body, present: body
    settle: Settle = lambda c, call, prepared, kept: kept
    present: Present = lambda call, document: dict(document.properties)
    after_put: Callable[[Call, Document, bool], Response | None] = lambda call, document, created: None
    on_delete: Callable[[Call, Document], Response | None] = lambda call, document: None
    builtin: Callable[[Services, Workspace], Iterable[Document]] = lambda services, workspace: ()
    actions: Mapping[str, Act] = field(default_factory=dict)
    version_actions: Mapping[str, Callable[[Call], Response | dict[str, Any]]] = field(default_factory=dict)
    filters: Mapping[str, Callable[[Document, str], bool]] = field(default_factory=dict)
    search: Callable[[Call], list[Document] | None] = lambda call: None
    listed: Callable[[Call], Callable[[Document], bool] | None] = lambda call: None

    @property
    def kind(self) -> str:
        """The path without the parents' names: what documents of it are stored under."""
        return "/".join(part for part in self.path.split("/") if part != "{}")

    def key(self, names: Sequence[str]) -> str:
        """The stored name for the names in a path: parents' names come first."""
        return "/".join(names)


def arm_id(workspace: Workspace, resource: Resource, name: str, version: str = "") -> str:
    """The ARM id of a resource: its path with the names filled in."""
    names = name.split("/")
    path = resource.path
    for parent in names[:-1]:
        path = path.replace("{}", parent, 1)
    identity = f"{workspace.arm_id}/{path}/{names[-1]}"
    return f"{identity}/versions/{version}" if version else identity


def check_name(resource: Resource, name: str) -> None:
    """Raises 400 for a name that Azure would refuse."""
    if not resource.name_rule.match(name):
        rule = (
            resource.name_words or f"it must match {resource.name_rule.pattern.removesuffix(chr(92) + 'Z')}"
        )
        raise bad_request(
            "InvalidResourceName",
            f"{name[:100]!r} is not a valid name of a {resource.title.lower()}: {rule}.",
            target="name",
        )


def check_version(version: str) -> None:
    """Raises 400 for a version that Azure would refuse."""
    if not VERSION.match(version):
        raise bad_request(
            "InvalidVersion",
            f"{version[:100]!r} is not a valid version: letters, digits, '_', '.', '+' and '-', "
            "at most 100 characters, beginning with a letter or digit.",
            target="version",
        )


def json_body() -> dict[str, Any]:
    """The request's body as a JSON object. Raises 400 saying where it is wrong, 413 when it is too large."""
    raw = request.stream.read(MAX_JSON + 1)
    if len(raw) > MAX_JSON:
        # Read on for a while: a client that is still sending would see a broken connection, not the answer.
        left = _DRAINED
        while left > 0 and (chunk := request.stream.read(64 * 1024)):
            left -= len(chunk)
        raise AzureError(413, "RequestEntityTooLarge", f"The body is larger than {MAX_JSON} bytes.")
    import json

    try:
        body = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise bad_request("InvalidRequestContent", f"The body is not UTF-8 at byte {error.start}.") from error
    except ValueError as error:
        raise bad_request("InvalidRequestContent", f"The body is not JSON: {error}.") from error
    except RecursionError as error:
        raise bad_request("InvalidRequestContent", "The body is nested too deeply.") from error
    if not isinstance(body, dict):
        raise bad_request("InvalidRequestContent", "The body must be a JSON object.")
    # What can just be read cannot be written again further down the stack: one such would spoil every list.
    if _is_deeper(body, MAX_DEPTH):
        raise bad_request(
            "InvalidRequestContent", f"The body is nested too deeply: more than {MAX_DEPTH} levels."
        )
    return body


def _is_deeper(value: Any, most: int) -> bool:
    """Whether objects and lists stand in one another more than `most` times."""
    level: list[Any] = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def properties_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """`body["properties"]`, which must be an object. Raises 400."""
    properties = body.get("properties")
    if not isinstance(properties, dict):
        raise bad_request("InvalidRequestContent", "The body lacks `properties`.", target="properties")
    return properties


def checked(body: dict[str, Any]) -> dict[str, Any]:
    """`body` once the fields that all resources share have their types. Raises 400 naming the field."""
    properties = properties_of(body)
    for parent, where in ((body, ""), (properties, "properties.")):
        for name in ("tags", *(("properties",) if where and "isAnonymous" in parent else ())):
            _check_texts(parent.get(name), f"{where}{name}")
        for name in ("description", "location", "displayName"):
            if parent.get(name) is not None and not isinstance(parent[name], str):
                raise bad_request("InvalidRequestContent", f"`{where}{name}` must be a text.", target=name)
    for name in ("isArchived", "isAnonymous"):
        if properties.get(name) is not None and not isinstance(properties[name], bool):
            raise bad_request(
                "InvalidRequestContent", f"`properties.{name}` must be true or false.", target=name
            )
    return body


def _check_texts(value: Any, name: str) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise bad_request("InvalidRequestContent", f"`{name}` must map texts to texts.", target=name)
    for key, text in value.items():
        if key == "hash_version" and isinstance(text, int):
            continue  # as azure-ai-ml writes it for uploaded code
        if text is not None and not isinstance(text, str):
            raise bad_request(
                "InvalidRequestContent",
                f"`{name}.{key[:100]}` must be a text; write it in quotes.",
                target=f"{name}.{key[:100]}",
            )


def text_of(properties: Mapping[str, Any], name: str) -> str:
    """A property that must be a text. Raises 400 naming it."""
    value = properties.get(name)
    if not isinstance(value, str) or not value:
        raise bad_request("InvalidRequestContent", f"`properties.{name}` must be a text.", target=name)
    return value


def missing(resource: Resource, name: str, version: str = "") -> AzureError:
    """404 for one resource, by its name."""
    label = f"{name}:{version}" if version else name
    return not_found(f"{resource.title} {label[:200]!r} does not exist in this workspace.", target="name")


def find(
    services: Services,
    workspace: Workspace,
    resource: Resource,
    name: str,
    version: str = "",
    connection: Connection | None = None,
) -> Document:
    """A stored or built-in document. Raises 404."""
    from amlocal.emulator.arm import documents

    def read(c: Connection) -> Document | None:
        return documents.get(c, workspace.id, resource.kind, name, version)

    key = ("document", workspace.id, resource.kind, name.lower(), version)
    found = read(connection) if connection is not None else services.store.remembered(key, read)
    if found is None:
        for document in resource.builtin(services, workspace):
            if (document.name.lower(), document.version) == (name.lower(), version):
                return document
        raise missing(resource, name, version)
    return found
