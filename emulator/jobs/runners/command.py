"""Command jobs: a user's own command in a private copy of its code, started once and never again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from amlocal.emulator.jobs import outputs, records, tree
from amlocal.emulator.jobs.command_request import CommandJob, read
from amlocal.emulator.jobs.engines.base import EngineJob
from amlocal.emulator.jobs.environments import JobEnvironments
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import NewRun, Patch, Submission
from amlocal.emulator.jobs.runners.command_leaf import CommandLeaf
from amlocal.emulator.jobs.runners.logged import Logged
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace, by_id


class CommandRunner(Logged):
    """See `base.Runner`. The job is its own leaf."""

    kind = "command"
    # A user's command may have done anything before it was killed, so it is never started twice.
    attempts = 1

    def __init__(
        self, *, store: Store, folder: DataFolder, environments: JobEnvironments, leaf: CommandLeaf
    ) -> None:
        self._store = store
        self._folder = folder
        self._environments = environments
        self._leaf = leaf

    def check(self, workspace: Workspace, name: str, properties: Mapping[str, Any]) -> Submission:
        """Everything that can be checked in about a second. Raises AzureError."""
        return self._leaf.check(workspace, name, self.kind, properties, read(properties))

    def reserved(self, name: str) -> Sequence[str]:
        return ()

    def prepare(
        self, workspace: Workspace, root: JobRecord, abandoned: Callable[[], bool]
    ) -> Sequence[NewRun]:
        """The copy of the code, the places of inputs and outputs, and the head of the log."""
        job = read(root.body)
        places = self._leaf.furnish(workspace, root, job, abandoned)
        met = self._leaf.begin_log(workspace, root, job)
        python = self._environments.prepare(met, self._log(workspace, root), abandoned)
        self._leaf.keep(workspace, root, places, str(python))
        return []

    def launch(self, workspace: Workspace, root: JobRecord, leaf: JobRecord) -> EngineJob:
        return self._leaf.order(workspace, root, leaf, read(leaf.body))

    def timeout(self, root: JobRecord) -> float | None:
        return read(root.body).timeout

    def outcome(self, tree: Sequence[JobRecord], leaf: JobRecord) -> Mapping[str, Patch]:
        workspace = self._store.read(lambda c: by_id(c, leaf.workspace_id))
        job = read(leaf.body)
        found = self._leaf.collect(workspace, leaf, job)
        if found:
            self._store.write(lambda c: _end_with_assets(c, workspace, leaf, job, found))
        return {}


def _end_with_assets(
    connection: Connection,
    workspace: Workspace,
    leaf: JobRecord,
    job: CommandJob,
    found: Mapping[str, Mapping[str, Any]],
) -> None:
    """The end of a command and its assets in one write: a job that was canceled meanwhile leaves none."""
    current = records.get(connection, leaf.workspace_id, leaf.name)
    if current is None or current.state not in (JobState.STARTING, JobState.RUNNING):
        return
    versions = outputs.register(connection, workspace, current, job.outputs, found)
    tree.finalize(connection, current, {leaf.name: Patch(properties=versions)})
