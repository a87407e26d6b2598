"""`amlocal workspace add|list`: workspaces of a user's own names, so that their code runs as it is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from amlocal.emulator import settings as settings_module
from amlocal.emulator.cli import CommandError, add_data_dir, instance
from amlocal.emulator.cli.env import user_token
from amlocal.emulator.processes import FileLock
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspaces import parse_triple


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="add|list")
    add = actions.add_parser("add", help="make a workspace answer")
    add.add_argument(
        "workspace",
        metavar="SUB/GROUP/NAME|config.json",
        help="its three names, or a config.json that holds them",
    )
    add_data_dir(add)
    add_data_dir(actions.add_parser("list", help="the workspaces that answer"))


def main(options: argparse.Namespace) -> int:
    folder = DataFolder(settings_module.load({"data_dir": options.data_dir}).data_dir)
    if options.action == "list":
        for name in known(folder):
            print(name)
        return 0
    triple = "/".join(names_of(options.workspace))
    add(folder, triple)
    print(f"{triple} answers now.")
    return 0


def names_of(text: str) -> tuple[str, str, str]:
    """The three names in `SUB/GROUP/NAME` or in a config.json as Azure's portal gives it."""
    path = Path(text)
    if not text.endswith(".json"):
        return parse_triple(text)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return config["subscription_id"], config["resource_group"], config["workspace_name"]
    except FileNotFoundError as error:
        raise CommandError(f"{path} does not exist.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"{path} must be JSON with subscription_id, resource_group and workspace_name ({error!r})."
        ) from error


def add(folder: DataFolder, triple: str) -> None:
    """Add through the running server, or, with none, as the one writer for a moment."""
    if instance.is_running(folder):
        _ask(folder, "POST", {"workspace": triple})
        return
    folder.create()
    lock = FileLock(folder.root / "writer.lock")
    if not lock.acquire(5.0):
        raise CommandError(f"another process writes {folder.root}; try again in a moment.")
    from amlocal.emulator.store.database import Store
    from amlocal.emulator.store.workspaces import Workspaces

    store = Store(folder.database)
    try:
        Workspaces(store).add(*parse_triple(triple))
    finally:
        store.close()
        lock.release()


def known(folder: DataFolder) -> list[str]:
    """The workspaces that answer, as SUB/GROUP/NAME."""
    if instance.is_running(folder):
        return [item["workspace"] for item in _ask(folder, "GET", None)["value"]]
    if not folder.database.exists():
        return []
    from amlocal.emulator.store.database import Store
    from amlocal.emulator.store.workspaces import Workspaces

    store = Store(folder.database)
    try:
        return [f"{w.subscription}/{w.resource_group}/{w.name}" for w in Workspaces(store).all()]
    finally:
        store.close()


def _ask(folder: DataFolder, method: str, body: object) -> dict[str, list[dict[str, str]]]:
    running = instance.read(folder)
    assert running is not None
    token = user_token(folder, running.base_url)
    try:
        status, answer = instance.call(
            running.port, folder.tls / "ca.pem", method, "/_amlocal/workspaces", token=token, body=body
        )
    except OSError as error:
        raise CommandError(f"the server at {running.base_url} does not answer ({error}).") from error
    if status >= 400:
        raise CommandError(str(answer.get("error", {}).get("message", f"the server answered {status}")))
    return answer
