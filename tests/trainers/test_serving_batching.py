"""Which rows run together, in which order, and what becomes of those that cannot run. Forward passes are
counted, not timed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from amlocal.trainers.serving.batching import Batcher, Call, Closed


class Desk:
    """A run that tells when it has begun, waits until it may go on, and keeps every batch."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.begun = threading.Semaphore(0)
        self.may_go = threading.Semaphore(0)
        self.bad: set[Any] = set()
        self.most = 1000

    def __call__(self, rows: list[Any]) -> list[str]:
        self.batches.append(rows)
        self.begun.release()
        assert self.may_go.acquire(timeout=20)
        if self.bad & set(rows):
            raise RuntimeError(f"cannot run {sorted(self.bad & set(rows))}")
        if len(rows) > self.most:
            raise MemoryError(f"{len(rows)} rows do not fit")
        return [f"<{row}>" for row in rows]

    def free(self, passes: int = 1000) -> None:
        self.may_go.release(passes)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def batcher(desk: Desk) -> Iterator[Batcher]:
    made = Batcher(desk, limit=4)
    yield made
    desk.free()
    made.close()


def occupied(batcher: Batcher, desk: Desk) -> Call:
    call = batcher.submit(["first"])
    assert desk.begun.acquire(timeout=20)
    return call


def test_one_call_alone_runs_at_once_and_what_comes_meanwhile_runs_together(
    batcher: Batcher, desk: Desk
) -> None:
    first = occupied(batcher, desk)
    others = [batcher.submit([name]) for name in "abc"]
    desk.free()
    assert first.result() == ["<first>"]
    assert [call.result() for call in others] == [["<a>"], ["<b>"], ["<c>"]]
    assert desk.batches == [["first"], ["a", "b", "c"]]


def test_batches_are_bounded_and_a_large_call_leaves_room_for_a_small_one(
    batcher: Batcher, desk: Desk
) -> None:
    occupied(batcher, desk)
    large = batcher.submit([f"l{n}" for n in range(9)])
    small = batcher.submit(["s"])
    desk.free()
    assert large.result() == [f"<l{n}>" for n in range(9)]
    assert small.result() == ["<s>"]
    assert max(map(len, desk.batches)) == 4
    assert "s" in desk.batches[1]
    assert [row for batch in desk.batches for row in batch if row[0] == "l"] == [f"l{n}" for n in range(9)]


def test_a_row_that_cannot_run_fails_its_own_call_only(batcher: Batcher, desk: Desk) -> None:
    occupied(batcher, desk)
    calls = {name: batcher.submit([name]) for name in "abcd"}
    desk.bad = {"c"}
    desk.free()
    assert {name: calls[name].result() for name in "abd"} == {n: [f"<{n}>"] for n in "abd"}
    with pytest.raises(RuntimeError, match=r"cannot run \['c'\]"):
        calls["c"].result()
    assert desk.batches[1:] == [["a", "b", "c", "d"], ["a", "b"], ["c", "d"], ["c"], ["d"]]


def test_what_does_not_fit_runs_in_halves(batcher: Batcher, desk: Desk) -> None:
    occupied(batcher, desk)
    desk.most = 2
    call = batcher.submit(list("abcd"))
    desk.free()
    assert call.result() == ["<a>", "<b>", "<c>", "<d>"]
    assert [len(batch) for batch in desk.batches] == [1, 4, 2, 2]


def test_it_waits_for_those_who_are_preparing_but_not_for_long(desk: Desk) -> None:
    now = [0.0]
    batcher = Batcher(desk, limit=4, wait=5.0, clock=lambda: now[0])
    desk.free()
    with batcher.coming():
        one = batcher.submit(["one"])
        with batcher.coming():
            two = batcher.submit(["two"])
        assert not desk.batches  # somebody is still coming, and the clock stands still
    assert (one.result(), two.result()) == (["<one>"], ["<two>"])
    assert desk.batches == [["one", "two"]]
    late = iter([10.0, 20.0])
    batcher.close()
    batcher = Batcher(desk, limit=4, wait=5.0, clock=lambda: next(late))
    with batcher.coming():
        assert batcher.submit(["three"]).result() == ["<three>"]  # the time is over at once
    batcher.close()


def test_nobody_waits_for_more_than_a_full_batch(desk: Desk) -> None:
    batcher = Batcher(desk, limit=2, wait=1000.0)
    desk.free()
    with batcher.coming():
        assert batcher.submit(["a", "b"]).result() == ["<a>", "<b>"]
    batcher.close()


def test_closing_answers_what_was_taken_and_takes_no_more(batcher: Batcher, desk: Desk) -> None:
    first = occupied(batcher, desk)
    waiting = batcher.submit(list("abcdef"))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    desk.free()
    closing.join(20)
    assert not closing.is_alive()
    assert first.result() == ["<first>"]
    assert waiting.result() == [f"<{name}>" for name in "abcdef"]
    with pytest.raises(Closed):
        batcher.submit(["more"])


def test_a_cancelled_call_runs_no_further(batcher: Batcher, desk: Desk) -> None:
    occupied(batcher, desk)
    call = batcher.submit(list("abcdefgh"))
    batcher.cancel(call, KeyError("gone"))
    after = batcher.submit(["z"])
    desk.free()
    assert after.result() == ["<z>"]
    assert desk.batches == [["first"], ["z"]]
    with pytest.raises(KeyError):
        call.result()


def test_no_rows_are_answered_without_a_run(batcher: Batcher, desk: Desk) -> None:
    assert batcher.submit([]).result() == []
    assert desk.batches == []


def test_wrong_numbers_of_answers_are_an_error() -> None:
    batcher = Batcher(lambda rows: [], limit=4)
    with pytest.raises(RuntimeError, match="0 answers for 1 rows"):
        batcher.submit(["a"]).result()
    batcher.close()
