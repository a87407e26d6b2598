"""The leaderboard of a sweep as a page shows it, while it goes on and afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amlocal.emulator.history import logs
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.sweeps import leaderboard
from amlocal.emulator.jobs.sweeps.end import PICTURES
from amlocal.emulator.jobs.sweeps.leaderboard import CSV, Row
from amlocal.emulator.jobs.sweeps.records import MOST_TRIALS
from amlocal.emulator.services import Services
from amlocal.emulator.store.workspace import Workspace

_MOST_ROWS = 200


@dataclass(frozen=True)
class Board:
    """`name` is the sweep's, `planned` the most trials that it may have, `shown` the first rows of `count`.

    `pictures` and `csv` are addresses; "" for a file that is not there.
    """

    name: str
    metric: str
    goal: str
    planned: str
    count: int
    shown: Sequence[Row]
    parameters: Sequence[str]
    pictures: Sequence[str]
    csv: str


def read(
    services: Services, workspace: Workspace, tree: Sequence[JobRecord], record: JobRecord
) -> Board | None:
    """The leaderboard on the page of a job or its sweep; None on other pages and before the first trial."""
    sweep = next((run for run in tree if run.kind == "sweep"), None)
    if sweep is None or record.name not in (tree[0].name, sweep.name):
        return None
    trials = [run for run in tree if run.parent == sweep.name]
    if not trials:
        return None
    folders = {run.name: services.folder.job(workspace.id, run.name) for run in trials}
    rows = leaderboard.rows(sweep, trials, folders)
    root = tree[0].name
    outputs = services.folder.artifacts(workspace.account, root)
    pictures = sorted((outputs / PICTURES).glob("*.png")) if (outputs / PICTURES).is_dir() else []
    links = [
        logs.link(services, workspace, root, path.relative_to(outputs).as_posix())
        for path in pictures
        if path.is_file() and not path.is_symlink()
    ]
    return Board(
        name=sweep.name,
        metric=leaderboard.metric(sweep),
        goal="maximize" if leaderboard.maximizes(sweep) else "minimize",
        planned=sweep.tags.get(MOST_TRIALS, ""),
        count=len(rows),
        shown=rows[:_MOST_ROWS],
        parameters=leaderboard.parameters(rows),
        pictures=links,
        csv=logs.link(services, workspace, root, CSV.as_posix()) if (outputs / CSV).is_file() else "",
    )


def cell(value: Any) -> str:
    """A hyperparameter's value for the page."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    return value if isinstance(value, str) else json.dumps(value)
