"""The slots of this host: how many trials and commands run at once, and which waiting ones are next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.states import JobState

# A trial whose end was asked for holds its slot until its process is gone.
_HOLDING = frozenset({JobState.STARTING, JobState.RUNNING, JobState.CANCEL_REQUESTED})


@dataclass(frozen=True, slots=True)
class Slots:
    """`training` trials and `commands` command jobs run at once; all computes share them: all are this host.

    The two are counted apart, so that neither waits for the other.
    """

    training: int = 1
    commands: int = 2

    def next(self, leaves: Sequence[JobRecord], order: dict[tuple[str, str], int]) -> list[JobRecord]:
        """The waiting leaves that may start now: in the order in which their jobs were submitted.

        `order` has the sequence of the root job of each (workspace id, name).
        """
        chosen: list[JobRecord] = []
        for kind in ("trial", "command"):
            waiting = [leaf for leaf in leaves if leaf.kind == kind and leaf.state is JobState.QUEUED]
            waiting.sort(key=lambda leaf: (order[leaf.workspace_id, leaf.name], leaf.sequence))
            chosen += waiting[: self._free(kind, leaves)]
        return chosen

    def _free(self, kind: str, leaves: Iterable[JobRecord]) -> int:
        slots = self.training if kind == "trial" else self.commands
        return max(0, slots - sum(leaf.kind == kind and leaf.state in _HOLDING for leaf in leaves))
