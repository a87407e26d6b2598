"""The computes that a job may name: those every workspace has, and those that its user made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, tuple_

from amlocal.emulator.http.errors import user_error
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.store.tables import resources
from amlocal.emulator.store.workspace import Workspace

SERVERLESS = "serverless"
GPU_CLUSTER = "gpu-cluster"
BUILT_IN = ("cpu-cluster", GPU_CLUSTER, SERVERLESS, "local")
DEVICE = "amlocal.device"
"""The tag that says on what a job really runs, where that is not what was asked for."""

_ARM_ID = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft\.MachineLearningServices"
    r"/workspaces/([^/]+)/computes/([^/]+)",
    re.IGNORECASE,
)
# Azure's sizes with an accelerator are those of the N family.
_GPU_SIZE = re.compile(r"(?:standard_)?n[cdvg]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a compute bounds, beside the slots of this host.

    `nodes`: how many nodes all its jobs may have at once, `most` those of one job; None is no bound.
    """

    nodes: int | None = None
    most: int | None = None
    stopped: bool = False
    gpu: bool = False


def limits(connection: Connection, places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Limits]:
    """The limits of each (workspace id, compute). Those that nobody made know none but this host's."""
    asked = set(places)
    lower = func.lower(resources.c.name)
    rows = connection.execute(
        select(resources.c.workspace_id, lower.label("name"), resources.c.body).where(
            resources.c.kind == "computes",
            tuple_(resources.c.workspace_id, lower).in_([(where, name.lower()) for where, name in asked]),
        )
    )
    made = {(row.workspace_id, row.name): json.loads(row.body) for row in rows}
    return {place: _of(place[1], made.get((place[0], place[1].lower()), {})) for place in asked}


def check(
    connection: Connection,
    workspace: Workspace,
    compute: str,
    instances: int,
    field: str = "resources.instance_count",
) -> None:
    """Raises AzureError 400 when a job takes more nodes than its compute can ever have.

    `field` is what says how many it takes.
    """
    limit = limits(connection, [(workspace.id, compute)])[workspace.id, compute]
    if limit.most is not None and instances > limit.most:
        raise user_error(
            f"{field} is {instances} and compute {compute} has at most {limit.most} "
            f"node{'' if limit.most == 1 else 's'}. Ask for fewer instances, or give the cluster a larger "
            "max_instances.",
            target="resources.instanceCount" if field == "resources.instance_count" else field,
        )


def _of(name: str, body: dict[str, Any]) -> Limits:
    properties = body.get("properties") or {}
    inner = properties.get("properties") or {}
    kind = properties.get("computeType")
    gpu = name.lower() == GPU_CLUSTER or _GPU_SIZE.match(str(inner.get("vmSize"))) is not None
    if kind == "ComputeInstance":
        # One node, which runs several small jobs side by side as Azure's does: the host's slots bound them.
        return Limits(most=1, stopped=inner.get("state") == "Stopped", gpu=gpu)
    if kind != "AmlCompute":
        return Limits(gpu=gpu)
    nodes = (inner.get("scaleSettings") or {}).get("maxNodeCount", 1)
    return Limits(nodes=nodes, most=nodes, gpu=gpu)


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
