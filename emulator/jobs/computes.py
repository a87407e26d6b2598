"""The computes that a job may name: those every workspace has, and those that its user made."""

from __future__ import annotations

import re

from sqlalchemy import Connection, select

from amlocal.emulator.http.errors import user_error
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.store.tables import resources
from amlocal.emulator.store.workspace import Workspace

SERVERLESS = "serverless"
GPU_CLUSTER = "gpu-cluster"
BUILT_IN = ("cpu-cluster", GPU_CLUSTER, SERVERLESS, "local")

_ARM_ID = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft\.MachineLearningServices"
    r"/workspaces/([^/]+)/computes/([^/]+)",
    re.IGNORECASE,
)


def available(connection: Connection, workspace: Workspace) -> list[str]:
    """The names of all computes of a workspace."""
    rows = connection.execute(
        select(resources.c.name)
        .where(resources.c.workspace_id == workspace.id, resources.c.kind == "computes")
        .order_by(resources.c.name)
    )
    made = [row.name for row in rows]
    return [*BUILT_IN, *(name for name in made if name.lower() not in BUILT_IN)]


def resolve(connection: Connection, workspace: Workspace, compute_id: str | None) -> str:
    """The name of the compute that `computeId` means: an ARM id, a name or azureml:name; none is serverless.

    Raises AzureError 400 naming those that exist.
    """
    if compute_id is None:
        return SERVERLESS
    name = compute_id.removeprefix("azureml:")
    if (match := _ARM_ID.fullmatch(name)) is not None:
        name = match[4]
        if "/".join(match.groups()[:3]).lower() != workspace.key:
            raise user_error(
                f"compute {shown(compute_id)} belongs to another workspace than {workspace.name}. "
                "Give the plain name of a compute of this workspace.",
                target="computeId",
            )
    known = available(connection, workspace)
    for candidate in known:
        if candidate.lower() == name.lower():
            return candidate
    raise user_error(
        f"compute {shown(name)} was not found in workspace {workspace.name}. "
        f"Computes that exist: {', '.join(known)}.",
        target="computeId",
    )
