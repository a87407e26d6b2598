"""The folders of removed workspaces: taken away after their rows, and after a crash by the next start.

A note in `tmp/removals` says what is to go before the rows go. A note whose workspace still has its row is of
a removal that did not come about, so nothing is lost; without a note nothing is ever taken away.
MLflow keeps its rows of the workspace in its own database; they lie under the workspace's id, which nothing
answers for any more. The ids of its runs stay taken: a job of the same name in another workspace has no
history there.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

from amlocal.emulator.store.folder import DataFolder, fsync_folder, write_atomic
from amlocal.emulator.store.workspace import Workspace
from amlocal.emulator.store.workspaces import Workspaces

log = logging.getLogger("amlocal.removal")

# What a note can make this remove: folders that this server named itself.
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_ACCOUNT = re.compile(r"aml[0-9a-f]{12}\Z")


def announce(folder: DataFolder, workspace: Workspace) -> None:
    """Note durably that the workspace's folders are to go once its rows are gone."""
    notes = _notes(folder)
    notes.mkdir(exist_ok=True, mode=0o700)
    fsync_folder(notes.parent)
    content = json.dumps({"id": workspace.id, "account": workspace.account})
    write_atomic(notes / f"{workspace.id}.json", content.encode())


def withdraw(folder: DataFolder, workspace: Workspace) -> None:
    """The removal does not come about."""
    (_notes(folder) / f"{workspace.id}.json").unlink(missing_ok=True)


def finish(folder: DataFolder, identity: str, account: str) -> None:
    """Take the folders away, then the note. Raises OSError when one cannot go; the note then stays."""
    for path in (
        folder.blobs / account,
        folder.blob_meta / account,
        folder.jobs / identity,
        folder.deployments / identity,
    ):
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    (_notes(folder) / f"{identity}.json").unlink(missing_ok=True)


def sweep(folder: DataFolder, workspaces: Workspaces) -> None:
    """At start: finish the removals that a dead server left. What cannot go is tried at the next start."""
    living = {workspace.id for workspace in workspaces.all()}
    for note in sorted(_notes(folder).glob("*.json")):
        try:
            named = json.loads(note.read_text(encoding="utf-8"))
            identity, account = str(named["id"]), str(named["account"])
            if not (_ID.match(identity) and _ACCOUNT.match(account) and note.stem == identity):
                raise ValueError(f"{note} does not name a workspace's folders")
            if identity in living:
                note.unlink()
            else:
                finish(folder, identity, account)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("a removed workspace's folders are still there: %s", error)


def _notes(folder: DataFolder) -> Path:
    return folder.tmp / "removals"
