"""Trials that hang: what counts as no progress, and how one of a sweep is ended."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator import settings as settings_module
from amlocal.emulator.jobs import stall
from amlocal.emulator.jobs.stall import Beat, Stalls
from amlocal.emulator.settings import SettingsError
from amlocal.trainers import heartbeat

NAMES = [f"job1_HD_{number}" for number in range(3)]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def beat(folder: Path, doing: str, mark: int) -> None:
    (folder / stall.HEARTBEAT).write_text(json.dumps({"doing": doing}))
    os.utime(folder / stall.HEARTBEAT, ns=(mark, mark))


def test_only_silence_as_long_as_the_limit_is_a_reason() -> None:
    assert stall.reason(Beat(1, "training"), 1799.9, 1800) is None
    assert stall.reason(Beat(1, "training"), 1800, 1800) == (
        "The trial made no progress for 30 minutes while it was training, so it was ended. The setting "
        "trial_stall_minutes says how long it may take; 0 lets it hang."
    )
    assert "for 1 minute while" in str(stall.reason(Beat(1, "training"), 61, 60))
    assert stall.reason(Beat(1, "training"), 1e9, 0) is None


def test_silence_is_counted_from_the_last_change_that_was_seen(tmp_path: Path) -> None:
    clock = Clock()
    stalls = Stalls(60, clock)
    assert stalls.look(tmp_path, 1) is None
    clock.now += 59
    assert stalls.look(tmp_path, 1) is None
    # It begins to beat, at a time of day long ago: that says nothing.
    beat(tmp_path, "decoding images", 5)
    clock.now += 59
    assert stalls.look(tmp_path, 1) is None
    clock.now += 59
    assert stalls.look(tmp_path, 1) is None
    beat(tmp_path, "decoding images", 6)
    assert stalls.look(tmp_path, 1) is None
    clock.now += 60
    assert "while it was decoding images" in str(stalls.look(tmp_path, 1))
    # The next attempt, and a server that has just started, know of nothing.
    assert stalls.look(tmp_path, 2) is None
    assert Stalls(60, clock).look(tmp_path, 1) is None
    stalls.forget(tmp_path)
    assert stalls.look(tmp_path, 1) is None


def test_a_trial_that_never_beats_hangs_while_it_is_starting(tmp_path: Path) -> None:
    clock = Clock()
    stalls = Stalls(60, clock)
    stalls.look(tmp_path, 1)
    clock.now += 60
    assert "while it was starting" in str(stalls.look(tmp_path, 1))
    assert Stalls(0, clock).look(tmp_path, 1) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense"])
def test_half_a_heartbeat_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / stall.HEARTBEAT).write_text(text)
    assert stall.read(tmp_path) == stall.NOTHING


def test_trainers_write_what_is_read_here(tmp_path: Path) -> None:
    assert heartbeat.FILE == stall.HEARTBEAT
    with heartbeat.beating(tmp_path):
        heartbeat.beat("training")
    found = stall.read(tmp_path)
    assert found == Beat((tmp_path / stall.HEARTBEAT).stat().st_mtime_ns, "training")


def test_the_reason_is_kept_for_the_attempt_that_it_ended(tmp_path: Path) -> None:
    assert stall.noted(tmp_path, 1) is None
    stall.write(tmp_path, 1, "why")
    assert stall.noted(tmp_path, 1) == "why"
    assert stall.noted(tmp_path, 2) is None
    (tmp_path / stall.STALLED).write_text("{")
    assert stall.noted(tmp_path, 1) is None


def test_the_limit_is_a_setting(tmp_path: Path) -> None:
    def load(value: str) -> settings_module.Settings:
        environ = {"AMLOCAL_TRIAL_STALL_MINUTES": value, "AMLOCAL_DATA_DIR": str(tmp_path)}
        return settings_module.load(environ=environ)

    assert settings_module.load(environ={"AMLOCAL_DATA_DIR": str(tmp_path)}).trial_stall_minutes == 30
    assert load("0.5").trial_stall_minutes == 0.5
    assert settings_module.from_json(settings_module.to_json(load("0"))).trial_stall_minutes == 0
    with pytest.raises(SettingsError, match="trial_stall_minutes = '-1'"):
        load("-1")
    environ = {"AMLOCAL_WARM_START": "never", "AMLOCAL_DATA_DIR": str(tmp_path)}
    assert settings_module.load(environ=environ).warm_start == "never"
    with pytest.raises(SettingsError, match="warm_start = 'no'"):
        settings_module.load(environ=environ | {"AMLOCAL_WARM_START": "no"})


def test_a_trial_that_hangs_fails_alone_with_its_reason(desk: Any, helpers: Any) -> None:
    def run(engine: Any, job: Any) -> None:
        if job.job_dir.name == NAMES[0]:
            beat(job.job_dir, "evaluating", 7)
        else:
            helpers.train(engine, job)

    desk.engine.on_submit = run
    desk.settings = replace(desk.settings, trial_stall_minutes=0.001)
    service = desk.service()
    service.submit(desk.workspace, "job1", desk.sweep(trials=2))
    service.wait_idle()
    hung = desk.record(NAMES[0])
    assert hung.state == "Failed" and hung.attempt == 1
    assert hung.error["code"] == "SystemError"
    assert "made no progress for 0.001 minutes while it was evaluating" in hung.error["message"]
    assert desk.engine.canceled == [(NAMES[0], 1)]
    log = (desk.artifacts(NAMES[0]) / "user_logs/std_log.txt").read_text()
    assert log.count("made no progress") == 1
    assert desk.record(NAMES[1]).state == "Completed"
    assert desk.record("job1").state == "Completed"
    assert desk.record("job1").tags["automl_best_child_run_id"] == NAMES[1]


def test_a_trial_deaf_to_its_end_is_found_ended_by_a_server_that_starts_later(
    desk: Any, helpers: Any
) -> None:
    desk.engine.cancel = lambda job_dir, attempt: desk.engine.canceled.append((job_dir.name, attempt))
    desk.settings = replace(desk.settings, trial_stall_minutes=0.001)
    first = desk.service()
    first.submit(desk.workspace, "job1", desk.sweep(trials=1))
    helpers.until(lambda: desk.engine.canceled)
    first.stop()
    (job,) = desk.engine.jobs.values()
    desk.engine.end(job, None, 9, stopped=True)
    desk.settings = replace(desk.settings, trial_stall_minutes=30)
    desk.service().wait_idle()
    assert desk.record(NAMES[0]).state == "Failed"
    assert "made no progress" in desk.record(NAMES[0]).error["message"]
    assert desk.engine.started == [(NAMES[0], 1)]
    assert desk.record("job1").state == "Failed"
