"""Subscriptions, resource groups and workspaces: what a client finds before it finds anything else."""

from __future__ import annotations

import os
import shutil
from typing import Any

from flask import Blueprint, Response, jsonify
from sqlalchemy import Connection, func, select

from amlocal.compat import cloud
from amlocal.emulator.arm.routes import WORKSPACE_RULE, workspace_of
from amlocal.emulator.http import versions
from amlocal.emulator.http.errors import AzureError, not_found, not_there_yet
from amlocal.emulator.services import Services
from amlocal.emulator.store.tables import resources
from amlocal.emulator.store.workspace import PROVIDER, Workspace


def present(services: Services, workspace: Workspace) -> dict[str, Any]:
    """The workspace as ARM shows it."""
    base = services.settings.base_url
    tracking = f"{base}/mlflow/v1.0{workspace.arm_id}"
    storage = (
        f"/subscriptions/{workspace.subscription}/resourceGroups/{workspace.resource_group}"
        f"/providers/Microsoft.Storage/storageAccounts/{workspace.account}"
    )
    return {
        "id": workspace.arm_id,
        "name": workspace.name,
        "type": f"{PROVIDER}/workspaces",
        "location": cloud.LOCATION,
        "kind": "Default",
        "sku": {"name": "Basic", "tier": "Basic"},
        "tags": {},
        "identity": {"type": "SystemAssigned", "principalId": workspace.id, "tenantId": cloud.TENANT_ID},
        "properties": {
            "friendlyName": workspace.name,
            "description": "",
            "provisioningState": "Succeeded",
            "workspaceId": workspace.id,
            "tenantId": cloud.TENANT_ID,
            "storageAccount": storage,
            "discoveryUrl": f"{base}/discovery{workspace.arm_id}",
            "mlFlowTrackingUri": tracking,
            "publicNetworkAccess": "Disabled",
        },
    }


def create_blueprint(services: Services) -> Blueprint:
    """Routes of subscriptions, resource groups, workspaces and the discovery document."""
    blueprint = Blueprint("workspaces", __name__)
    known = services.workspaces

    def group_body(subscription: str, group: str) -> dict[str, Any]:
        return {
            "id": f"/subscriptions/{subscription}/resourceGroups/{group}",
            "name": group,
            "type": "Microsoft.Resources/resourceGroups",
            "location": cloud.LOCATION,
            "properties": {"provisioningState": "Succeeded"},
        }

    def subscription_body(subscription: str) -> dict[str, Any]:
        return {
            "id": f"/subscriptions/{subscription}",
            "subscriptionId": subscription,
            "displayName": "amlocal",
            "state": "Enabled",
            "tenantId": cloud.TENANT_ID,
        }

    def members(subscription: str, group: str | None = None) -> list[Workspace]:
        """Workspaces of a subscription (and group); 404 when it has none."""
        services.auth.require_user()
        found = [
            w
            for w in known.all()
            if w.subscription.lower() == subscription.lower()
            and (group is None or w.resource_group.lower() == group.lower())
        ]
        if not found:
            where = f"{subscription[:80]}/{group[:100]}" if group else subscription[:80]
            code = "ResourceGroupNotFound" if group else "SubscriptionNotFound"
            raise AzureError(
                404,
                code,
                f"{where} has no workspace on this server. "
                f"To add one run: amlocal workspace add {where}{'' if group else '/GROUP'}/NAME",
            )
        return found

    @blueprint.get("/subscriptions")
    def subscriptions() -> Response:
        services.auth.require_user()
        names = sorted({w.subscription for w in known.all()})
        return jsonify({"value": [subscription_body(name) for name in names]})

    @blueprint.get("/subscriptions/<subscription>")
    def subscription(subscription: str) -> Response:
        return jsonify(subscription_body(members(subscription)[0].subscription))

    @blueprint.get("/subscriptions/<subscription>/resourceGroups")
    def groups(subscription: str) -> Response:
        found = members(subscription)
        names = sorted({w.resource_group for w in found})
        return jsonify({"value": [group_body(found[0].subscription, name) for name in names]})

    @blueprint.get("/subscriptions/<subscription>/resourceGroups/<group>")
    def group(subscription: str, group: str) -> Response:
        workspace = members(subscription, group)[0]
        return jsonify(group_body(workspace.subscription, workspace.resource_group))

    @blueprint.get(f"/subscriptions/<subscription>/providers/{PROVIDER}/workspaces")
    def in_subscription(subscription: str) -> Response:
        return jsonify({"value": [present(services, w) for w in members(subscription)]})

    @blueprint.get(f"/subscriptions/<subscription>/resourceGroups/<group>/providers/{PROVIDER}/workspaces")
    def in_group(subscription: str, group: str) -> Response:
        return jsonify({"value": [present(services, w) for w in members(subscription, group)]})

    @blueprint.get(f"/subscriptions/<subscription>/providers/{PROVIDER}/locations/<location>/vmSizes")
    def sizes(subscription: str, location: str) -> Response:
        in_location(subscription, location)
        megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2
        size = {
            "name": "local",
            "family": "local",
            "vCPUs": os.cpu_count() or 1,
            "memoryGB": round(megabytes / 1024, 1),
            "osVhdSizeMB": 0,
            "maxResourceVolumeMB": shutil.disk_usage(services.folder.root).total // 1024**2,
            "lowPriorityCapable": False,
            "premiumIO": False,
            "supportedComputeTypes": ["AmlCompute", "ComputeInstance"],
        }
        return jsonify({"value": [size]})

    @blueprint.get(f"/subscriptions/<subscription>/providers/{PROVIDER}/locations/<location>/usages")
    def usages(subscription: str, location: str) -> Response:
        found = in_location(subscription, location)

        def count(c: Connection, kind: str) -> int:
            mine = resources.c.workspace_id.in_([w.id for w in found])
            query = select(func.count()).select_from(resources).where(mine, resources.c.kind == kind)
            return int(c.execute(query).scalar_one())

        made = services.store.read(lambda c: count(c, "computes"))
        # Azure's limit of -1 means that nothing but the machine itself sets one.
        usage = {
            "id": f"/subscriptions/{subscription}/providers/{PROVIDER}/locations/{location}/usages/clusters",
            "type": f"{PROVIDER}/usages",
            "unit": "Count",
            "currentValue": made,
            "limit": -1,
            "name": {"value": "Clusters", "localizedValue": "Computes made by users"},
        }
        return jsonify({"value": [usage]})

    def in_location(subscription: str, location: str) -> list[Workspace]:
        """The subscription's workspaces, all on this machine. Raises 404 for another location."""
        versions.check()
        found = members(subscription)
        if location.lower() != cloud.LOCATION.lower():
            raise not_found(
                f"The only location of this server is {cloud.LOCATION!r}, not {location[:60]!r}.",
                code="LocationNotFound",
                target="location",
            )
        return found

    @blueprint.get(WORKSPACE_RULE)
    def get(**arguments: str) -> Response:
        return jsonify(present(services, workspace_of(services, arguments)))

    @blueprint.route(WORKSPACE_RULE, methods=["PUT", "PATCH", "DELETE"])
    def change(**arguments: str) -> Response:
        workspace_of(services, arguments)
        raise not_there_yet("Changing or deleting a workspace through ARM")

    @blueprint.get(f"/discovery{WORKSPACE_RULE}")
    def discovery(**_: str) -> Response:
        # Sent without a token by the SDK; it tells nothing but our own address.
        base = services.settings.base_url
        planes = ("api", "history", "experimentation", "catalog", "modelmanagement", "pipelines", "studio")
        return jsonify(dict.fromkeys(planes, base))

    return blueprint
