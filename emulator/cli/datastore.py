"""`amlocal datastore mount|unmount|list`: folders of this machine as datastores, without a copy."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from amlocal.emulator import settings as settings_module
from amlocal.emulator.cli import CommandError, add_data_dir, instance
from amlocal.emulator.cli.env import user_token
from amlocal.emulator.processes import FileLock
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.folder import DataFolder

_T = TypeVar("_T")


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="mount|unmount|list")
    mount = actions.add_parser("mount", help="reach the files of a folder as a datastore")
    mount.add_argument("name", metavar="NAME", help="the datastore's name")
    mount.add_argument(
        "folder", metavar="DIR", help="a folder below one that was given to `amlocal serve --allow-path`"
    )
    mount.add_argument("--writable", action="store_true", help="let uploads and job outputs go there, too")
    unmount = actions.add_parser("unmount", help="remove such a datastore; the folder stays as it is")
    unmount.add_argument("name", metavar="NAME")
    for action in (mount, unmount, actions.add_parser("list", help="the folders that are mounted")):
        action.add_argument(
            "--workspace", metavar="SUB/GROUP/NAME", help="its three names (default: the local one)"
        )
        add_data_dir(action)


def main(options: argparse.Namespace) -> int:
    settings = settings_module.load({"data_dir": options.data_dir})
    if options.action == "mount":
        folder = str(Path(options.folder).expanduser().absolute())
        done = mount(settings, options.workspace, options.name, folder, writable=options.writable)
        how = "for reading and writing" if done["writable"] else "for reading"
        print(f"{done['name']} is {done['folder']}, {how}: azureml://datastores/{done['name']}/paths/")
    elif options.action == "unmount":
        done = unmount(settings, options.workspace, options.name)
        print(f"{done['name']} is gone; the files in {done['folder']} are as they were.")
    else:
        for item in listing(settings, options.workspace):
            how = "writable" if item["writable"] else "read-only"
            problem = f"  ({item['problem']})" if item["problem"] else ""
            print(f"{item['name']}  {how}  {item['folder']}{problem}")
    return 0


def mount(
    settings: Settings, workspace: str | None, name: str, folder: str, *, writable: bool
) -> dict[str, Any]:
    """Through the running server, or, with none, as the one writer for a moment."""
    body = {"name": name, "folder": folder, "writable": writable, "workspace": workspace}
    if instance.is_running(DataFolder(settings.data_dir)):
        return _ask(settings, "POST", "", body)

    def directly(parts: _Parts) -> dict[str, Any]:
        from amlocal.emulator.arm import datastore_mounts as room

        document = room.mount(
            parts.store, parts.mounts, parts.workspace(workspace), name, folder, writable=writable
        )
        return {"name": document.name, **document.body["mount"]}

    return _directly(settings, directly)


def unmount(settings: Settings, workspace: str | None, name: str) -> dict[str, Any]:
    """As `mount`. CommandError or AzureError where there is no such mount."""
    if instance.is_running(DataFolder(settings.data_dir)):
        return _ask(settings, "POST", "/unmount", {"name": name, "workspace": workspace})

    def directly(parts: _Parts) -> dict[str, Any]:
        from amlocal.emulator.arm import datastore_mounts as room

        owner = parts.workspace(workspace)
        document = room.find(parts.store, owner, name)
        room.unmount(parts.store, parts.mounts, DataFolder(settings.data_dir), owner, document)
        return {"name": document.name, **document.body["mount"]}

    return _directly(settings, directly)


def listing(settings: Settings, workspace: str | None) -> list[dict[str, Any]]:
    """The mounts of a workspace, as the server or the data folder has them."""
    folder = DataFolder(settings.data_dir)
    if instance.is_running(folder):
        query = f"?workspace={quote(workspace, safe='')}" if workspace else ""
        return list(_ask(settings, "GET", query, None)["value"])
    if not folder.database.exists():
        return []

    def directly(parts: _Parts) -> list[dict[str, Any]]:
        from amlocal.emulator.arm import datastore_mounts as room

        return room.listing(parts.store, parts.mounts, parts.workspace(workspace))

    return _directly(settings, directly)


class _Parts:
    """The parts of a server that mounting needs, while none runs."""

    def __init__(self, settings: Settings) -> None:
        from amlocal.compat import cloud
        from amlocal.emulator.storage.mounts import Mounts
        from amlocal.emulator.store.database import Store
        from amlocal.emulator.store.workspaces import Workspaces

        self.store = Store(DataFolder(settings.data_dir).database)
        self.mounts = Mounts(self.store, settings.allow_paths, settings.data_dir)
        self._workspaces = Workspaces(self.store)
        self._workspaces.add(cloud.SUBSCRIPTION_ID, cloud.RESOURCE_GROUP, cloud.WORKSPACE)

    def workspace(self, triple: str | None) -> Any:
        from amlocal.emulator.arm.datastore_mounts import workspace_named

        return workspace_named(self._workspaces, triple)


def _directly(settings: Settings, action: Callable[[_Parts], _T]) -> _T:
    with _only_writer(settings) as parts:
        return action(parts)


@contextmanager
def _only_writer(settings: Settings) -> Iterator[_Parts]:
    folder = DataFolder(settings.data_dir)
    folder.create()
    lock = FileLock(folder.root / "writer.lock")
    if not lock.acquire(5.0):
        raise CommandError(f"another process writes {folder.root}; try again in a moment.")
    try:
        parts = _Parts(settings)
        try:
            yield parts
        finally:
            parts.store.close()
    finally:
        lock.release()


def _ask(settings: Settings, method: str, tail: str, body: object) -> dict[str, Any]:
    folder = DataFolder(settings.data_dir)
    running = instance.read(folder)
    if running is None:
        raise CommandError(f"a server is starting on {folder.root}; try again in a moment.")
    token = user_token(folder, running.base_url)
    path = f"/_amlocal/datastores{tail}"
    try:
        status, answer = instance.call(
            running.port, folder.tls / "ca.pem", method, path, token=token, body=body
        )
    except OSError as error:
        raise CommandError(f"the server at {running.base_url} does not answer ({error}).") from error
    if status >= 400:
        raise CommandError(str(answer.get("error", {}).get("message", f"the server answered {status}")))
    return answer
