"""The log that a user reads of a leaf: what every runner does with it."""

from __future__ import annotations

from pathlib import Path

from amlocal.emulator.jobs import user_log
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.sweeps.plan import Sweeper
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace


class Logged:
    """For runners that keep the data folder in `_folder`; see `base.Runner` for the public methods."""

    sweeper: Sweeper | None = None
    _folder: DataFolder

    def note(self, workspace: Workspace, leaf: JobRecord, line: str) -> None:
        user_log.append(self._log(workspace, leaf), line)

    def last_lines(self, workspace: Workspace, leaf: JobRecord) -> str:
        return user_log.last_lines(self._log(workspace, leaf))

    def _log(self, workspace: Workspace, leaf: JobRecord) -> Path:
        return self._folder.artifacts(workspace.account, leaf.name) / user_log.USER_LOG
