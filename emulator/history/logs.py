"""The log files of a run, and the links under which clients read them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from amlocal.emulator.jobs import records
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.services import Services
from amlocal.emulator.store.folder import ARTIFACT_CONTAINER
from amlocal.emulator.store.workspace import Workspace

USER_LOG = "user_logs/std_log.txt"
_FOLDERS = ("user_logs", "system_logs", "logs", "azureml-logs")
_MOST = 1000
_LINK_LIFETIME = timedelta(hours=24)


def log_run(services: Services, record: JobRecord) -> JobRecord:
    """The run whose user log tells a job's story: for an AutoML job or a sweep, that of its first trial."""
    found = record
    while found.kind in ("automl", "sweep"):
        current = found
        below = services.store.read(lambda c, r=current: records.children(c, r.workspace_id, r.name))  # type: ignore[misc]
        if not below:
            return record
        found = below[0]
    return found


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
        path: _link(services, workspace, record.name, path)
        for path in files(services.folder.artifacts(workspace.account, record.name))
    }
    teller = log_run(services, record)
    told = (services.folder.artifacts(workspace.account, teller.name) / USER_LOG).is_file()
    if told and teller.name != record.name and USER_LOG not in found:
        found[USER_LOG] = _link(services, workspace, teller.name, USER_LOG)
    return found


def _link(services: Services, workspace: Workspace, run_id: str, path: str) -> str:
    blob = f"ExperimentRun/dcid.{run_id}/{path}"
    until = datetime.now(UTC) + _LINK_LIFETIME
    query = services.sas.sign(workspace.account, ARTIFACT_CONTAINER, "r", until, blob=blob)
    return f"{services.settings.base_url}/{workspace.account}/{ARTIFACT_CONTAINER}/{quote(blob)}?{query}"
