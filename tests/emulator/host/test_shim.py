"""The shim with real processes: whatever dies, the files tell the truth and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from living import gone

from amlocal.emulator import host

SHIM = Path(host.__file__).with_name("shim.py")


def until(condition: Callable[[], Any], seconds: float = 45.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shims: list[subprocess.Popen[bytes]] = []

    def start(self, *argv: str, attempt: int = 1, **more: Any) -> subprocess.Popen[bytes]:
        order = {
            "argv": list(argv),
            "env": {"PATH": os.environ["PATH"], "GREETING": "hello"},
            "cwd": str(self.folder),
            "stdout": str(self.folder / "out.txt"),
            "attempt": attempt,
            **more,
        }
        (self.folder / "shim.json").write_text(json.dumps(order))
        shim = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SHIM), str(self.folder)],
            start_new_session=True,
            stderr=(self.folder / "shim.log").open("ab"),
        )
        self.shims.append(shim)
        return shim

    def started(self, attempt: int = 1) -> dict[str, Any]:
        path = self.folder / f"attempt-{attempt}.started"
        until(lambda: path.exists() and path.read_text())
        return json.loads(path.read_text())

    def exit(self, attempt: int = 1) -> dict[str, Any]:
        path = self.folder / f"exit-{attempt}.json"
        until(path.exists)
        return json.loads(path.read_text())

    def output(self) -> str:
        path = self.folder / "out.txt"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for shim in bench.shims:
        shim.terminate()
        shim.wait(30)


def script(*lines: str) -> tuple[str, str, str]:
    return sys.executable, "-c", "\n".join(lines)


def test_outcome_output_and_environment(bench: Bench) -> None:
    shim = bench.start("sh", "-c", "echo $GREETING; echo bad >&2; pwd; cat; exit 3")
    report = bench.exit()
    assert shim.wait(60) == 0
    assert (report["attempt"], report["returncode"], report["signal"]) == (1, 3, None)
    assert not report["stopped"] and not report["timed_out"] and report["error"] is None
    assert bench.output() == f"hello\nbad\n{bench.folder}\n"


def test_identity_is_recorded_and_own_group(bench: Bench) -> None:
    bench.start("sh", "-c", "echo $$; sleep 60")
    identity = bench.started()
    pid = int(until(bench.output))
    assert identity["pid"] == pid == os.getpgid(pid)
    assert identity["shim_pid"] == bench.shims[0].pid == os.getsid(pid)
    stat = Path(f"/proc/{pid}/stat").read_text()
    assert identity["start_time"] == stat.rpartition(")")[2].split()[19]
    assert identity["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_killed_child_is_reported_by_its_signal(bench: Bench) -> None:
    bench.start("sleep", "60")
    os.kill(bench.started()["pid"], signal.SIGKILL)
    report = bench.exit()
    assert (report["returncode"], report["signal"], report["stopped"]) == (None, signal.SIGKILL, False)


def test_killed_before_it_could_execute(bench: Bench) -> None:
    """The pid is on disk before the command runs, so it can be killed in between."""
    for attempt in range(1, 6):
        shim = bench.start("sleep", "60", attempt=attempt)
        path = bench.folder / f"attempt-{attempt}.started"
        while not path.exists() or not (text := path.read_text()):
            pass
        os.kill(json.loads(text)["pid"], signal.SIGKILL)
        assert bench.exit(attempt)["signal"] == signal.SIGKILL
        assert shim.wait(60) == 0


def test_stop_lets_the_command_clean_up(bench: Bench) -> None:
    bench.start("sh", "-c", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")
    until(bench.output)
    os.kill(bench.shims[0].pid, signal.SIGTERM)
    report = bench.exit()
    assert (report["returncode"], report["stopped"], report["timed_out"]) == (7, True, False)
    assert bench.output().endswith("bye\n")


def test_stop_kills_what_ignores_it_after_the_grace(bench: Bench) -> None:
    ignoring = script(
        "import signal, time",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "print('up', flush=True)",
        "time.sleep(60)",
    )
    bench.start(*ignoring, grace=0.5)
    until(bench.output)
    begin = time.monotonic()
    os.kill(bench.shims[0].pid, signal.SIGTERM)
    report = bench.exit()
    assert 0.5 <= time.monotonic() - begin < 9  # without it: 10
    assert (report["signal"], report["stopped"]) == (signal.SIGKILL, True)


def test_timeout(bench: Bench) -> None:
    begin = time.monotonic()
    bench.start("sleep", "60", timeout=0.5)
    report = bench.exit()
    assert 0.5 <= time.monotonic() - begin < 45
    assert (report["timed_out"], report["stopped"], report["signal"]) == (True, False, signal.SIGTERM)


@pytest.mark.parametrize("escape", ["", "os.setsid()"])
def test_no_grandchild_survives_the_command(bench: Bench, escape: str) -> None:
    bench.start(
        *script(
            "import os, signal, sys, time",
            "if os.fork() == 0:",
            f"    {escape or 'pass'}",
            "    signal.signal(signal.SIGTERM, signal.SIG_IGN)",
            "    if os.fork() == 0:",
            "        print(os.getpid(), flush=True); time.sleep(60)",
            "    print(os.getpid(), flush=True); time.sleep(60)",
            "while sum(1 for _ in open('out.txt')) < 2: time.sleep(0.01)",
            "sys.exit(5)",
        ),
        grace=0.3,
    )
    report = bench.exit()
    pids = [int(line) for line in bench.output().split()]
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)
    assert (report["returncode"], report["stopped"]) == (5, False)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"argv": ["no-such-program-anywhere"]}, "cannot execute 'no-such-program-anywhere'"),
        ({"cwd": "/no/such/folder"}, "cannot enter the working folder '/no/such/folder'"),
        ({"stdout": "/no/such/folder/out.txt"}, "cannot open '/no/such/folder/out.txt'"),
    ],
)
def test_what_cannot_be_started_is_reported(bench: Bench, order: dict[str, Any], words: str) -> None:
    argv = order.pop("argv", ["true"])
    bench.start(*argv, **order)
    report = bench.exit()
    assert words in report["error"] and "No such file" in report["error"]
    assert report["returncode"] is None and report["signal"] is None
    assert bench.shims[0].wait(60) == 0


def test_an_attempt_is_never_started_twice(bench: Bench) -> None:
    bench.start("sh", "-c", "echo once")
    bench.exit()
    bench.shims[0].wait(60)
    (bench.folder / "exit-1.json").unlink()
    again = bench.start("sh", "-c", "echo twice")
    assert again.wait(60) == 76
    assert bench.output() == "once\n"
    assert not (bench.folder / "exit-1.json").exists()
    assert "never started twice" in (bench.folder / "shim.log").read_text()


def test_two_shims_at_once_start_one_command(bench: Bench) -> None:
    first = bench.start("sh", "-c", "echo once; sleep 60")
    bench.started()
    second = bench.start("sh", "-c", "echo once; sleep 60", attempt=2)
    assert second.wait(60) == 75
    assert first.poll() is None
    assert not (bench.folder / "attempt-2.started").exists()


def test_no_descriptor_of_the_shim_reaches_the_command(bench: Bench) -> None:
    """An inherited lock would look like a living shim for ever."""
    bench.start("sh", "-c", "ls -l /proc/self/fd")
    bench.exit()
    assert "lock" not in bench.output() and "pipe:" not in bench.output()


def test_default_signal_handling_is_restored(bench: Bench) -> None:
    bench.start(
        *script("print(next(x for x in open('/proc/self/status') if x.startswith('SigIgn')).split()[1])")
    )
    bench.exit()
    # Python ignores SIGPIPE and SIGXFSZ itself; SIGHUP and SIGINT, which the shim ignores, must not be there.
    assert int(bench.output(), 16) & (1 << (signal.SIGHUP - 1) | 1 << (signal.SIGINT - 1)) == 0
