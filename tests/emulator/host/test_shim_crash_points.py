"""The shim dies at each of its named points: its command runs at most once, and never unrecorded."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amlocal.emulator import crash_points
from amlocal.emulator.jobs.engines.local import SHIM, read_state

POINTS = sorted(point for point in crash_points.POINTS if point.startswith("shim."))
# What the engine makes of it; the command runs only after the record of its start is on disk.
EXPECTED = {
    "shim.claimed": ("lost", 0),
    "shim.forked": ("lost", 0),
    "shim.recorded": ("lost", 0),
    "shim.released": ("lost", 1),
    "shim.ended": ("lost", 1),
    "shim.reported": ("exited", 1),
}


@pytest.mark.parametrize("point", POINTS)
def test_the_command_runs_at_most_once(tmp_path: Path, point: str) -> None:
    job, mark = tmp_path / "job", tmp_path / "mark"
    job.mkdir()
    order = {
        "argv": ["/bin/sh", "-c", f"echo x >> {mark}"],
        "env": {"PATH": "/usr/bin:/bin"},
        "cwd": str(job),
        "stdout": str(job / "out"),
        "attempt": 1,
        "crash_at": point,
    }
    (job / "shim.json").write_text(json.dumps(order))
    argv = [sys.executable, "-I", "-S", str(SHIM), str(job)]
    assert subprocess.run(argv, timeout=30, check=False).returncode == -signal.SIGKILL
    state, starts = EXPECTED[point]
    deadline = time.monotonic() + (60 if starts else 0.3)
    while not (starts and mark.exists() and mark.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (mark.read_text() if mark.exists() else "") == "x\n" * starts
    assert read_state(job, 1).name == state
    # Nobody can start it again.
    again = subprocess.run(argv, timeout=30, check=False, capture_output=True, text=True)
    assert again.returncode == 76 and "never started twice" in again.stderr
    assert (mark.read_text() if mark.exists() else "") == "x\n" * starts


def test_every_point_is_in_the_registry_and_in_the_code() -> None:
    root = Path(crash_points.__file__).parent
    found: list[str] = []
    for path in root.rglob("*.py"):
        found += re.findall(r'(?:crash_points\.reach\(|die_at\(order, )"([a-z.]+)"\)', path.read_text())
    assert sorted(found) == sorted(crash_points.POINTS)
    assert set(EXPECTED) == set(POINTS)


def test_an_unknown_order_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = tmp_path / "order"
    order.write_text("write.made")
    monkeypatch.setattr(crash_points, "_order", str(order))
    crash_points.reach("asset.stored")
    assert order.exists() and crash_points.order_for_shim() is None
    with pytest.raises(LookupError, match=r"no\.such"):
        crash_points.reach("no.such")
    order.write_text("shim.forked")
    assert crash_points.order_for_shim() == "shim.forked"
    assert not order.exists() and crash_points.order_for_shim() is None
