"""Environments: recorded as they are given; their jobs run in the interpreter of this installation, `host`.

Nothing is pulled, built or installed: images, build contexts and conda files are kept as a description.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from amlocal.compat.azureml_uri import AssetUri, UriError, parse
from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, properties_of
from amlocal.emulator.http.errors import bad_request, user_error
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.workspace import Workspace

if TYPE_CHECKING:
    from amlocal.emulator.services import Services

HOST = "host"
CURATED = re.compile(r"AzureML-[A-Za-z0-9_.-]{1,240}", re.IGNORECASE)
# Azure's own registries of curated environments.
_REGISTRIES = frozenset({"azureml", "azureml-preview"})
_ARM_ID = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft\.MachineLearningServices"
    r"/workspaces/([^/]+)/environments/([^/]+)/(versions|labels)/([^/]+)",
    re.IGNORECASE,
)
_TEXTS = ("image", "condaFile", "description", "osType", "environmentType", "stage")
_MOST = 1024**2
_EPOCH = "2020-01-01T00:00:00+00:00"


def resolve(store: Store, workspace: Workspace, environment_id: str) -> str:
    """The name and version (NAME:VERSION) of the environment that a job asks for.

    Curated names of Azure's resolve without being stored. Raises AzureError 400 naming what there is.
    """
    registry, name, version, label = _read(workspace, environment_id)
    if (registry or "").lower() in _REGISTRIES or CURATED.fullmatch(name):
        return f"{name}:{version or label}"
    if registry is not None:
        raise user_error(
            f"environment {shown(environment_id)}: only the registry azureml is known here.",
            target="environmentId",
        )
    if name.lower() == HOST and (label is not None or version == "1"):
        return f"{HOST}:1"
    if label not in (None, "latest"):
        raise user_error(
            f"environment {shown(environment_id)}: the only label is latest.", target="environmentId"
        )

    def read(c: Connection) -> tuple[Document | None, list[str]]:
        if version is not None:
            found = documents.get(c, workspace.id, "environments", name, version)
        else:
            newest = documents.listing(c, workspace.id, "environments", name=name, newest_first=True, limit=1)
            found = newest[0] if newest else None
        others = documents.latest_of_each(c, workspace.id, "environments", limit=20)
        return found, [f"{other.name}:{other.version}" for other in others]

    found, others = store.read(read)
    if found is None:
        exist = ", ".join([f"{HOST}:1", *others])
        raise user_error(
            f"environment {shown(f'{name}:{version or label}')} was not found in workspace {workspace.name}. "
            f"Create it by environments.create_or_update, or use one that exists: {exist}.",
            target="environmentId",
        )
    return f"{found.name}:{found.version}"


def _read(workspace: Workspace, text: str) -> tuple[str | None, str, str | None, str | None]:
    """(registry, name, version, label) of a reference."""
    match = _ARM_ID.fullmatch(text)
    if match is not None:
        if "/".join(match.groups()[:3]).lower() != workspace.key:
            raise user_error(
                f"environment {shown(text)} belongs to another workspace than {workspace.name}.",
                target="environmentId",
            )
        by_version = match[5].lower() == "versions"
        # azure-ai-ml leaves the prefix of azureml:NAME@latest in the id.
        name = match[4].removeprefix("azureml:")
        return None, name, match[6] if by_version else None, None if by_version else match[6]
    reference = text if text.lower().startswith("azureml:") else f"azureml:{text}"
    try:
        parsed = parse(reference)
    except UriError as error:
        raise user_error(f"environment {error}", target="environmentId") from error
    if not isinstance(parsed, AssetUri) or parsed.kind not in (None, "environments"):
        raise user_error(f"{shown(text)} does not name an environment.", target="environmentId")
    return parsed.registry, parsed.name, parsed.version, parsed.label


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = dict(properties_of(body))
    for key in _TEXTS:
        value = properties.get(key)
        if value is not None and (not isinstance(value, str) or len(value) > _MOST):
            raise bad_request(
                "InvalidRequestContent",
                f"`properties.{key}` must be a text of at most {_MOST} characters.",
                target=key,
            )
    build = properties.get("build")
    if build is not None and not isinstance(build, dict):
        raise bad_request("InvalidRequestContent", "`properties.build` must be an object.", target="build")
    if not properties.get("image") and not build:
        raise bad_request(
            "InvalidEnvironment",
            "An environment needs an image or a build context. Neither is pulled or built here: jobs run in "
            "the interpreter of this installation.",
            target="image",
        )
    if properties.get("image") and build:
        raise bad_request(
            "InvalidEnvironment", "An environment has either an image or a build context.", target="build"
        )
    properties.setdefault("osType", "Linux")
    properties.setdefault("environmentType", "UserCreated")
    return {**body, "properties": properties}


def _builtin(services: Services, workspace: Workspace) -> Iterable[Document]:
    properties = {
        "image": "host",
        "description": "The interpreter and packages of this installation.",
        "osType": "Linux",
        "environmentType": "Curated",
        "isAnonymous": False,
        "isArchived": False,
        "tags": {},
        "properties": {},
    }
    body = {"properties": properties}
    yield Document(
        workspace.id, "environments", HOST, "1", body, f'"{HOST}"', False, _EPOCH, _EPOCH, 0
    )  # fmt: skip


ENVIRONMENTS = Resource(
    path="environments",
    title="Environment",
    versioned=True,
    immutable=("image", "build", "condaFile"),
    top_level=(),
    prepare=_prepare,
    builtin=_builtin,
)
