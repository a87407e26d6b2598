"""The sign of life that a trial gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amlocal.trainers import heartbeat, spec, trial
from amlocal.trainers.data import cache


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was written, and "touched" for each time the file was only touched."""
    found: list[str] = []
    real_write, real_touch = heartbeat._Heart._write, heartbeat.os.utime

    def write(self: Any, path: Path, doing: str) -> None:
        found.append(doing)
        real_write(self, path, doing)

    def touch(path: Path) -> None:
        found.append("touched")
        real_touch(path)

    monkeypatch.setattr(heartbeat._Heart, "_write", write)
    monkeypatch.setattr(heartbeat.os, "utime", touch)
    return found


def test_it_is_written_when_something_else_begins_and_touched_every_few_seconds(
    tmp_path: Path, written: list[str]
) -> None:
    clock = Clock()
    with heartbeat.beating(tmp_path / "state", clock):
        for _ in range(3):
            heartbeat.beat("training")
        clock.now += 4.9
        heartbeat.beat("training")
        assert written == ["starting", "training"]
        clock.now += 0.1
        for _ in range(3):
            heartbeat.beat("training")
        assert written == ["starting", "training", "touched"]
        heartbeat.beat("evaluating")
        heartbeat.beat("training")
        assert written[3:] == ["evaluating", "training"]
    heartbeat.beat("nothing any more")
    assert written[5:] == []
    assert json.loads((tmp_path / "state" / "heartbeat.json").read_text()) == {"doing": "training"}
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["heartbeat.json"]


def test_what_cannot_beat_is_beaten_for(tmp_path: Path, written: list[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(heartbeat, "_SECONDS", 0.001)
    with heartbeat.beating(tmp_path), heartbeat.through("downloading weights"):
        while written.count("touched") < 3:
            pass
    count = len(written)
    assert written[:2] == ["starting", "downloading weights"]
    assert len(written) == count


def test_every_part_of_a_trial_beats(make_spec: Any, written: list[str]) -> None:
    loaded = spec.load(make_spec("beats", {"number_of_epochs": 1}))
    trial.run(loaded)
    told = [doing for doing in written if doing != "touched"]
    assert list(dict.fromkeys(told)) == [
        "starting",
        "decoding images",
        "training",
        "evaluating",
        "writing the model",
        "drawing charts",
        "writing the ONNX file",
    ]
    before = (loaded.state_dir / "heartbeat.json").stat().st_mtime_ns
    with cache.locked(loaded.state_dir / "lock", "it"):
        heartbeat.beat("outside of a trial")
    assert (loaded.state_dir / "heartbeat.json").stat().st_mtime_ns == before


def test_waiting_for_a_lock_beats(tmp_path: Path, written: list[str], monkeypatch: Any) -> None:
    from amlocal.trainers import locking

    calls = []

    class Busy:
        LOCK_EX, LOCK_NB = 2, 4

        def flock(self, file: Any, operation: int) -> None:
            calls.append(operation)
            if len(calls) < 3:
                raise BlockingIOError

    monkeypatch.setattr(locking, "fcntl", Busy())
    with heartbeat.beating(tmp_path), locking.locked(tmp_path / "lock", "it decodes"):
        pass
    assert written == ["starting", "waiting for another trial"]
    assert len(calls) == 3
