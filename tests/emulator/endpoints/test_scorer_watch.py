"""Probes and logs of real scorer processes: what hangs or stops is started again, logs stay small."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.endpoints.probes import ProbeSettings
from amlocal.emulator.endpoints.scorers import ScorerSupervisor

# The grace is over when the test says so: a machine may need any time to start a process.
GRACE = 1000.0
SHORT = ProbeSettings(initial_delay=GRACE, period=0.1, timeout=1.0, failure_threshold=2)
BOUND = 50_000


class Clock:
    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., ScorerSupervisor]]:
    made: list[ScorerSupervisor] = []

    def make(**more: Any) -> ScorerSupervisor:
        made.append(ScorerSupervisor(tmp_path / "run", backoff=lambda deaths: 0.05, **more))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.stop_all(grace=0)


def pid_of(supervisor: ScorerSupervisor) -> int:
    pid = supervisor.status("blue").pid
    assert pid is not None
    return pid


def another(supervisor: ScorerSupervisor, before: int, desk: Any) -> int:
    """The process that is ready after `before`."""
    pid: int = desk.until(
        lambda: (s := supervisor.status("blue")).state == "ready" and s.pid != before and s.pid, 40
    )
    return pid


HANGS = """
import time
def init(): ...
def run(raw):
    if raw == "hang":
        print("HANGS", flush=True)
        time.sleep(1000)
    return "well"
"""


def test_code_that_hangs_is_started_again(tmp_path: Path, supervise: Callable[..., Any], desk: Any) -> None:
    clock = Clock()
    supervisor = supervise(clock=clock)
    path = supervisor.start("blue", desk.config(HANGS, liveness=SHORT))
    supervisor.wait_ready("blue", 30)
    first = pid_of(supervisor)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        caller.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nhang")
        desk.until(lambda: "HANGS" in supervisor.tail("blue"))
    clock.ahead = GRACE
    # The caller has gone: nobody waits for what holds the only slot.
    second = another(supervisor, first, desk)
    assert desk.ask(path, b"x")[:2] == (200, "well")
    log = supervisor.tail("blue", 500)
    assert f"process {first}: the liveness probe failed 2 times in a row" in log
    assert f"process {first} is ended: its liveness probe failed" in log
    assert f"(process {first}) was killed by signal 9 (SIGKILL); it is started again" in log
    desk.until(lambda: f"process {second}: ready: requests are taken" in supervisor.tail("blue", 500))


def test_a_process_that_does_not_answer_is_started_again(
    tmp_path: Path, supervise: Callable[..., Any], desk: Any
) -> None:
    clock = Clock()
    supervisor = supervise(clock=clock)
    path = supervisor.start("blue", desk.config(HANGS, liveness=SHORT))
    supervisor.wait_ready("blue", 30)
    first = pid_of(supervisor)
    os.kill(first, signal.SIGSTOP)
    clock.ahead = GRACE
    another(supervisor, first, desk)
    assert desk.ask(path, b"x")[:2] == (200, "well")


def test_the_grace_of_the_probes_is_not_waited_for(
    tmp_path: Path, supervise: Callable[..., Any], desk: Any
) -> None:
    # Time passes only when somebody looks at it, some 10 ms each.
    looks = itertools.count()
    supervisor = supervise(clock=lambda: next(looks) * 0.01)
    long = ProbeSettings(initial_delay=2000.0, period=10.0, timeout=10.0, failure_threshold=10)
    path = supervisor.start("blue", desk.config(HANGS, liveness=long, readiness=long))
    supervisor.wait_ready("blue", 60)
    assert desk.ask(path, b"x")[0] == 200 and supervisor.taking("blue")
    assert next(looks) * 0.01 < 2000


CHATTY = """
import sys
def init(): ...
def run(raw):
    for number in range(int(raw)):
        print(f"line {number:05d} of a script that talks")
    sys.stdout.flush()
    return "said"
"""


def test_a_script_that_talks_without_end_keeps_its_log_small(
    tmp_path: Path, supervise: Callable[..., Any], desk: Any
) -> None:
    supervisor = supervise()
    probe = ProbeSettings(period=0.1)
    config = desk.config(CHATTY, log_bound=BOUND, readiness=probe)
    path = supervisor.start("blue", config)
    supervisor.wait_ready("blue", 30)
    pid = pid_of(supervisor)
    old = config.log.with_name(f"{config.log.name}.1")
    for _ in range(5):  # 5 times 170,000 bytes
        assert desk.ask(path, b"5000")[:2] == (200, "said")
        desk.until(lambda: config.log.stat().st_size <= BOUND)
        assert old.stat().st_size <= BOUND
    assert b" of a script that talks\n" in old.read_bytes()
    # What is said after the file was emptied is at its beginning: the process has it open for appending.
    assert desk.ask(path, b"3")[0] == 200
    desk.until(lambda: "line 00002" in supervisor.tail("blue", 50))
    assert b"\0" not in config.log.read_bytes()
    assert config.log.stat().st_mode & 0o777 == old.stat().st_mode & 0o777 == 0o600
    assert pid_of(supervisor) == pid and supervisor.status("blue").deaths == 0
