"""The launcher under the real shim: several processes of one job, and what is left of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amlocal.emulator.jobs import distribution
from amlocal.emulator.jobs.engines.base import EngineJob, ExitReport
from amlocal.emulator.jobs.engines.local import LocalEngine


def process(command: str, log: Path | None = None, awaited: bool = True, **env: str) -> dict[str, Any]:
    argv = ["/bin/bash", "-c", command]
    return {
        "name": f"process {env.get('RANK', '?')}", "argv": argv, "env": env, "log": log and str(log),
        "awaited": awaited,
    }  # fmt: skip


def start(folder: Path, processes: list[dict[str, Any]], ports: int = 1, grace: float = 0.5) -> LocalEngine:
    folder.mkdir()
    (folder / distribution.ORDER).write_text(json.dumps({"ports": ports, "processes": processes}))
    engine = LocalEngine()
    engine.submit(
        EngineJob(
            job_dir=folder,
            argv=distribution.argv(folder),
            env={"PATH": os.environ["PATH"]},
            cwd=folder,
            stdout=folder / "out.txt",
            grace=grace,
        )
    )
    return engine


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


def report(engine: LocalEngine, folder: Path) -> ExitReport:
    found = until(lambda: engine.state(folder, 1).report)
    assert left(folder) == []
    return found  # type: ignore[no-any-return]


def left(folder: Path) -> list[int]:
    """Processes that carry the mark of the attempt."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"{folder}:1".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_all_end_well(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    logs = [tmp_path / f"log{rank}" for rank in range(3)]
    processes = [
        process('echo "$RANK $P $Q"', logs[rank], RANK=str(rank), P="@port0@", Q="x:@port11@")
        for rank in range(3)
    ]
    assert report(start(folder, processes, ports=12), folder).returncode == 0
    said = [log.read_text().split() for log in logs]
    assert [line[0] for line in said] == ["0", "1", "2"]
    assert len({(line[1], line[2]) for line in said}) == 1
    assert said[0][2].startswith("x:") and int(said[0][1]) != int(said[0][2][2:])
    assert (folder / "out.txt").read_text() == ""


def test_one_that_fails_ends_all(tmp_path: Path) -> None:
    folder, log = tmp_path / "job", tmp_path / "log1"
    processes = [
        process("trap '' TERM; setsid sleep 607 & sleep 607; sleep 607", RANK="0"),
        process("echo the reason; exit 7", log, RANK="1"),
    ]
    found = report(start(folder, processes), folder)
    assert (found.returncode, found.signal) == (7, None)
    said = (folder / "out.txt").read_text()
    assert "process 1 ended with exit code 7, so all processes" in said and said.endswith("the reason\n")


def test_one_that_is_killed_ends_all_by_its_signal(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    processes = [process("sleep 608", RANK="0"), process("kill -9 $$", RANK="1")]
    found = report(start(folder, processes), folder)
    assert (found.returncode, found.signal) == (None, 9)
    assert "process 1 was killed by signal 9" in (folder / "out.txt").read_text()


def test_servers_end_with_the_workers(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    processes = [process("true", RANK="0"), process("sleep 609", RANK="1", awaited=False)]
    assert report(start(folder, processes), folder).returncode == 0


def test_a_server_that_fails_ends_all(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    processes = [process("sleep 610", RANK="0"), process("exit 4", RANK="1", awaited=False)]
    assert report(start(folder, processes), folder).returncode == 4


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    missing = {**process("", RANK="1"), "argv": ["/no/such/program"]}
    assert report(start(folder, [process("sleep 611", RANK="0"), missing]), folder).returncode == 127
    assert "process 1 cannot be started" in (folder / "out.txt").read_text()


def test_cancel_ends_every_process(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    command = "trap '' TERM; touch ready$RANK; sleep 612 & setsid sleep 612 & while true; do sleep 612; done"
    engine = start(folder, [process(command, RANK=str(rank)) for rank in range(3)])
    until(lambda: all((folder / f"ready{rank}").exists() for rank in range(3)))
    assert len(left(folder)) >= 4
    engine.cancel(folder, 1)
    found = report(engine, folder)
    assert found.stopped


def test_a_link_is_no_log(tmp_path: Path) -> None:
    folder, target = tmp_path / "job", tmp_path / "target"
    (tmp_path / "link").symlink_to(target)
    assert report(start(folder, [process("echo x", tmp_path / "link", RANK="0")]), folder).returncode == 127
    assert not target.exists()
