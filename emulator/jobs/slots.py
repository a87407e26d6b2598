"""The slots of this host: how many trials train at the same time, and which of the waiting ones is next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.states import JobState

# A trial whose end was asked for holds its slot until its process is gone.
_HOLDING = frozenset({JobState.STARTING, JobState.RUNNING, JobState.CANCEL_REQUESTED})


@dataclass(frozen=True, slots=True)
class Slots:
    """`training` trials run at once; all computes share them, since all of them are this host."""

    training: int = 1

    def free(self, leaves: Iterable[JobRecord]) -> int:
        """Slots that no trial holds."""
        return max(0, self.training - sum(leaf.state in _HOLDING for leaf in leaves))

    def next(self, leaves: Sequence[JobRecord], order: dict[tuple[str, str], int]) -> list[JobRecord]:
        """The waiting trials that may start now: in the order in which their jobs were submitted.

        `order` has the sequence of the root job of each (workspace id, name).
        """
        waiting = [leaf for leaf in leaves if leaf.state is JobState.QUEUED]
        waiting.sort(key=lambda leaf: (order[leaf.workspace_id, leaf.name], leaf.sequence))
        return waiting[: self.free(leaves)]
