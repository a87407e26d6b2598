"""The state machine, the records, and the small parsers."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import fields, records, user_log
from amlocal.emulator.jobs.slots import Slots
from amlocal.emulator.jobs.states import ALLOWED, TERMINAL, JobState, TransitionError, check


def test_every_state_has_a_row_and_terminal_ones_no_way_out() -> None:
    assert set(ALLOWED) == set(JobState)
    assert {state for state, ways in ALLOWED.items() if not ways} == TERMINAL
    for state in JobState:
        reachable, todo = set(), [state]
        while todo:
            for following in ALLOWED[todo.pop()] - reachable:
                reachable.add(following)
                todo.append(following)
        assert state.terminal or reachable & TERMINAL, state


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ("NotStarted", "Preparing", True),
        ("Preparing", "Queued", True),
        ("Queued", "Starting", True),
        ("Running", "Finalizing", True),
        ("Running", "Queued", True),
        ("CancelRequested", "Canceled", True),
        ("CancelRequested", "Completed", False),
        ("CancelRequested", "Running", False),
        ("Finalizing", "CancelRequested", False),
        ("Running", "Completed", False),
        ("Queued", "NotStarted", False),
        ("Completed", "Failed", False),
        ("Failed", "Running", False),
        ("Canceled", "Canceled", False),
    ],
)
def test_transitions(old: str, new: str, allowed: bool) -> None:
    if allowed:
        check("job", JobState(old), JobState(new))
    else:
        with pytest.raises(TransitionError, match=f"is {old} and cannot become {new}"):
            check("job", JobState(old), JobState(new))


def add(desk: Any, name: str, **more: Any) -> records.JobRecord:
    facts = {
        "workspace_id": desk.workspace.id,
        "name": name,
        "kind": "automl",
        "experiment": "e",
        "display_name": name,
        "compute": "local",
        "body": {"x": [1, "ü"]},
        **more,
    }
    return desk.store.write(lambda c: records.insert_job(c, **facts))


def test_a_refused_transition_changes_nothing(desk: Any) -> None:
    stale = add(desk, "job", tags={"a": "1"})
    done = desk.store.write(lambda c: records.transition(c, stale, JobState.CANCEL_REQUESTED))
    assert done.cancel_requested
    # The stored state counts, not that of the record at hand; and the whole write is taken back.
    with pytest.raises(TransitionError):
        desk.store.write(
            lambda c: (
                records.patch(c, stale, tags={"a": "2"}),
                records.transition(c, stale, JobState.RUNNING, tags={"a": "3"}),
            )
        )
    assert desk.record("job").tags == {"a": "1"}
    assert desk.states("job") == ["NotStarted", "CancelRequested"]


def test_times_errors_and_attempts_are_stored(desk: Any) -> None:
    job = add(desk, "job")
    assert job.body == {"x": [1, "ü"]} and job.started_at is None and job.created_at.endswith("Z")
    desk.store.write(lambda c: records.transition(c, job, JobState.QUEUED))
    first = desk.store.write(lambda c: records.transition(c, job, JobState.STARTING, attempt=1, why="go"))
    desk.store.write(lambda c: records.transition(c, job, JobState.RUNNING))
    desk.store.write(lambda c: records.transition(c, job, JobState.QUEUED))
    desk.store.write(lambda c: records.transition(c, job, JobState.STARTING, attempt=2))
    error = {"code": "UserError", "message": "no"}
    last = desk.store.write(lambda c: records.transition(c, job, JobState.FAILED, error=error))
    assert first.started_at == last.started_at and last.attempt == 2 and last.ended_at and last.error == error
    history = desk.store.read(lambda c: records.history(c, desk.workspace.id, "job"))
    assert history[2].why == "go" and history[-1].at == last.ended_at


def test_trees_and_sequences(desk: Any) -> None:
    jobs = [add(desk, name) for name in ("a", "b")]
    child = add(desk, "a_HD", parent="a", kind="sweep")
    leaf = add(desk, "a_HD_0", parent="a_HD", kind="trial")
    assert [one.sequence for one in (*jobs, child, leaf)] == [1, 2, 3, 4]
    names = desk.store.read(lambda c: [r.name for r in records.tree(c, desk.workspace.id, "a")])
    assert names == ["a", "a_HD", "a_HD_0"]
    assert desk.store.read(lambda c: records.root_of(c, leaf)).name == "a"
    assert desk.store.read(records.roots) == [(desk.workspace.id, "a"), (desk.workspace.id, "b")]
    with pytest.raises(IntegrityError):
        add(desk, "a")
    with pytest.raises(LookupError):
        desk.store.write(lambda c: records.patch(c, child.__class__(**{**_fields(child), "name": "no"})))


def _fields(record: records.JobRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def test_slots(desk: Any) -> None:
    leaves = [add(desk, name, kind="trial", state=JobState(state)) for name, state in (
        ("a", "Running"), ("b", "Queued"), ("c", "CancelRequested"), ("d", "Queued"), ("e", "Finalizing")
    )]  # fmt: skip
    order = {(leaf.workspace_id, leaf.name): -leaf.sequence for leaf in leaves}
    assert Slots(1).next(leaves, order) == [] and Slots(2).next(leaves, order) == []
    assert [leaf.name for leaf in Slots(3).next(leaves, order)] == ["d"]
    assert [leaf.name for leaf in Slots(9).next(leaves, order)] == ["d", "b"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT1H", 3600.0),
        ("PT1H30M", 5400.0),
        ("P1DT2H", 93600.0),
        ("P2W", 1209600.0),
        ("PT0.5S", 0.5),
        ("PT10080M", 604800.0),
        ("PT", None),
        ("P", None),
        ("P1Y", None),
        ("P1M", None),
        ("-PT1H", None),
        ("PT1H ", None),
        ("", None),
        (None, None),
        (3600, None),
        ("PT" + "9" * 5000 + "H", None),
        ("PT999999999H", None),
    ],
)
def test_durations(text: Any, seconds: float | None) -> None:
    if seconds is not None:
        assert fields.duration(text, "t", "t", maximum=60 * 86400) == seconds
    else:
        with pytest.raises(AzureError, match="t is "):
            fields.duration(text, "t", "t", maximum=60 * 86400)


def test_the_end_of_a_log(desk: Any) -> None:
    path = desk.root / "log.txt"
    assert user_log.last_lines(path) == ""
    user_log.start(path, ["first", "second"])
    with path.open("ab") as log:
        log.write(b"no line end \xff\x00")
    user_log.append(path, "third")
    assert path.read_bytes().startswith(b"amlocal: first\namlocal: second\nno line end")
    assert user_log.last_lines(path) == "amlocal: first\namlocal: second\nno line end �\namlocal: third"
    path.write_text("".join(f"line {number} {'x' * 50}\n" for number in range(100_000)))
    lines = user_log.last_lines(path).splitlines()
    assert len(lines) == 20 and lines[-1].startswith("line 99999 ")
