"""The log files of a run, and the links under which clients read them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from amlocal.emulator.jobs import records
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.sweeps.log import HYPERDRIVE_LOG
from amlocal.emulator.jobs.sweeps.records import MOST_TRIALS
from amlocal.emulator.services import Services
from amlocal.emulator.store.folder import ARTIFACT_CONTAINER
from amlocal.emulator.store.workspace import Workspace

USER_LOG = "user_logs/std_log.txt"
_FOLDERS = ("user_logs", "system_logs", "logs", "azureml-logs")
_MOST = 1000
_LINK_LIFETIME = timedelta(hours=24)


def teller(services: Services, record: JobRecord) -> tuple[JobRecord, str]:
    """The run and the file that tell a job's story.

    Of a sweep that is its own log, once it is to have several trials; of an AutoML job with one trial, and of
    the sweep between them, the trial's.
    """

    def below(run: JobRecord) -> list[JobRecord]:
        return services.store.read(lambda c: records.children(c, run.workspace_id, run.name))

    run = record
    if run.kind == "automl":
        run = next(iter(below(run)), run)
    if run.kind != "sweep":
        return run, USER_LOG
    if run.parent is None or run.tags.get(MOST_TRIALS, "1") != "1":
        return run, HYPERDRIVE_LOG.as_posix()
    return next(iter(below(run)), record), USER_LOG


def files(folder: Path) -> list[str]:
    """Paths of log files below a run's artifact folder, relative to it; links are not followed."""
    found: list[str] = []
    for top in _FOLDERS:
        for directory, _, names in os.walk(folder / top):
            for name in sorted(names):
                path = Path(directory) / name
                if path.is_file() and not path.is_symlink():
                    found.append(path.relative_to(folder).as_posix())
                if len(found) >= _MOST:
                    return found
    return found


def links(services: Services, workspace: Workspace, record: JobRecord) -> dict[str, str]:
    """`logFiles` of a run's details: path -> absolute URL that needs no further sign-in, valid for a day."""
    found = {
        path: link(services, workspace, record.name, path)
        for path in files(services.folder.artifacts(workspace.account, record.name))
    }
    run, path = teller(services, record)
    told = (services.folder.artifacts(workspace.account, run.name) / path).is_file()
    # Of an AutoML job clients stream this name only, so here it may stand for its sweep's log.
    if told and run.name != record.name and USER_LOG not in found:
        found[USER_LOG] = link(services, workspace, run.name, path)
    return found


def link(services: Services, workspace: Workspace, run_id: str, path: str) -> str:
    """An address of one of a run's artifacts that needs no further sign-in, valid for a day."""
    blob = f"ExperimentRun/dcid.{run_id}/{path}"
    until = datetime.now(UTC) + _LINK_LIFETIME
    query = services.sas.sign(workspace.account, ARTIFACT_CONTAINER, "r", until, blob=blob)
    return f"{services.settings.base_url}/{workspace.account}/{ARTIFACT_CONTAINER}/{quote(blob)}?{query}"
