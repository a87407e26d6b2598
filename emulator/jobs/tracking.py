"""Shows the job records in MLflow: one run per job, sweep and trial, with the same name, tags and end.

The records are the truth and MLflow a picture of them that can be drawn again at any time: every call is
idempotent, a tree whose picture is not finished has no `tracking.done` in its job folder, and while MLflow is
down no job waits longer than the limit that it brings.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection

from amlocal.emulator.jobs import records, tree
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import ARTIFACT_CONTAINER, DataFolder, write_atomic
from amlocal.emulator.store.workspace import Workspace, by_id

_LOG = logging.getLogger(__name__)
DONE = "tracking.done"
METRICS = "metrics.jsonl"
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_ROWS = 1000
_ENDS = {
    JobState.FINALIZING: "FINISHED",
    JobState.COMPLETED: "FINISHED",
    JobState.FAILED: "FAILED",
    JobState.CANCELED: "KILLED",
}
# MLflow's own rules for the keys and the length of tags; a tag beyond them stays in the record only.
_TAG_KEY = re.compile(r"[\w. :/-]{1,250}")
_TAG_LENGTH = 5000

Key = tuple[str, str]


class MlflowRuns(Protocol):
    """What is needed of MLflow. Every call may raise; one with a `status` of 4xx is not worth repeating."""

    def ensure_run(
        self,
        workspace_id: str,
        experiment: str,
        run_id: str,
        *,
        run_name: str,
        parent: str | None,
        start_ms: int,
        tags: Mapping[str, str],
        artifact_uri: str,
    ) -> object: ...

    def log_metrics(self, workspace_id: str, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def set_tags(self, workspace_id: str, run_id: str, tags: Mapping[str, str]) -> None: ...

    def finish_run(
        self, workspace_id: str, run_id: str, status: str, end_ms: int, tags: Mapping[str, str] | None = None
    ) -> None: ...

    def metric_history(self, workspace_id: str, run_id: str) -> list[dict[str, Any]]: ...


class Tracking:
    """Draws the trees that were marked, one after another, in a thread of its own."""

    def __init__(self, store: Store, folder: DataFolder, mlflow: MlflowRuns) -> None:
        self._store = store
        self._folder = folder
        self._mlflow = mlflow
        self._changed = threading.Condition()
        # Per tree: when to try next (monotonic seconds) and how long to pause after a failure.
        self._due: dict[Key, float] = {}
        self._pause: dict[Key, float] = {}
        self._drawing: Key | None = None
        # Per tree: its runs as they were last drawn, so that a new trial of a sweep is not a thousand calls.
        self._drawn: dict[Key, dict[str, JobRecord]] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        """Begin with every tree whose picture is not finished."""
        for key in self._store.read(records.roots):
            if not self._done_file(key).exists():
                self._due[key] = 0.0
        self._thread.start()

    def stop(self, patience: float = 5.0) -> None:
        """End the thread; what is not drawn yet is drawn after the next start."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(patience)

    def reopen(self, workspace_id: str, root: str) -> None:
        """To be called before a tree that may be finished is changed, so that a crash loses nothing."""
        self._done_file((workspace_id, root)).unlink(missing_ok=True)

    def mark(self, workspace_id: str, root: str) -> None:
        """The tree has changed."""
        with self._changed:
            self._due[workspace_id, root] = 0.0
            self._pause.pop((workspace_id, root), None)
            self._changed.notify_all()

    def flush(self, workspace_id: str, root: str, patience: float) -> bool:
        """Mark the tree and wait up to `patience` seconds until it is drawn; whether it is."""
        key = (workspace_id, root)
        deadline = time.monotonic() + patience
        self.mark(workspace_id, root)
        with self._changed:
            while (key in self._due or self._drawing == key) and not self._stopped:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return not self._stopped

    def _work(self) -> None:
        while (key := self._next()) is not None:
            try:
                self._draw(key)
            except Exception as error:  # whatever MLflow or the disk raises, the picture can wait
                _LOG.warning("MLflow does not show job %s yet: %s", key[1], error)
                failed = True
            else:
                failed = False
            with self._changed:
                self._drawing = None
                if failed:
                    pause = self._pause.get(key, _FIRST_PAUSE)
                    self._pause[key] = min(pause * 2, _LONGEST_PAUSE)
                    self._due.setdefault(key, time.monotonic() + pause)
                elif key not in self._due:
                    self._pause.pop(key, None)
                self._changed.notify_all()

    def _next(self) -> Key | None:
        """Wait for the tree that is due first and take it; None at the end."""
        with self._changed:
            while not self._stopped:
                if self._due:
                    key = min(self._due, key=self._due.__getitem__)
                    left = self._due[key] - time.monotonic()
                    if left <= 0:
                        del self._due[key]
                        self._drawing = key
                        return key
                    self._changed.wait(left)
                else:
                    self._changed.wait()
            return None

    def _draw(self, key: Key) -> None:
        def read(connection: Connection) -> tuple[Workspace, list[JobRecord]]:
            return by_id(connection, key[0]), records.tree(connection, *key)

        try:
            workspace, runs = self._store.read(read)
        except LookupError:  # the workspace was removed, and its jobs with it
            self._drawn.pop(key, None)
            return
        drawn = self._drawn.setdefault(key, {})
        for run in runs:
            if drawn.get(run.name) == run or _is_waiting(run):
                continue
            try:
                self._draw_run(workspace, run, runs[0].name, drawn.get(run.name))
            except Exception as error:
                if not 400 <= getattr(error, "status", 503) < 500:
                    raise
                _LOG.warning("MLflow refuses run %s: %s", run.name, error)
            else:
                drawn[run.name] = run
        if all(run.state.terminal for run in runs):
            # MLflow took its time, and a folder of a workspace that was removed meanwhile must not come back.
            try:
                self._store.read(lambda connection: by_id(connection, key[0]))
            except LookupError:
                self._drawn.pop(key, None)
                return
            done = self._done_file(key)
            done.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(done, b"")
            self._drawn.pop(key, None)
            # A change that came between the read and the mark must not be lost.
            if self._store.read(read)[1] != runs:
                done.unlink()
                self.mark(*key)

    def _draw_run(self, workspace: Workspace, run: JobRecord, root: str, before: JobRecord | None) -> None:
        """`before`: the run as MLflow shows it now, where this process has drawn it."""
        tags = dict(_tags({**run.tags, "mlflow.rootRunId": root}))
        changed = tags
        if before is None or before.display_name != run.display_name:
            self._mlflow.ensure_run(
                workspace.id,
                run.experiment,
                run.name,
                run_name=run.display_name,
                parent=run.parent,
                start_ms=_milliseconds(run.created_at),
                tags=tags,
                artifact_uri=f"mlflow-artifacts:/{workspace.account}/{ARTIFACT_CONTAINER}/ExperimentRun/dcid.{run.name}",
            )
        else:
            known = {**dict(_tags(before.tags)), "mlflow.rootRunId": root}
            changed = {name: value for name, value in tags.items() if known.get(name) != value}
        if changed:
            self._mlflow.set_tags(workspace.id, run.name, changed)
        if run.state not in _ENDS:
            return
        if before is None or before.state not in _ENDS:
            # The job's own process, which may have written other tags, has ended by now.
            changed = tags
            if tree.is_leaf(run):
                for rows in _batches(self._folder.job(workspace.id, run.name) / METRICS):
                    self._mlflow.log_metrics(workspace.id, run.name, rows)
        end = _milliseconds(run.ended_at or records.now())
        self._mlflow.finish_run(workspace.id, run.name, _ENDS[run.state], end, changed)

    def _done_file(self, key: Key) -> Path:
        return self._folder.job(*key) / DONE


def _is_waiting(run: JobRecord) -> bool:
    """A trial that has not been started: drawing hundreds of them would keep others from their start."""
    return tree.is_trial(run) and run.state is JobState.QUEUED and not run.attempt


def _tags(tags: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in tags.items():
        if _TAG_KEY.fullmatch(name) and posixpath.normpath(name) == name and name[0] not in "/.":
            yield name, value[:_TAG_LENGTH]


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The metrics that a trial left, in batches; a last line that a killed process left half is skipped."""
    rows: list[dict[str, Any]] = []
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"key", "value", "step", "timestamp"} <= row.keys():
            rows.append(row)
        if len(rows) == _ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _milliseconds(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp() * 1000)
