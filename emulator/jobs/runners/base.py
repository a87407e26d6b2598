"""What the scheduler needs to know about one kind of job: how to check, prepare, start and judge it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from amlocal.emulator.jobs.engines.base import EngineJob
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.store.workspace import Workspace

if TYPE_CHECKING:
    from amlocal.emulator.jobs.sweeps.plan import Sweeper

ErrorCode = Literal["UserError", "SystemError"]


class JobFailure(Exception):
    """A job cannot go on. The message is for its user; the code says whose fault it is."""

    def __init__(self, message: str, code: ErrorCode = "UserError") -> None:
        super().__init__(message)
        self.message = message
        self.code: ErrorCode = code


class Abandoned(Exception):
    """Preparing was given up because the job was canceled or the server stops."""


class NotYet(Exception):
    """A step cannot be done now, for something that it needs is away; it is tried again until it is back."""


@dataclass(frozen=True)
class Submission:
    """A checked job, ready to be stored."""

    kind: str
    experiment: str
    display_name: str
    compute: str
    tags: Mapping[str, str]
    properties: Mapping[str, str]


@dataclass(frozen=True)
class NewRun:
    """A run to be made below a job. `parent` is a run's name."""

    name: str
    parent: str
    kind: str
    display_name: str
    body: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Patch:
    """Tags and properties to merge into a run."""

    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)


class Runner(Protocol):
    """One kind of job. `attempts` is how often a leaf may be started when its process is killed.

    `sweeper` is there exactly when a job of this kind is a sweep: then `prepare` returns the runs above the
    trials only, the controller (sweeping.py) makes the trials, and `outcome` is never asked for.
    """

    kind: str
    attempts: int
    sweeper: Sweeper | None

    def check(self, workspace: Workspace, name: str, properties: Mapping[str, Any]) -> Submission:
        """Everything that can be checked in about a second. Raises AzureError; stores nothing."""

    def reserved(self, name: str) -> Sequence[str]:
        """The names of the runs that a job of this name will have below it."""

    def prepare(
        self, workspace: Workspace, root: JobRecord, abandoned: Callable[[], bool]
    ) -> Sequence[NewRun]:
        """The slow checks and the files that the leaves need; may be called again after a crash.

        Returns the runs to make. Raises JobFailure, and Abandoned soon after `abandoned()` becomes true.
        """

    def launch(self, workspace: Workspace, root: JobRecord, leaf: JobRecord) -> EngineJob:
        """The order for attempt `leaf.attempt`. Raises JobFailure."""

    def timeout(self, root: JobRecord) -> float | None:
        """Seconds that the job may take from its first start on; not asked for a sweep, whose plan says."""

    def note(self, workspace: Workspace, leaf: JobRecord, line: str) -> None:
        """Write a line of the server's into the leaf's log."""

    def last_lines(self, workspace: Workspace, leaf: JobRecord) -> str:
        """The end of the leaf's log, for an error message."""

    def outcome(self, tree: Sequence[JobRecord], leaf: JobRecord) -> Mapping[str, Patch]:
        """What a leaf that ended well adds to each run of the tree, by name. Raises JobFailure."""
