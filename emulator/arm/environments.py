"""Environments: recorded as they are given; jobs/environments.py says in which Python their jobs run.

No image is pulled or built: images and build contexts are kept as a description, conda files are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flask import request
from sqlalchemy import Connection

from amlocal.compat import curated
from amlocal.compat.azureml_uri import AssetUri, UriError, parse
from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, properties_of
from amlocal.emulator.http.errors import bad_request, user_error
from amlocal.emulator.http.paging import list_view
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.workspace import Workspace

if TYPE_CHECKING:
    from amlocal.compat.curated import CuratedEnvironment
    from amlocal.emulator.jobs.environment_pins import Pins
    from amlocal.emulator.services import Services

HOST = "host"
# The name that azure-ai-ml gives to environments written inside a job; no list shows it.
ANONYMOUS = "CliV2AnonymousEnvironment"
CURATED = re.compile(r"AzureML-[A-Za-z0-9_.-]{1,240}", re.IGNORECASE)
# Azure's own registries of curated environments.
_REGISTRIES = frozenset({"azureml", "azureml-preview"})
_ARM_ID = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft\.MachineLearningServices"
    r"/workspaces/([^/]+)/environments/([^/]+)/(versions|labels)/([^/]+)",
    re.IGNORECASE,
)
_TEXTS = ("image", "condaFile", "description", "osType", "environmentType", "stage")
_RESERVED = ("azureml", "microsoft")
_MOST = 1024**2
_LONGEST_IMAGE = 1024
_EPOCH = "2020-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class Definition:
    """An environment that a job can name. `properties` are the stored ones, empty for those of a registry."""

    name: str
    version: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    curated: CuratedEnvironment | None = None
    registry: bool = False

    @property
    def label(self) -> str:
        """NAME:VERSION."""
        return f"{self.name}:{self.version}"

    @property
    def is_host(self) -> bool:
        """Whether it stands for this installation itself."""
        return not self.registry and self.name == HOST

    def pins(self) -> Pins:
        """What it asks for, as far as it says so. Raises AzureError 400 for a conda file that is none."""
        from amlocal.emulator.jobs import environment_pins

        text = self.properties.get("condaFile")
        if not text:
            return environment_pins.of_tags(self.curated.tags if self.curated is not None else {})
        try:
            return environment_pins.read(text)
        except environment_pins.CondaFileError as error:
            raise user_error(
                f"environment {shown(self.label)}: its conda file cannot be read: {error}.",
                target="environmentId",
            ) from error


def resolve(store: Store, workspace: Workspace, environment_id: str) -> str:
    """The name and version (NAME:VERSION) of the environment that a job asks for.

    Curated names of Azure's resolve without being stored. Raises AzureError 400 naming what there is.
    """
    return definition(store, workspace, environment_id).label


def definition(
    store: Store, workspace: Workspace, environment_id: str, resolved: str | None = None
) -> Definition:
    """The environment that a job asks for. Raises AzureError 400 naming what there is.

    `resolved`: what `resolve` answered before, so that a label keeps meaning the version that it meant then.
    """
    registry, name, version, label = _read(workspace, environment_id)
    before, _, version_before = (resolved or "").rpartition(":")
    if label is not None and version_before and before.lower() == name.lower():
        version, label = version_before, None
    if label not in (None, "latest"):
        raise user_error(
            f"environment {shown(environment_id)}: the only label is latest.", target="environmentId"
        )
    if (registry or "").lower() in _REGISTRIES or CURATED.fullmatch(name):
        curated_environment = curated.environment(name)
        if version is None and curated_environment is not None:
            version = curated_environment.latest
        return Definition(name, version or str(label), curated=curated_environment, registry=True)
    if registry is not None:
        raise user_error(
            f"environment {shown(environment_id)}: only the registry azureml is known here.",
            target="environmentId",
        )
    if name.lower() == HOST and (label is not None or version == "1"):
        return Definition(HOST, "1")

    def read(c: Connection) -> tuple[Document | None, list[str]]:
        if version is not None:
            found = documents.get(c, workspace.id, "environments", name, version)
        else:
            newest = documents.listing(c, workspace.id, "environments", name=name, newest_first=True, limit=1)
            found = newest[0] if newest else None
        others = documents.latest_of_each(c, workspace.id, "environments", limit=20)
        named = [f"{other.name}:{other.version}" for other in others if other.name != ANONYMOUS]
        return found, named

    found, others = store.read(read)
    if found is None:
        exist = ", ".join([f"{HOST}:1", *others])
        raise user_error(
            f"environment {shown(f'{name}:{version or label}')} was not found in workspace {workspace.name}. "
            f"Create it by environments.create_or_update, or use one that exists: {exist}.",
            target="environmentId",
        )
    return Definition(found.name, found.version, found.properties)


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
    """Check a version and complete it. Only what Azure defines is looked at; other fields are kept."""
    if call.name.lower() == HOST or call.name.lower().startswith(_RESERVED):
        raise bad_request(
            "InvalidEnvironmentName",
            f"{call.name[:100]!r}: names that begin with AzureML or Microsoft are kept for curated "
            f"environments, and {HOST} for this installation. Choose another name.",
            target="name",
        )
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
    if build is not None:
        _check_build(build)
    image = properties.get("image")
    if not image and not build:
        raise bad_request(
            "InvalidEnvironment",
            "An environment needs an image or a build context. Neither is pulled or built here: jobs run in "
            "a Python of this machine.",
            target="image",
        )
    if image and build:
        raise bad_request(
            "InvalidEnvironment", "An environment has either an image or a build context.", target="build"
        )
    if image and (not image.isprintable() or " " in image or len(image) > _LONGEST_IMAGE):
        raise bad_request("InvalidEnvironment", f"{shown(image)} is no name of an image.", target="image")
    if properties.get("condaFile"):
        _check_conda_file(properties["condaFile"])
    if properties.get("inferenceConfig") is not None:
        _check_inference(properties["inferenceConfig"])
    system = properties.setdefault("osType", "Linux") or "Linux"
    known = {name.lower(): name for name in ("Linux", "Windows")}
    if system.lower() not in known:
        raise bad_request(
            "InvalidEnvironment", f"osType is {shown(system)}; it must be Linux or Windows.", target="osType"
        )
    properties["osType"] = known[system.lower()]
    properties["environmentType"] = "UserCreated"
    return {**body, "properties": properties}


def _check_build(build: Any) -> None:
    if not isinstance(build, dict):
        raise bad_request("InvalidRequestContent", "`properties.build` must be an object.", target="build")
    for key in ("contextUri", "dockerfilePath"):
        value = build.get(key)
        if value is not None and (not isinstance(value, str) or not value.isprintable()):
            raise bad_request(
                "InvalidRequestContent", f"`properties.build.{key}` must be a text.", target=f"build.{key}"
            )
    if not build.get("contextUri"):
        raise bad_request(
            "InvalidEnvironment",
            "`properties.build.contextUri` is missing: a build context is a folder with a Dockerfile.",
            target="build.contextUri",
        )


def _check_conda_file(text: str) -> None:
    from amlocal.emulator.jobs import environment_pins

    try:
        environment_pins.read(text)
    except environment_pins.CondaFileError as error:
        raise bad_request("InvalidCondaFile", f"`condaFile`: {error}.", target="condaFile") from error


def _check_inference(config: Any) -> None:
    """An inference configuration: three routes of a port and a path."""
    if not isinstance(config, dict):
        raise bad_request(
            "InvalidRequestContent",
            "`properties.inferenceConfig` must be an object.",
            target="inferenceConfig",
        )
    for name in ("livenessRoute", "readinessRoute", "scoringRoute"):
        route = config.get(name)
        if route is None:
            continue
        port = route.get("port") if isinstance(route, dict) else None
        path = route.get("path") if isinstance(route, dict) else None
        if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
            raise bad_request(
                "InvalidEnvironment",
                f"`inferenceConfig.{name}.port` is {shown(port)}; it must be a whole number from 1 to 65535.",
                target=f"inferenceConfig.{name}.port",
            )
        if not isinstance(path, str):
            raise bad_request(
                "InvalidEnvironment",
                f"`inferenceConfig.{name}.path` is {shown(path)}; it must be a text.",
                target=f"inferenceConfig.{name}.path",
            )


def _builtin(services: Services, workspace: Workspace) -> Iterable[Document]:
    """This installation, and the curated environments as a workspace shows them: AzureML-NAME."""
    yield _document(workspace, HOST, "1", "host", "The interpreter and packages of this installation.", {})
    for row in curated.environments().values():
        name = row.name if CURATED.fullmatch(row.name) else f"AzureML-{row.name}"
        for version in row.versions:
            image = f"{row.image}:{version}" if row.image else None
            yield _document(workspace, name, version, image, row.description, row.tags)


def _document(
    workspace: Workspace,
    name: str,
    version: str,
    image: str | None,
    description: str,
    tags: Mapping[str, str],
) -> Document:
    properties = {
        "image": image,
        "description": description,
        "osType": "Linux",
        "environmentType": "Curated",
        "isAnonymous": False,
        "isArchived": False,
        "tags": dict(tags),
        "properties": {},
    }
    etag = f'"{name}-{version}"'
    body = {"properties": properties}
    return Document(workspace.id, "environments", name, version, body, etag, False, _EPOCH, _EPOCH, 0)


def _search(call: Call) -> list[Document] | None:
    """The versions of a built-in name, which are in no table."""
    found = [
        document
        for document in _builtin(call.services, call.workspace)
        if document.name.lower() == call.name.lower()
    ]
    if not found:
        return None
    if list_view() == "ArchivedOnly":
        return []
    newest_first = request.args.get("$orderBy", "").lower().endswith("desc")
    return found[::-1] if newest_first else found


ENVIRONMENTS = Resource(
    path="environments",
    title="Environment",
    versioned=True,
    immutable=("image", "build", "condaFile"),
    top_level=(),
    unlisted=(ANONYMOUS,),
    prepare=_prepare,
    builtin=_builtin,
    search=_search,
)
