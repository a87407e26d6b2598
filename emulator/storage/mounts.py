"""Folders of the user that datastores reach in place: nothing is copied, and nothing of ours is put there.

A mount is a field of a datastore's document, so it outlives the server. Whether its folder may be read is
judged anew at every use: the server may have been started without it, or the folder may be gone.
"""

from __future__ import annotations

import json
import os
import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, func, select

from amlocal.emulator.http.errors import AzureError, bad_request, not_found
from amlocal.emulator.store import tables
from amlocal.emulator.store.database import Store

# Containers of mounts have this prefix and no others do, so most requests need no look at the mounts.
CONTAINER_PREFIX = "amlocal-mount-"


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted folder: the datastore's name, the folder's real path, whether clients may write."""

    datastore: str
    folder: Path
    writable: bool


class Mounts:
    """The mounts of all workspaces. `allowed`: folders below which mounts may lie; never in `data_dir`."""

    def __init__(self, store: Store, allowed: Sequence[Path], data_dir: Path) -> None:
        self._store = store
        self._allowed = tuple(allowed)
        self._data_dir = data_dir
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Mount] | None = None

    def find(self, account: str, container: str) -> Mount | None:
        """The mount behind a container, usable or not."""
        if not container.startswith(CONTAINER_PREFIX):
            return None
        return self._all().get((account, container))

    def holding(self, account: str, path: Path) -> tuple[str, str] | None:
        """(datastore, relative path) of a real path in the innermost mount of the account that holds it."""
        found = [
            mount
            for (owner, _), mount in self._all().items()
            if owner == account and path.is_relative_to(mount.folder)
        ]
        if not found:
            return None
        mount = max(found, key=lambda one: len(one.folder.parts))
        relative = path.relative_to(mount.folder).as_posix()
        return mount.datastore, "" if relative == "." else relative

    def check(self, mount: Mount, *, writing: bool = False) -> Path:
        """The mount's folder. AzureError 403 where it is not allowed or read-only, 404 where it is gone."""
        self.real_folder(mount.folder, mount.datastore)
        if writing and not mount.writable:
            raise AzureError(
                403,
                "AuthorizationPermissionMismatch",
                f"The datastore {mount.datastore!r} is the folder {mount.folder}, mounted for reading only. "
                "Mount it with --writable to have it written.",
            )
        return mount.folder

    def real_folder(self, folder: Path, datastore: str) -> Path:
        """`folder` without links. AzureError 404 where there is none, 403 where it may not be mounted."""
        real = Path(os.path.realpath(folder))
        if not real.is_dir():
            raise not_found(
                f"The datastore {datastore!r} is the folder {folder}, which is not there or is no folder.",
                code="ContainerNotFound",
            )
        data = Path(os.path.realpath(self._data_dir))
        if real.is_relative_to(data) or data.is_relative_to(real):
            raise AzureError(
                403,
                "FolderNotAllowed",
                f"{real} holds or is in this server's data folder {data}; mount another folder.",
            )
        tops = [Path(os.path.realpath(top)) for top in self._allowed]
        if not any(real.is_relative_to(top) for top in tops):
            raise AzureError(
                403,
                "FolderNotAllowed",
                f"The datastore {datastore!r} needs the folder {real}, which this server may not read. "
                f"To allow it start the server with: amlocal serve --allow-path {shlex.quote(str(real))} "
                "(or put it into allow_paths in config.toml).",
            )
        return real

    def forget(self) -> None:
        """The documents have changed: read them again."""
        with self._lock:
            self._known = None

    def _all(self) -> dict[tuple[str, str], Mount]:
        with self._lock:
            if self._known is None:
                self._known = self._store.read(_load)
            return self._known


def check_not_reserved(container: str) -> None:
    """AzureError 400 for a name that only the containers of mounts may have."""
    if container.startswith(CONTAINER_PREFIX):
        raise bad_request(
            "InvalidResourceName",
            f"Container names that begin with {CONTAINER_PREFIX!r} are those of mounted folders: "
            "use another name, or 'amlocal datastore mount'.",
        )


def _load(connection: Connection) -> dict[tuple[str, str], Mount]:
    resources, workspaces = tables.resources, tables.workspaces
    query = (
        select(resources.c.name, resources.c.body, workspaces.c.account)
        .join(workspaces, workspaces.c.id == resources.c.workspace_id)
        .where(resources.c.kind == "datastores", func.json_extract(resources.c.body, "$.mount").is_not(None))
        .order_by(resources.c.sequence)
    )
    found = {}
    for row in connection.execute(query):
        body = json.loads(row.body)
        mount = Mount(row.name, Path(body["mount"]["folder"]), bool(body["mount"]["writable"]))
        found[(row.account, body["properties"]["containerName"])] = mount
    return found
