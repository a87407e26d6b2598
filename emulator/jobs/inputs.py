"""Where the bytes behind an azureml:// reference lie on this machine.

Every path comes out of one container of the workspace's own storage account and is checked to stay there,
links included. Workspaces are isolated: a reference that spells out another workspace is refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from amlocal.compat.azureml_uri import (
    AnyUri,
    AssetUri,
    DatastoreUri,
    JobOutputUri,
    UriError,
    WorkspaceName,
    is_azureml,
    parse,
)
from amlocal.emulator.arm import documents
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps import records as sweep_records
from amlocal.emulator.storage.mounts import Mounts
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import ARTIFACT_CONTAINER, DataFolder
from amlocal.emulator.store.tables import jobs, workspaces
from amlocal.emulator.store.workspace import Workspace

ARTIFACT_STORE = "workspaceartifactstore"
BLOB_STORE = "workspaceblobstore"
# What can be read by its name: (what it is called, the property that says where it lies).
_KINDS = {"data": ("data asset", "dataUri"), "models": ("model", "modelUri")}
_CONTAINER = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


class InputError(AzureError, ValueError):
    """A reference that cannot be resolved: an answer for the client, and a ValueError for readers of data."""

    def __init__(self, message: str, *, status: int = 400, code: str = "UserError") -> None:
        super().__init__(status, code, message)


class Resolver:
    """Turns references of one server's workspaces into paths."""

    def __init__(self, folder: DataFolder, store: Store, mounts: Mounts | None = None) -> None:
        self._folder = folder
        self._store = store
        self._mounts = mounts

    def resolve(self, workspace: Workspace, uri: str, *, writing: bool = False) -> Path:
        """The path of a file or folder, which need not exist. Raises InputError saying what is wrong.

        `writing`: a datastore that is mounted for reading is refused with 403.
        """
        return _Bound(self._folder, self._store, workspace, self._mounts, writing=writing)(uri)

    def address(self, workspace: Workspace, uri: str) -> str:
        """Where the data asset or model that `uri` names says that it lies; `uri` itself for all else.

        Raises InputError.
        """
        return _Bound(self._folder, self._store, workspace, self._mounts).address(uri)

    def bound(self, workspace: Workspace) -> Callable[[str], Path]:
        """As `resolve` for many references of one data set: datastores and folders are looked up once."""
        return _Bound(self._folder, self._store, workspace, self._mounts)


class _Bound:
    def __init__(
        self,
        folder: DataFolder,
        store: Store,
        workspace: Workspace,
        mounts: Mounts | None,
        *,
        writing: bool = False,
    ) -> None:
        self._mounts = mounts
        self._writing = writing
        self._folder = folder
        self._store = store
        self._workspace = workspace
        self._containers: dict[str, Path] = {}
        self._real: dict[str, str] = {}

    def __call__(self, uri: str) -> Path:
        if not is_azureml(uri) and not uri[:15].lower().startswith("/subscriptions/"):
            raise InputError(
                f"{shown(uri)} is not an azureml reference. Jobs read from datastores only: upload the data "
                "(the SDK does so for a local folder) and name it by azureml://datastores/.../paths/..."
            )
        return self._place(self._parse(uri), uri, follow=True)

    def address(self, uri: str) -> str:
        if not is_azureml(uri) and not uri[:15].lower().startswith("/subscriptions/"):
            return uri
        parsed = self._parse(uri)
        if not isinstance(parsed, AssetUri):
            return uri
        self._check_workspace(parsed.workspace, uri)
        return self._data_uri(parsed, uri)

    def _place(self, parsed: AnyUri, uri: str, *, follow: bool) -> Path:
        self._check_workspace(parsed.workspace, uri)
        if isinstance(parsed, DatastoreUri):
            return self._inside(self._container(parsed.datastore, uri), parsed.path, uri)
        if isinstance(parsed, JobOutputUri):
            return self._inside(self._job_folder(parsed, uri), parsed.path, uri)
        if not follow:
            raise InputError(f"{shown(uri)} is the address of a data asset and names a data asset again.")
        target = self._data_uri(parsed, uri)
        return self._place(self._parse(target), target, follow=False)

    def _parse(self, uri: str) -> AnyUri:
        if uri[:15].lower().startswith("/subscriptions/"):
            # azure-ai-ml leaves the prefix of azureml:NAME@latest in the id.
            uri = uri.replace("/azureml:", "/", 1)
        try:
            return parse(uri)
        except UriError as error:
            raise InputError(str(error)) from error

    def _check_workspace(self, named: WorkspaceName | None, uri: str) -> None:
        if named is None:
            return
        other = f"{named.subscription}/{named.resource_group}/{named.workspace}"
        if other.lower() == self._workspace.key:
            return
        own = f"{self._workspace.subscription}/{self._workspace.resource_group}/{self._workspace.name}"
        query = select(workspaces.c.id).where(workspaces.c.key == other.lower())
        if self._store.read(lambda c: c.execute(query).first()) is not None:
            advice = f"Workspaces are isolated from each other: upload the data to {own}, or work in {other}."
        else:
            advice = (
                f"Change the reference to {own}, or add that workspace with "
                f"'amlocal workspace add {other}' and submit there."
            )
        raise InputError(f"{shown(uri)} names the workspace {other}, but the job is in {own}. {advice}")

    def _container(self, datastore: str, uri: str) -> Path:
        known = self._containers.get(datastore)
        if known is None:
            container = self._find_container(datastore, uri)
            known = self._mounted(container, uri) or self._folder.container(
                self._workspace.account, container
            )
            self._containers[datastore] = known
        return known

    def _mounted(self, container: str, uri: str) -> Path | None:
        """The user's own folder behind a container, where it is mounted. Raises InputError saying why not."""
        mount = self._mounts.find(self._workspace.account, container) if self._mounts else None
        if mount is None or self._mounts is None:
            return None
        try:
            return self._mounts.check(mount, writing=self._writing)
        except AzureError as error:
            raise InputError(
                f"{shown(uri)}: {error.message}", status=error.status, code=error.code
            ) from error

    def _find_container(self, datastore: str, uri: str) -> str:
        own = self._workspace
        built_in = containers(own)
        if datastore.lower() in built_in:
            return built_in[datastore.lower()]
        found = self._store.read(lambda c: documents.get(c, own.id, "datastores", datastore))
        if found is None:
            made = self._store.read(lambda c: documents.listing(c, own.id, "datastores"))
            names = ", ".join([*built_in, *(document.name for document in made)])
            raise InputError(
                f"{shown(uri)}: workspace {own.name} has no datastore {datastore!r}. It has: {names}."
            )
        account = str(found.properties.get("accountName"))
        container = str(found.properties.get("containerName"))
        kind = found.properties.get("datastoreType", "AzureBlob")
        # Clients see the account behind the server's address, as in localhost:4265/ACCOUNT.
        if kind != "AzureBlob" or account.rpartition("/")[2] != own.account:
            raise InputError(
                f"{shown(uri)}: the datastore {datastore!r} ({kind}) points at {account}/{container}, "
                f"outside this workspace's storage account {own.account}. Copy the data into {BLOB_STORE}."
            )
        if not _CONTAINER.fullmatch(container):
            raise InputError(f"{shown(uri)}: the datastore {datastore!r} names no usable container.")
        return container

    def _job_folder(self, parsed: JobOutputUri, uri: str) -> Path:
        own = self._workspace
        found = self._store.read(
            lambda c: c.execute(
                select(jobs.c.kind, jobs.c.state, jobs.c.body, jobs.c.properties).where(
                    jobs.c.workspace_id == own.id, jobs.c.name == parsed.job
                )
            ).one_or_none()
        )
        if found is None:
            raise InputError(f"{shown(uri)}: workspace {own.name} has no job {parsed.job!r}.")
        if parsed.output not in ("artifacts", "default"):
            output = (json.loads(found.body).get("outputs") or {}).get(parsed.output)
            if isinstance(output, dict):
                writer = parsed.job
                if found.kind == "sweep":
                    ended = JobState(found.state).terminal
                    writer = self._best_trial(json.loads(found.properties), ended, parsed.job, uri)
                return self._named_output(writer, parsed.output, output)
            raise InputError(
                f"{shown(uri)}: the job {parsed.job!r} has no output {parsed.output!r}; "
                f"its files are at azureml://jobs/{parsed.job}/outputs/artifacts/paths/..."
            )
        return self._folder.artifacts(own.account, parsed.job)

    def _best_trial(self, properties: Mapping[str, str], ended: bool, sweep: str, uri: str) -> str:
        """Whose outputs are those of a sweep."""
        best = properties.get(sweep_records.BEST)
        if best is None:
            why = "has ended without one: its hyperdrive.txt says why" if ended else "has not ended yet"
            advice = "Name one of its trials." if ended else "Wait for its end, or name one of its trials."
            raise InputError(
                f"{shown(uri)}: the outputs of the sweep {sweep!r} are those of its best trial, and it {why}"
                f". {advice}"
            )
        return best

    def _named_output(self, job: str, name: str, output: dict[str, Any]) -> Path:
        """Where a command job writes one of its outputs."""
        target = output_uri(job, name, output)
        return self._place(self._parse(target), target, follow=False)

    def _data_uri(self, parsed: AssetUri, uri: str) -> str:
        own = self._workspace
        if parsed.registry is not None:
            raise InputError(
                f"{shown(uri)}: data assets of registries are not there yet in amlocal.",
                status=501,
                code="NotImplemented",
            )
        kind, field = _KINDS.get(parsed.kind or "data", ("", ""))
        if not kind:
            raise InputError(f"{shown(uri)} names one of the {parsed.kind}; a data asset is needed here.")
        if parsed.label not in (None, "latest"):
            raise InputError(f"{shown(uri)}: the only label is latest; give a version or @latest.")
        found = self._store.read(lambda c: _asset(c, own.id, parsed))
        if found is None:
            which = f"version {parsed.version}" if parsed.version else "version that is not archived"
            raise InputError(
                f"{shown(uri)}: the {kind} {parsed.name!r} of workspace {own.name} has no {which}. "
                "Create it, or name one that exists."
            )
        target = found.properties.get(field)
        if not isinstance(target, str):
            raise InputError(f"{shown(uri)}: the {kind} has no {field}. Create a new version of it.")
        return target

    def _inside(self, root: Path, relative: str, uri: str) -> Path:
        """`root`/`relative`, unless a link on the way leads out of `root`."""
        path = root / relative if relative else root
        real_root = self._realpath(str(root))
        if path.is_symlink() or not relative:
            real = os.path.realpath(path)
        else:
            real = f"{self._realpath(str(path.parent))}/{path.name}"
        if real != real_root and not real.startswith(real_root + "/"):
            raise InputError(f"{shown(uri)} goes through a link that leaves its container.")
        return path

    def _realpath(self, folder: str) -> str:
        real = self._real.get(folder)
        if real is None:
            real = self._real[folder] = os.path.realpath(folder)
        return real


def output_uri(job: str, name: str, output: Mapping[str, Any]) -> str:
    """The datastore URI of a job's named output: where its user wants it, or Azure's own default."""
    given = output.get("uri")
    if isinstance(given, str) and given:
        return given.replace("${{name}}", job)
    file = name if str(output.get("jobOutputType", "")).lower() == "uri_file" else ""
    return f"azureml://datastores/{BLOB_STORE}/paths/azureml/{job}/{name}/{file}"


def containers(workspace: Workspace) -> dict[str, str]:
    """The containers of the datastores that every workspace has, by name."""
    return {
        BLOB_STORE: f"azureml-blobstore-{workspace.id}",
        ARTIFACT_STORE: ARTIFACT_CONTAINER,
        "workspaceworkingdirectory": f"code-{workspace.id[:18]}",
        "workspacefilestore": f"azureml-filestore-{workspace.id}",
    }


def _asset(connection: Connection, workspace_id: str, asset: AssetUri) -> documents.Document | None:
    """The version that is asked for; for a label, the newest one that is not archived."""
    kind = asset.kind or "data"
    if asset.version is not None:
        return documents.get(connection, workspace_id, kind, asset.name, asset.version)
    for document in documents.listing(connection, workspace_id, kind, name=asset.name, newest_first=True):
        if document.version:
            return document
    return None
