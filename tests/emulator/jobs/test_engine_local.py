"""The local engine: what it knows comes from files and locks, whoever dies."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import living
import pytest

from amlocal.emulator.jobs.engines.base import Engine, EngineError, EngineJob
from amlocal.emulator.jobs.engines.local import LocalEngine, _identity


def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


def job(folder: Path, *argv: str, **more: Any) -> EngineJob:
    return EngineJob(
        job_dir=folder,
        argv=argv,
        env={"PATH": os.environ["PATH"]},
        cwd=folder,
        stdout=folder / "std_log.txt",
        **more,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "job-1"
    folder.mkdir()
    yield folder
    engine = LocalEngine()
    for started in folder.glob("attempt-*.started"):
        engine.cancel(folder, int(started.stem.partition("-")[2]))


def test_life_of_an_attempt(folder: Path) -> None:
    engine: Engine = LocalEngine()
    assert engine.state(folder, 1).name == "not_started"
    engine.submit(job(folder, "sh", "-c", "echo $AMLOCAL_ATTEMPT; exit 4"))
    event = engine.events(timeout=15)
    assert event is not None and (event.job_dir, event.attempt) == (folder, 1)
    state = engine.state(folder, 1)
    assert state == event.state and state.name == "exited"
    assert state.report is not None and state.report.returncode == 4 and not state.report.succeeded
    assert state.report.describe() == "ended with exit code 4"
    first = engine.logs(folder, 0, 5)
    rest = engine.logs(folder, first.next_offset)
    assert (first.data + rest.data).decode() == f"{folder}:1\n"
    assert engine.logs(folder, rest.next_offset).data == b""
    assert engine.events(timeout=0) is None


def test_order_file_is_private(folder: Path) -> None:
    LocalEngine().submit(job(folder, "true"))
    assert (folder / "shim.json").stat().st_mode & 0o777 == 0o600


def test_no_zombie_is_left(folder: Path) -> None:
    engine = LocalEngine()
    engine.submit(job(folder, "true"))
    shim = until(lambda: _identity(folder, 1).get("shim_pid"))
    assert engine.events(timeout=15)
    assert living.state(shim) is None


def test_program_that_does_not_exist(folder: Path) -> None:
    engine = LocalEngine()
    engine.submit(job(folder, "no-such-program-anywhere"))
    event = engine.events(timeout=15)
    assert event is not None and event.state.report is not None
    assert "cannot execute 'no-such-program-anywhere'" in event.state.report.describe()


def test_cancel(folder: Path) -> None:
    engine = LocalEngine()
    engine.submit(job(folder, "sleep", "60"))
    assert engine.state(folder, 1).name == "running"
    engine.cancel(folder, 1)
    event = engine.events(timeout=15)
    assert event is not None and event.state.report is not None
    assert event.state.report.stopped and event.state.report.describe() == "stopped on request"
    engine.cancel(folder, 1)
    assert engine.state(folder, 1).report == event.state.report


def test_job_outlives_its_server_and_is_adopted(folder: Path) -> None:
    """A server process submits and is killed; a new engine finds the job running and sees its end."""
    server = textwrap.dedent(f"""
        import os, time
        from pathlib import Path
        from amlocal.emulator.jobs.engines.base import EngineJob
        from amlocal.emulator.jobs.engines.local import LocalEngine
        folder = Path({str(folder)!r})
        LocalEngine().submit(EngineJob(
            job_dir=folder, argv=["sh", "-c", "while [ ! -e go ]; do sleep 0.05; done; echo done"],
            env=dict(os.environ), cwd=folder, stdout=folder / "std_log.txt"))
        print("submitted", flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"submitted\n"
        process.kill()
    engine = LocalEngine()
    assert engine.state(folder, 1).name == "running"
    with pytest.raises(EngineError, match="is running"):
        engine.submit(job(folder, "true", attempt=2))
    (folder / "go").touch()
    event = engine.events(timeout=15)
    assert event is not None and event.state.report is not None and event.state.report.succeeded
    assert engine.logs(folder).data == b"done\n"


def test_adopted_job_can_be_cancelled(folder: Path) -> None:
    LocalEngine().submit(job(folder, "sleep", "60"))
    engine = LocalEngine()
    assert engine.state(folder, 1).name == "running"
    engine.cancel(folder, 1)
    event = engine.events(timeout=15)
    assert event is not None and event.state.report is not None and event.state.report.stopped


SURVIVORS = "trap '' TERM; setsid sleep 61 & sleep 62 & echo up; wait"


def kill_shim(engine: LocalEngine, folder: Path) -> int:
    engine.submit(job(folder, "sh", "-c", SURVIVORS, grace=0.3))
    until(lambda: engine.logs(folder).data)
    identity = _identity(folder, 1)
    os.kill(identity["shim_pid"], signal.SIGKILL)
    event = engine.events(timeout=15)
    assert event is not None and event.state.name == "lost"
    assert not living.gone(identity["pid"])
    return int(identity["pid"])


def marked(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if f"AMLOCAL_ATTEMPT={folder}:1".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_lost_attempt_is_seen_and_cancel_ends_its_processes(folder: Path) -> None:
    engine = LocalEngine()
    kill_shim(engine, folder)
    until(lambda: len(marked(folder)) == 3)
    assert engine.state(folder, 1).name == "lost"
    engine.cancel(folder, 1)
    assert marked(folder) == []
    assert engine.state(folder, 1).name == "lost"


def test_next_attempt_starts_only_when_the_last_one_is_gone(folder: Path) -> None:
    engine = LocalEngine()
    pid = kill_shim(engine, folder)
    engine.submit(job(folder, "sh", "-c", f"kill -0 {pid} && echo alive || echo alone", attempt=2, grace=0.3))
    event = engine.events(timeout=15)
    assert event is not None and (event.attempt, event.state.name) == (2, "exited")
    assert engine.logs(folder).data.decode().splitlines()[-1] == "alone"
    assert marked(folder) == []
    assert engine.state(folder, 1).name == "lost"


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_shim_that_is_about_to_exit_is_waited_for(folder: Path, has_ended: bool) -> None:
    engine = LocalEngine()
    (folder / "lock").write_text('{"attempt": 1, "shim_pid": 1}')
    with (folder / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if has_ended:
            (folder / "exit-1.json").write_text("{}")
            threading.Timer(0.3, fcntl.flock, (held, fcntl.LOCK_UN)).start()
            engine.submit(job(folder, "sh", "-c", "echo second", attempt=2))
        else:
            with pytest.raises(EngineError, match="an attempt of this job is running"):
                engine.submit(job(folder, "sh", "-c", "echo second", attempt=2))
    assert (folder / "attempt-2.started").exists() == has_ended


def test_somebody_else_with_the_same_pid_is_left_alone(folder: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        text = '{"pid": %d, "start_time": "%s", "boot_id": "%s"}'
        (folder / "attempt-1.started").write_text(text % (stranger.pid, "1", boot))
        engine = LocalEngine()
        assert engine.state(folder, 1).name == "lost"
        engine.cancel(folder, 1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_same_attempt_is_refused(folder: Path) -> None:
    engine = LocalEngine()
    engine.submit(job(folder, "sh", "-c", "echo once"))
    assert engine.events(timeout=15)
    with pytest.raises(EngineError, match="attempt 1 was started before"):
        engine.submit(job(folder, "sh", "-c", "echo twice"))
    assert engine.logs(folder).data == b"once\n"


def test_shim_that_cannot_run_is_an_error(folder: Path) -> None:
    engine = LocalEngine(python="/bin/false")
    with pytest.raises(EngineError, match="could not be started"):
        engine.submit(job(folder, "true"))
    assert engine.state(folder, 1).name == "not_started"


def test_capacity_is_of_this_host(tmp_path: Path) -> None:
    capacity = LocalEngine().capacity()
    assert 1 <= capacity.cpus <= len(os.sched_getaffinity(0))
    assert 2**28 < capacity.memory < 2**45


def test_gpus_by_the_drivers_folder(tmp_path: Path) -> None:
    from amlocal.emulator.jobs.engines.capacity import _by_driver

    device = tmp_path / "gpus" / "0000:01:00.0"
    device.mkdir(parents=True)
    (device / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 1\n")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Tue\n")
    (gpu,) = _by_driver(tmp_path)
    assert (gpu.index, gpu.name, gpu.memory, gpu.driver) == (0, "NVIDIA H200", None, "570.86.15")
    assert _by_driver(tmp_path / "absent") == ()
