"""The files that the end of a sweep leaves: its leaderboard, with pictures, and best_child_by_primary_metric.

None of them is worth a job: what cannot be written is told to the caller, for the log.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.sweeps import best_child, leaderboard
from amlocal.emulator.jobs.sweeps.leaderboard import Row
from amlocal.emulator.jobs.sweeps.plan import Plan, Played
from amlocal.emulator.jobs.sweeps.records import TABLE
from amlocal.emulator.jobs.tracking import METRICS
from amlocal.emulator.processes import clean_environment
from amlocal.emulator.store.folder import DataFolder, write_atomic
from amlocal.emulator.store.workspace import Workspace

PICTURES = Path("outputs") / "leaderboard"
DRAWER = (sys.executable, "-m", "amlocal.trainers", "leaderboard")
_LOG = logging.getLogger(__name__)
_MOST_SAID = 300


def write(
    folder: DataFolder,
    workspace: Workspace,
    plan: Plan,
    tree: Sequence[JobRecord],
    trials: Sequence[Played],
    best: Played | None,
    *,
    patience: float = 60.0,
    drawer: Sequence[str] = DRAWER,
) -> list[str]:
    """Write all of them, once the trials have ended; `tree` is the job's. Returns what could not be written.

    The leaderboard goes among the artifacts of the job, the table among those of the sweep. Waits at most
    `patience` seconds for the pictures, which a process of their own draws where there is more than one trial
    to compare. May be repeated: the files are replaced.
    """
    root = tree[0]
    sweep = next(run for run in tree if run.name == plan.sweep)
    runs = [run for run in tree if run.parent == sweep.name]
    folders = {run.name: folder.job(workspace.id, run.name) for run in runs}
    outputs = folder.artifacts(workspace.account, root.name)
    said = []
    try:
        found = leaderboard.rows(sweep, runs, folders)
        _put(folder, outputs / leaderboard.CSV, leaderboard.table(found))
        if best is not None:
            table = best_child.table(sweep, runs, final=best.name)
            _put(folder, folder.artifacts(workspace.account, sweep.name) / TABLE, json.dumps(table))
    except OSError as error:
        return [f"the leaderboard could not be written: {error}"]
    if len(found) > 1:
        spec = _spec(plan, root, found, trials, folders)
        try:
            _draw(folder, folder.job(workspace.id, root.name), outputs, spec, patience, drawer)
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            _LOG.warning("job %s: the leaderboard has no pictures: %s", root.name, error)
            said.append(f"the leaderboard's pictures could not be drawn: {error}")
    return said


def _put(folder: DataFolder, path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # A text of a client's may hold half a character.
    write_atomic(path, text.encode(errors="backslashreplace"), staging=folder.tmp)


def _spec(
    plan: Plan,
    root: JobRecord,
    found: Sequence[Row],
    trials: Sequence[Played],
    folders: Mapping[str, Path],
) -> dict[str, Any]:
    played = {trial.name: trial for trial in trials}
    listed = []
    for row in found:
        values = list(played[row.trial].values) if row.trial in played else []
        times = _times(folders[row.trial] / METRICS, plan.objective.metric)
        listed.append(
            {
                "trial": row.trial,
                "rank": row.rank,
                "status": row.status,
                "score": row.score,
                "parameters": dict(row.parameters),
                "values": values,
                "times": times if len(times) == len(values) else None,
            }
        )
    start = datetime.fromisoformat(root.started_at or root.created_at).timestamp()
    return {
        "job": root.display_name,
        "metric": plan.objective.metric,
        "maximize": plan.objective.maximize,
        "start": start * 1000.0,
        "trials": listed,
    }


def _times(path: Path, metric: str) -> list[float]:
    """When each value of a metric was logged, in ms since 1970."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
            if row["key"] == metric:
                found.append(float(row["timestamp"]))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _draw(
    folder: DataFolder,
    job_dir: Path,
    outputs: Path,
    spec: Mapping[str, Any],
    patience: float,
    drawer: Sequence[str],
) -> None:
    room = job_dir / "leaderboard"
    room.mkdir(parents=True, exist_ok=True, mode=0o700)
    order = room / "spec.json"
    write_atomic(order, json.dumps({**spec, "folder": str(room)}).encode())
    with (room / "log.txt").open("w+b") as log:
        done = subprocess.run(
            [*drawer, str(order)],
            env={**clean_environment(), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder.tmp)},
            cwd=room,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=patience,
            start_new_session=True,
            check=False,
        )
        log.seek(0)
        said = log.read().decode("utf-8", "replace").strip().splitlines()
    # Drawn apart from the artifacts, which clients list: a killed process leaves nothing half there.
    target = outputs / PICTURES
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    for picture in sorted(room.glob("*.png")):
        picture.replace(target / picture.name)
    if done.returncode != 0:
        raise RuntimeError((said[-1] if said else f"exit code {done.returncode}")[:_MOST_SAID])
