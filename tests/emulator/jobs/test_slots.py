"""Whose turn it is: priority, then order of submission, within what host and computes have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import slots
from amlocal.emulator.jobs.computes import Limits
from amlocal.emulator.jobs.queue import visible_devices
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.slots import Slots, Turns
from amlocal.emulator.jobs.states import JobState

RUNNING = JobState.RUNNING


def job(
    name: str,
    *,
    state: JobState = JobState.QUEUED,
    compute: str = "c",
    nodes: int = 1,
    kind: str = "command",
    priority: int | None = None,
    processes: int = 1,
    gpus: str = "",
) -> JobRecord:
    body: dict[str, Any] = {"resources": {"instanceCount": nodes}}
    if priority is not None:
        body["queueSettings"] = {"priority": priority}
    if processes > 1:
        body["distribution"] = {"processCountPerInstance": processes}
    properties = {slots.DEVICES: gpus} if gpus else {}
    return JobRecord(
        "w", name, None, kind, state, "e", name, compute, body, {}, properties, None, 0, False, False, "",
        None, None, int(name[1:]),
    )  # fmt: skip


def turns(host: Slots, leaves: list[JobRecord], limits: Mapping[str, Limits] | None = None) -> Turns:
    return host.turns(
        leaves,
        {("w", leaf.name): slots.priority(leaf.body) for leaf in leaves},
        {("w", leaf.name): leaf.sequence for leaf in leaves},
        {("w", name): limit for name, limit in (limits or {}).items()},
    )


def names(found: Turns) -> list[str]:
    return [leaf.name for leaf in found.next]


def test_priority_then_first_in_first_out() -> None:
    leaves = [job("j1"), job("j2", priority=3), job("j3", priority=1), job("j4", priority=3), job("j5")]
    assert names(turns(Slots(commands=9), leaves)) == ["j2", "j4", "j1", "j5", "j3"]
    assert names(turns(Slots(commands=2), leaves)) == ["j2", "j4"]


def test_nobody_passes_a_large_job_that_is_first() -> None:
    running = job("j1", state=RUNNING)
    leaves = [running, job("j2", nodes=2), job("j3")]
    assert names(turns(Slots(commands=2), leaves)) == []
    assert names(turns(Slots(commands=3), leaves)) == ["j2"]
    assert names(turns(Slots(commands=4), leaves)) == ["j2", "j3"]
    # More instances than the host has slots take all of them, so that such a job runs at all.
    assert names(turns(Slots(commands=2), [job("j2", nodes=9), job("j3")])) == ["j2"]
    assert names(turns(Slots(commands=2), [job("j1", nodes=9, state=RUNNING), job("j3")])) == []


def test_a_cluster_has_so_many_nodes_and_no_more() -> None:
    limits = {"c": Limits(nodes=2, most=2)}
    host = Slots(commands=9)
    found = turns(host, [job("j1", state=RUNNING), job("j2"), job("j3"), job("j4", compute="d")], limits)
    assert names(found) == ["j2", "j4"]
    assert found.reasons == {("w", "j3"): "cluster c has 2 nodes at most, and they are taken."}
    # On the cluster, too, nobody passes the first in line; on another one everybody may.
    leaves = [job("j1", state=RUNNING), job("j2", nodes=2), job("j3"), job("j4", compute="d")]
    assert names(turns(host, leaves, limits)) == ["j4"]
    assert names(turns(host, [job("j2", nodes=2), job("j3")], limits)) == ["j2"]


def test_a_job_that_no_longer_fits_keeps_nobody_waiting() -> None:
    found = turns(Slots(commands=9), [job("j1", nodes=3), job("j2")], {"c": Limits(nodes=1)})
    assert names(found) == ["j2"]
    assert "the job takes 3 nodes and cluster c has at most 1" in found.reasons["w", "j1"]


def test_the_jobs_of_a_stopped_instance_wait_alone() -> None:
    found = turns(Slots(commands=1), [job("j1"), job("j2", compute="d")], {"c": Limits(stopped=True)})
    assert names(found) == ["j2"]
    assert found.reasons["w", "j1"].startswith("compute instance c is stopped.")


def test_what_is_being_canceled_still_holds_its_slot() -> None:
    held = [job("j1", state=JobState.CANCEL_REQUESTED), job("j2", state=JobState.STARTING)]
    assert names(turns(Slots(commands=2), [*held, job("j3")])) == []
    ended = job("j1", state=JobState.FINALIZING)
    assert names(turns(Slots(commands=1), [ended, job("j3")])) == ["j3"]


def test_gpus_are_handed_out_one_by_one() -> None:
    gpu = {"g": Limits(gpu=True)}
    host = Slots(training=1, commands=1, devices=("0", "1"))
    leaves = [
        job("j1", state=RUNNING, compute="g", gpus="0"),
        job("j2", compute="g"),
        job("j3", compute="g"),
        job("j4"),
    ]
    found = turns(host, leaves, gpu)
    assert names(found) == ["j2", "j4"] and found.devices == {("w", "j2"): ("1",)}
    # One GPU for each process, and nobody passes a job that waits for both.
    leaves = [leaves[0], job("j2", compute="g", processes=2), job("j3", compute="g")]
    assert names(turns(host, leaves, gpu)) == []
    found = turns(host, leaves[1:], gpu)
    assert names(found) == ["j2"] and found.devices == {("w", "j2"): ("0", "1")}
    # A trial takes a GPU and the training slot.
    trials = [job("j1", kind="trial", compute="g"), job("j2", kind="trial", compute="g")]
    found = turns(host, trials, gpu)
    assert names(found) == ["j1"] and found.devices == {("w", "j1"): ("0",)}
    busy = [
        job("j1", kind="trial", state=RUNNING, compute="g", gpus="0"),
        job("j2", kind="trial", compute="c"),
    ]
    assert names(turns(host, busy, gpu)) == []


def test_without_a_gpu_such_jobs_take_the_slots_of_all() -> None:
    leaves = [job("j1", compute="g"), job("j2"), job("j3", compute="g")]
    found = turns(Slots(commands=2), leaves, {"g": Limits(gpu=True)})
    assert names(found) == ["j1", "j2"] and found.devices == {}


def test_the_gpus_that_the_server_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices(0) == () and visible_devices(2) == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-ab")
    assert visible_devices(4) == ("3", "GPU-ab")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_devices(4) == ()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ({}, 2), ({"queueSettings": None}, 2), ({"queueSettings": {"priority": 1}}, 1),
        ({"queueSettings": {"priority": "High"}}, 3), ({"priority": 3}, 3),
        ({"priority": 3, "queueSettings": {"priority": 1}}, 1),
    ],
)  # fmt: skip
def test_priorities(body: dict[str, Any], value: int) -> None:
    assert slots.priority(body) == value


@pytest.mark.parametrize("given", [0, 4, "urgent", True, 1.5, [], {}])
def test_priorities_that_do_not_exist(given: Any) -> None:
    with pytest.raises(AzureError, match="low, medium or high") as caught:
        slots.priority({"queueSettings": {"priority": given}})
    assert caught.value.status == 400
