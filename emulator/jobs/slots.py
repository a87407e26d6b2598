"""The slots of this host: how many trials and commands run at once, and which waiting ones are next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amlocal.emulator.http.errors import user_error
from amlocal.emulator.jobs import fields
from amlocal.emulator.jobs.computes import Limits
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.states import JobState

# A trial whose end was asked for holds its slot until its process is gone.
_HOLDING = frozenset({JobState.STARTING, JobState.RUNNING, JobState.CANCEL_REQUESTED})
_PRIORITIES = {"low": 1, "medium": 2, "high": 3}
MEDIUM = 2
# The property of a running job that names its GPUs, as CUDA_VISIBLE_DEVICES does.
DEVICES = "amlocal.gpus"

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Turns:
    """Who may start now, with which GPUs, and why others that wait for more than a slot do not."""

    next: list[JobRecord]
    devices: dict[Key, tuple[str, ...]]
    reasons: dict[Key, str]


@dataclass(frozen=True, slots=True)
class Slots:
    """`training` trials and `commands` command jobs run at once; all computes share them: all are this host.

    The two are counted apart, so that neither waits for the other. A command job takes one slot for each of
    its instances (at most all). On a host with `devices`, its GPUs, what runs on a GPU compute takes as many
    of those as it has processes: a command instead of command slots, a trial beside its own. A trial whose
    training is distributed has a process for each GPU of its share of the host.
    """

    training: int = 1
    commands: int = 2
    devices: tuple[str, ...] = ()

    def next(self, leaves: Sequence[JobRecord], order: Mapping[Key, int]) -> list[JobRecord]:
        """The waiting leaves that may start now, where no compute has limits of its own; see `turns`."""
        return self.turns(leaves, dict.fromkeys(order, MEDIUM), order, {}).next

    def turns(
        self,
        leaves: Sequence[JobRecord],
        priorities: Mapping[Key, int],
        order: Mapping[Key, int],
        limits: Mapping[Key, Limits],
    ) -> Turns:
        """The waiting leaves that may start now: by priority, then in the order of submission.

        `priorities` and `order` have those of the root job of each (workspace id, name); `limits` those of
        each (workspace id, compute). Where the first in line needs more than is free, nobody passes it, so
        that small jobs cannot keep a large one waiting for ever.
        """
        chosen: list[JobRecord] = []
        given: dict[Key, tuple[str, ...]] = {}
        reasons: dict[Key, str] = {}
        free = {"trial": self.training, "command": self.commands}
        devices = list(self.devices)
        nodes: dict[Key, int] = {}
        for leaf in leaves:
            if leaf.state in _HOLDING:
                place = (leaf.workspace_id, leaf.compute)
                held = [one for one in leaf.properties.get(DEVICES, "").split(",") if one in devices]
                devices = [one for one in devices if one not in held]
                if leaf.kind == "trial" or not held:
                    free[leaf.kind] -= self._need(leaf)
                nodes[place] = nodes.get(place, 0) + instances(leaf)
        waiting = [leaf for leaf in leaves if leaf.state is JobState.QUEUED]
        waiting.sort(
            key=lambda leaf: (
                -priorities[leaf.workspace_id, leaf.name],
                order[leaf.workspace_id, leaf.name],
                leaf.sequence,
            )
        )
        closed: set[Key] = set()
        for leaf in waiting:
            key, place = (leaf.workspace_id, leaf.name), (leaf.workspace_id, leaf.compute)
            limit = limits.get(place, Limits())
            reason = _held_back(leaf, limit, nodes.get(place, 0), closed)
            if reason is not None:
                reasons[key] = reason
                # One that can never fit keeps nobody waiting.
                if not limit.stopped and instances(leaf) <= (limit.nodes or 0):
                    closed.add(place)
                continue
            gpus = min(len(self.devices), self._processes(leaf)) if limit.gpu else 0
            need = self._need(leaf) if leaf.kind == "trial" or not gpus else 0
            if gpus > len(devices):
                devices = []
                continue
            if need > free[leaf.kind]:
                free[leaf.kind] = 0
                continue
            free[leaf.kind] -= need
            if gpus:
                given[key], devices = tuple(devices[:gpus]), devices[gpus:]
            nodes[place] = nodes.get(place, 0) + instances(leaf)
            chosen.append(leaf)
        return Turns(chosen, given, reasons)

    def _need(self, leaf: JobRecord) -> int:
        """How many slots of its kind a leaf takes."""
        return 1 if leaf.kind == "trial" else min(self.commands, instances(leaf))

    def _processes(self, leaf: JobRecord) -> int:
        """How many GPUs a leaf can use: one for each of its processes."""
        if leaf.kind == "trial":
            return max(1, len(self.devices) // self.training) if leaf.body.get("distributed") is True else 1
        each = (leaf.body.get("distribution") or {}).get("processCountPerInstance")
        return instances(leaf) * (each if isinstance(each, int) and each > 0 else 1)


def instances(leaf: JobRecord) -> int:
    """How many nodes of its compute a leaf takes."""
    count = (leaf.body.get("resources") or {}).get("instanceCount")
    return count if isinstance(count, int) and count > 0 else 1


def priority(body: Mapping[str, Any]) -> int:
    """1 (low) to 3 (high): `queue_settings.priority` of a job, 2 without.

    Source: azure-ai-ml's JobPriorityValues. Raises AzureError.
    """
    settings = fields.mapping(body, "queueSettings", "queueSettings")
    given = settings.get("priority") if settings.get("priority") is not None else body.get("priority")
    if given is None:
        return MEDIUM
    found = _PRIORITIES.get(given.lower()) if isinstance(given, str) else given
    if isinstance(found, bool) or not isinstance(found, int) or found not in _PRIORITIES.values():
        raise user_error(
            f"queue_settings.priority is {shown(given)}; it must be low, medium or high (1 to 3).",
            target="queueSettings.priority",
        )
    return found


def _held_back(leaf: JobRecord, limit: Limits, busy: int, closed: Iterable[Key]) -> str | None:
    """Why the leaf's own compute does not take it now, whatever the host has free."""
    if limit.stopped:
        return (
            f"compute instance {leaf.compute} is stopped. The job waits until it is started: "
            f"ml_client.compute.begin_start({leaf.compute!r})."
        )
    if limit.nodes is None:
        return None
    if instances(leaf) > limit.nodes:
        return (
            f"the job takes {instances(leaf)} nodes and cluster {leaf.compute} has at most {limit.nodes}. "
            "It waits until the cluster may grow (max_instances)."
        )
    if busy + instances(leaf) > limit.nodes or (leaf.workspace_id, leaf.compute) in closed:
        return f"cluster {leaf.compute} has {limit.nodes} nodes at most, and they are taken."
    return None
