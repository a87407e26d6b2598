"""Jobs as the rest of the server sees them: submit, read, cancel, change; and the scheduler behind them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from amlocal.compat import names
from amlocal.emulator.http.errors import conflict, not_found, not_there_yet, user_error
from amlocal.emulator.jobs import fields, records, tree
from amlocal.emulator.jobs.engines.base import Engine
from amlocal.emulator.jobs.environments import JobEnvironments
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.jobs.inputs import Resolver
from amlocal.emulator.jobs.queue import Scheduler
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.automl import AutoMLRunner
from amlocal.emulator.jobs.runners.base import Runner, Submission
from amlocal.emulator.jobs.runners.command import CommandRunner
from amlocal.emulator.jobs.runners.command_leaf import CommandLeaf
from amlocal.emulator.jobs.runners.sweep import SweepRunner
from amlocal.emulator.jobs.runners.sweep_metric import TrialMetrics
from amlocal.emulator.jobs.slots import priority
from amlocal.emulator.jobs.tracking import MlflowRuns, Tracking
from amlocal.emulator.jobs.warm import WarmParent
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.entries import Entry
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.tables import jobs
from amlocal.emulator.store.workspace import Workspace

# The names of the runs below a job and of their artifact folders must fit into a file name of 255 bytes.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,239}")
_BELOW = re.compile(r"(.+?)_HD(?:_\d+)?")
_TRIAL = re.compile(r"(.+)_\d{1,3}")
_OTHER_JOB_TYPES = ("Pipeline", "Spark", "FineTuning", "Labeling", "Base")
# What a job can be given later; everything else is its definition and never changes.
_CHANGEABLE = frozenset({"tags", "properties", "displayName", "description", "isArchived"})
# What the server adds when it shows a job; clients send it back.
_SHOWN_ONLY = frozenset({"status", "services", "parentJobName"})


class JobService:
    """All methods are safe to call from any thread; none of them waits for a job."""

    def __init__(
        self,
        *,
        store: Store,
        folder: DataFolder,
        settings: Settings,
        engine: Engine,
        mlflow: MlflowRuns,
        resolver: Resolver,
        issue_job_token: Callable[[Workspace, str], str],
        python: str = sys.executable,
        trainer: Sequence[str] | None = None,
        training_slots: int = 1,
        command_slots: int = 2,
        mlflow_patience: float = 10.0,
        warm: WarmParent | None = None,
    ) -> None:
        """`mlflow_patience`: seconds that a job waits for MLflow before it starts, and before it ends."""
        self._store = store
        self._warm = warm
        self._tracking = Tracking(store, folder, mlflow)
        self._environments = JobEnvironments(store=store, folder=folder, settings=settings, python=python)
        leaf = CommandLeaf(
            store=store,
            folder=folder,
            settings=settings,
            resolver=resolver,
            issue_job_token=issue_job_token,
            environments=self._environments,
            gpus=len(engine.capacity().gpus),
        )
        self._runners: dict[str, Runner] = {
            "automl": AutoMLRunner(
                store=store,
                folder=folder,
                settings=settings,
                engine=engine,
                resolver=resolver,
                issue_job_token=issue_job_token,
                trainer=trainer or (python, "-m", "amlocal.trainers", "train"),
                slots=training_slots,
                parent=warm,
            ),
            "command": CommandRunner(store=store, folder=folder, environments=self._environments, leaf=leaf),
            "sweep": SweepRunner(
                store=store,
                folder=folder,
                environments=self._environments,
                leaf=leaf,
                metrics=TrialMetrics(mlflow, min(mlflow_patience, 2.0)),
            ),
        }
        self._scheduler = Scheduler(
            store=store,
            folder=folder,
            engine=engine,
            runners=self._runners,
            tracking=self._tracking,
            training_slots=training_slots,
            command_slots=command_slots,
            mlflow_patience=mlflow_patience,
            stall_limit=settings.trial_stall_minutes * 60,
        )

    def start(self) -> None:
        """Go on with everything that has not ended, and begin to take new work."""
        self._environments.start()
        self._tracking.start()
        self._scheduler.start()

    def stop(self) -> None:
        """End the scheduler; processes of jobs keep running and are found again by the next `start`."""
        self._tracking.stop()
        self._scheduler.stop()
        if self._warm is not None:
            self._warm.stop()

    def submit(
        self, workspace: Workspace, name: str, properties: Mapping[str, Any]
    ) -> tuple[JobRecord, bool]:
        """Store a job and queue it; (the record, whether it is new).

        The same definition again changes nothing but tags, description, display name and archiving. Raises
        AzureError: 400 or 501 for what is wrong or not there yet (then nothing is stored), 409 for another
        definition under a name that is taken.
        """
        if not _NAME.fullmatch(name):
            raise user_error(
                f"{shown(name)} cannot be the name of a job: use letters, digits, '-' and '_', at most 240, "
                "beginning with a letter or digit.",
                target="name",
            )
        existing = self._find(workspace, name)
        if existing is not None:
            return self._again(workspace, existing, properties), False
        runner = self._runner(properties)
        priority(properties)
        checked = runner.check(workspace, name, properties)

        def write(connection: Connection) -> JobRecord | None:
            if records.get(connection, workspace.id, name) is not None:
                return None
            _check_free(connection, workspace, name, runner.reserved(name))
            return _insert(connection, workspace, name, properties, checked)

        record = self._store.write(write)
        if record is None:
            return self._again(workspace, self.get(workspace, name), properties), False
        self._tracking.mark(workspace.id, name)
        self._scheduler.wake()
        return record, True

    def get(self, workspace: Workspace, name: str) -> JobRecord:
        """The job or run. Raises AzureError 404."""
        record = self._find(workspace, name)
        if record is None:
            raise not_found(f"Job {shown(name)} was not found in workspace {workspace.name}.", target="name")
        return record

    def list(
        self,
        workspace: Workspace,
        *,
        archived: bool | None = False,
        job_type: str | None = None,
        entries: Sequence[Entry] = (),
        skip: int = 0,
        limit: int = 100,
    ) -> list[JobRecord]:
        """Root jobs with all `entries`, newest first, after `skip` of them."""
        return self._store.read(
            lambda c: records.list_roots(
                c, workspace.id, archived=archived, job_type=job_type, entries=entries, skip=skip, limit=limit
            )
        )

    def children(self, workspace: Workspace, name: str) -> Sequence[JobRecord]:
        """The runs right below a job, oldest first."""
        return self._store.read(lambda c: records.children(c, workspace.id, name))

    def cancel(self, workspace: Workspace, name: str) -> JobRecord:
        """Ask for the end of a job with all its trials, or of one trial alone.

        An AutoML job's sweep stands for the job. What has ended, or is Finalizing, stays as it is.
        Raises AzureError 404.
        """
        record = self.get(workspace, name)

        def write(connection: Connection) -> None:
            ended = record if tree.is_leaf(record) else records.root_of(connection, record)
            tree.request_cancel(connection, ended, f"cancel of {name}")

        self._store.write(write)
        self._scheduler.wake()
        return self.get(workspace, name)

    def patch(
        self,
        workspace: Workspace,
        name: str,
        *,
        tags: Mapping[str, str | None] | None = None,
        properties: Mapping[str, str | None] | None = None,
        display_name: str | None = None,
        description: str | None = None,
        archived: bool | None = None,
    ) -> JobRecord:
        """Merge tags and properties, set display name and description, archive or restore.

        A tag or property that is None is taken away (from the job; MLflow's run keeps what it was told).
        Raises AzureError: 404, 400 for a value that is not a text.
        """
        record = self.get(workspace, name)
        change = {
            "tags": dict(tags or {}),
            "properties": dict(properties or {}),
            "displayName": display_name,
            "description": description,
        }
        checked: dict[str, dict[str, str | None]] = {
            key: {**dict.fromkeys(given), **fields.texts(change, key)}
            for key, given in (("tags", tags or {}), ("properties", properties or {}))
        }
        label = fields.text(change, "displayName", "displayName", limit=255)
        if description is not None and not isinstance(description, str):
            raise user_error(f"description must be a text, not {shown(description)}.", target="description")
        root = self._store.read(lambda c: records.root_of(c, record))
        self._tracking.reopen(workspace.id, root.name)
        changed = self._store.write(
            lambda c: records.patch(
                c,
                record,
                tags=checked["tags"],
                properties=checked["properties"],
                display_name=label,
                description=description,
                archived=archived,
            )
        )
        self._tracking.mark(workspace.id, root.name)
        return changed

    def wait_idle(self, timeout: float = 120.0) -> None:
        """For tests: wait until no job is left to do. Raises TimeoutError naming what is left."""
        deadline = time.monotonic() + timeout
        while True:
            left = self._store.read(records.unfinished)
            if not left and self._scheduler.idle:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"still open: {[(r.name, r.state.value) for r in left]}")
            time.sleep(0.01)

    def _find(self, workspace: Workspace, name: str) -> JobRecord | None:
        return self._store.remembered(
            ("job", workspace.id, name), lambda c: records.get(c, workspace.id, name)
        )

    def _again(self, workspace: Workspace, existing: JobRecord, properties: Mapping[str, Any]) -> JobRecord:
        """The same name was sent again."""
        different = existing.parent is not None
        old = {**_definition(existing.body), "experimentName": existing.experiment}
        new = {"experimentName": "Default", **_definition(properties)}
        changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if different or changed:
            what = ", ".join(changed) or "the definition"
            raise conflict(
                f"A job named {existing.name!r} exists in workspace {workspace.name} and differs in: {what}. "
                "Only tags, properties, description and display name of a job can change; "
                "submit the new definition under another name.",
                target="name",
            )
        archived = properties.get("isArchived")
        if archived is not None and not isinstance(archived, bool):
            raise user_error("isArchived must be true or false.", target="isArchived")
        tags, given = fields.texts(properties, "tags"), fields.texts(properties, "properties")
        label = fields.text(properties, "displayName", "displayName", limit=255)
        description = properties.get("description")
        same = (
            {**existing.tags, **tags} == existing.tags
            and {**existing.properties, **given} == existing.properties
            and label in (None, existing.display_name)
            and description in (None, existing.body.get("description"))
            and archived in (None, existing.archived)
        )
        if same:
            return existing
        return self.patch(
            workspace,
            existing.name,
            tags=tags,
            properties=given,
            display_name=label,
            description=description,
            archived=archived,
        )

    def _runner(self, properties: Mapping[str, Any]) -> Runner:
        """The runner for the jobType. Raises AzureError for a type that is unknown or not there yet."""
        given = fields.text(properties, "jobType", "jobType") or ""
        known = {
            "automl": "AutoML",
            "command": "Command",
            "sweep": "Sweep",
            **{kind.lower(): kind for kind in _OTHER_JOB_TYPES},
        }
        kind = known.get(given.lower())
        if kind in ("AutoML", "Command", "Sweep"):
            return self._runners[kind.lower()]
        if kind is not None:
            raise not_there_yet(f"Running {kind} jobs")
        near = names.nearest(given, known.values())
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise user_error(
            f"jobType is {shown(given)}; it must be one of {', '.join(known.values())}.{hint}",
            target="jobType",
        )


def _definition(body: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a job this job; null and empty values count as absent."""
    kept = {key: value for key, value in body.items() if key not in _CHANGEABLE | _SHOWN_ONLY}
    cleaned = _without_empty(kept)
    return cleaned if isinstance(cleaned, dict) else {}


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        cleaned = {key: _without_empty(inner) for key, inner in value.items()}
        return {key: inner for key, inner in cleaned.items() if inner not in (None, {}, [])}
    if isinstance(value, list):
        return [_without_empty(inner) for inner in value]
    return value


def _check_free(connection: Connection, workspace: Workspace, name: str, reserved: Sequence[str]) -> None:
    """Raises AzureError 409 when the name, or one of those of the runs below the job, is taken."""
    below = select(jobs.c.name).where(jobs.c.workspace_id == workspace.id, jobs.c.name.in_(reserved))
    taken = connection.execute(below.order_by(jobs.c.sequence)).first()
    if taken is not None:
        raise conflict(
            f"The job {name!r} would have a run {taken.name!r} below it, and a job of that name exists. "
            "Submit it under another name.",
            target="name",
        )
    match = _BELOW.fullmatch(name)
    above = None if match is None else records.get(connection, workspace.id, match[1])
    if above is None and (match := _TRIAL.fullmatch(name)) is not None:
        above = records.get(connection, workspace.id, match[1])
        above = above if above is not None and above.kind == "sweep" else None
    if match is not None and above is not None:
        raise conflict(
            f"The name {name!r} is kept for the runs of the job {match[1]!r}. Use another name.",
            target="name",
        )
    elsewhere = select(jobs.c.name).where(
        jobs.c.name.in_([name, *reserved]), jobs.c.workspace_id != workspace.id
    )
    if connection.execute(elsewhere).first() is not None:
        raise conflict(
            f"A job named {name!r} exists in another workspace of this server, and MLflow's run ids are "
            "unique per server. Use another name.",
            target="name",
        )


def _insert(
    connection: Connection,
    workspace: Workspace,
    name: str,
    properties: Mapping[str, Any],
    checked: Submission,
) -> JobRecord:
    return records.insert_job(
        connection,
        workspace_id=workspace.id,
        name=name,
        kind=checked.kind,
        experiment=checked.experiment,
        display_name=checked.display_name,
        compute=checked.compute,
        body=properties,
        tags=checked.tags,
        properties=checked.properties,
        archived=properties.get("isArchived") is True,
    )
