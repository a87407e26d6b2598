"""What is done with a whole workspace: deleting it and diagnosing it."""

from __future__ import annotations

import logging
import shutil
import threading
import time

from flask import Response
from sqlalchemy import Connection, select

from amlocal.compat import cloud
from amlocal.emulator.arm import documents
from amlocal.emulator.endpoints.deployment_records import DEPLOYMENTS
from amlocal.emulator.http.errors import AzureError, conflict
from amlocal.emulator.jobs.inputs import containers
from amlocal.emulator.jobs.states import TERMINAL
from amlocal.emulator.services import Services
from amlocal.emulator.store import removal
from amlocal.emulator.store.tables import jobs
from amlocal.emulator.store.workspace import Workspace
from amlocal.emulator.store.workspaces import key_of

log = logging.getLogger("amlocal.workspaces")

_LITTLE_SPACE = 1024**3
_TRIES = 5
_CHECKS = (
    "userDefinedRouteResults",
    "networkSecurityRuleResults",
    "resourceLockResults",
    "dnsResolutionResults",
    "storageAccountResults",
    "keyVaultResults",
    "containerRegistryResults",
    "applicationInsightsResults",
    "otherResults",
)


def delete(services: Services, workspace: Workspace) -> Response:
    """Remove the workspace with its records, blobs and job folders; always for good, as by a purge.

    Azure would also end what still runs. Here a workspace that works is refused, since nothing can be brought
    back: 409 names its unfinished jobs or online deployments. The workspace that every server has stays.
    Folders that are mounted stay as they are. MLflow's own rows of it are out of reach from then on
    (see `store/removal.py`).
    """
    if workspace.key == key_of(cloud.SUBSCRIPTION_ID, cloud.RESOURCE_GROUP, cloud.WORKSPACE):
        raise conflict(
            f"The workspace {workspace.name!r} is the one that every amlocal server has: it stays."
        )
    removal.announce(services.folder, workspace)
    try:
        services.workspaces.remove(workspace, lambda c: _check_idle(c, workspace))
    except AzureError as error:
        if error.status == 409:
            removal.withdraw(services.folder, workspace)
        raise
    services.mounts.forget()
    services.deployments.publish()
    operation = services.operations.start(workspace.arm_id)
    threading.Thread(
        target=_remove_folders, args=(services, workspace, operation), name="removal", daemon=True
    ).start()
    return Response(status=202, headers=services.operations.headers(operation, location=True))


def _check_idle(c: Connection, workspace: Workspace) -> None:
    """Raises 409 while a job or an online deployment of the workspace is there to be ended first."""
    query = select(jobs.c.name).where(
        jobs.c.workspace_id == workspace.id,
        jobs.c.parent.is_(None),
        jobs.c.state.not_in([state.value for state in TERMINAL]),
    )
    unfinished = [row.name for row in c.execute(query.order_by(jobs.c.sequence).limit(6))]
    if unfinished:
        raise conflict(
            f"The workspace {workspace.name!r} has unfinished jobs ({_some(unfinished)}). "
            "Cancel them or wait for them, then delete it.",
            target="workspace",
        )
    deployments = [document.name for document in documents.listing(c, workspace.id, DEPLOYMENTS, limit=6)]
    if deployments:
        raise conflict(
            f"The workspace {workspace.name!r} has online deployments ({_some(deployments)}). "
            "Delete their endpoints first.",
            target="workspace",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _remove_folders(services: Services, workspace: Workspace, operation: str) -> None:
    for attempt in range(_TRIES):
        try:
            removal.finish(services.folder, workspace.id, workspace.account)
        except OSError as error:  # something may still have been writing there
            if attempt + 1 == _TRIES:
                log.error("folders of workspace %s are left until the next start: %s", workspace.name, error)
                services.operations.fail(
                    operation, "FoldersNotRemoved", f"The next start removes what is left ({error.strerror})."
                )
            else:
                time.sleep(0.2)
        else:
            services.operations.succeed(operation)
            return


def diagnose(services: Services, workspace: Workspace) -> dict[str, list[dict[str, str]]]:
    """What is wrong with the workspace's storage on this machine, as lists by Azure's kinds of checks.

    There is no network, key vault or registry that could be at fault: those lists are empty.
    """
    found: dict[str, list[dict[str, str]]] = {check: [] for check in _CHECKS}
    for datastore, container in containers(workspace).items():
        try:
            services.blobs.container_identity(workspace.account, container)
        except AzureError as error:
            found["storageAccountResults"].append(
                {
                    "code": error.code,
                    "level": "Error",
                    "message": f"The container {container!r} of datastore {datastore} cannot be read: "
                    f"{error.message} A restart of the server makes it again, empty.",
                }
            )
    free = shutil.disk_usage(services.folder.root).free
    if free < _LITTLE_SPACE:
        found["otherResults"].append(
            {
                "code": "LowDiskSpace",
                "level": "Warning",
                "message": f"{free // 1024**2} MiB are free on the disk of {services.folder.root}.",
            }
        )
    return found
