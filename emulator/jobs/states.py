"""The one state machine of jobs, sweeps and trials, with Azure Machine Learning's status names.

Source of names and order: JobStatus of the Azure Machine Learning REST API, and the order in which
azure-ai-ml's log streaming knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class JobState(StrEnum):
    """The status of a job as clients see it."""

    NOT_STARTED = "NotStarted"
    QUEUED = "Queued"
    PREPARING = "Preparing"
    PROVISIONING = "Provisioning"
    STARTING = "Starting"
    RUNNING = "Running"
    FINALIZING = "Finalizing"
    CANCEL_REQUESTED = "CancelRequested"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELED = "Canceled"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELED})

# A terminal state has no way out. What is running can go back to Queued: a trial whose process was killed
# waits for a slot again, as it does on Azure after its node was taken away.
_WAYS_OUT = {JobState.CANCEL_REQUESTED, JobState.FAILED, JobState.CANCELED}
ALLOWED: Mapping[JobState, frozenset[JobState]] = {
    JobState.NOT_STARTED: frozenset(
        {JobState.QUEUED, JobState.PREPARING, JobState.STARTING, JobState.RUNNING} | _WAYS_OUT
    ),
    JobState.PREPARING: frozenset(
        {JobState.QUEUED, JobState.PROVISIONING, JobState.STARTING, JobState.RUNNING} | _WAYS_OUT
    ),
    JobState.QUEUED: frozenset(
        {JobState.PREPARING, JobState.PROVISIONING, JobState.STARTING, JobState.RUNNING} | _WAYS_OUT
    ),
    JobState.PROVISIONING: frozenset({JobState.STARTING, JobState.RUNNING, JobState.QUEUED} | _WAYS_OUT),
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.QUEUED, JobState.FINALIZING} | _WAYS_OUT),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.FINALIZING} | _WAYS_OUT),
    # What has ended by itself is no longer canceled: its outcome is known.
    JobState.FINALIZING: frozenset({JobState.COMPLETED, JobState.FAILED}),
    JobState.CANCEL_REQUESTED: frozenset({JobState.CANCELED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELED: frozenset(),
}


class TransitionError(RuntimeError):
    """A change of state that the table does not allow; the record is as it was."""

    def __init__(self, job: str, old: JobState, new: JobState) -> None:
        super().__init__(f"Job {job} is {old.value} and cannot become {new.value}.")
        self.job = job
        self.old = old
        self.new = new


def check(job: str, old: JobState, new: JobState) -> None:
    """Raises TransitionError unless `old` may become `new`."""
    if new not in ALLOWED[old]:
        raise TransitionError(job, old, new)
