"""Subscriptions, resource groups and workspaces: what a client finds before it finds anything else.

A subscription and a resource group are there as long as they have a workspace: a new group is made with its
first one. The resources that accompany a workspace in Azure (key vault, Application Insights, registry) are
not made and not shown; its storage account is a part of it, made and deleted with it.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from flask import Blueprint, Response, jsonify, request
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import IntegrityError

from amlocal.compat import cloud
from amlocal.emulator.arm import workspace_actions, workspace_settings
from amlocal.emulator.arm.resource import json_body
from amlocal.emulator.arm.routes import WORKSPACE_RULE, workspace_of
from amlocal.emulator.http import guard, paging, versions
from amlocal.emulator.http.errors import AzureError, bad_request, not_found
from amlocal.emulator.services import Services
from amlocal.emulator.store.tables import resources
from amlocal.emulator.store.workspace import PROVIDER, Workspace

_KINDS = ("default", "hub", "project", "featurestore")
_GROUP_RULE = "/subscriptions/<subscription>/resourceGroups/<group>"
# What `delete_dependent_resources` deletes one by one before the workspace itself.
_DEPENDENT = (
    "Microsoft.Storage/storageAccounts",
    "Microsoft.KeyVault/vaults",
    "Microsoft.Insights/components",
    "Microsoft.ContainerRegistry/registries",
    "Microsoft.OperationalInsights/workspaces",
)


def storage_id(workspace: Workspace) -> str:
    """The ARM id of the workspace's own storage account."""
    return (
        f"/subscriptions/{workspace.subscription}/resourceGroups/{workspace.resource_group}"
        f"/providers/Microsoft.Storage/storageAccounts/{workspace.account}"
    )


def present(services: Services, workspace: Workspace, body: dict[str, Any]) -> dict[str, Any]:
    """The workspace as ARM shows it; `body` is what `Workspaces.body` gives."""
    base = services.settings.base_url
    properties = {
        "friendlyName": workspace.name,
        "description": "",
        "publicNetworkAccess": "Disabled",
        "managedNetwork": {"isolationMode": "Disabled"},
        **body.get("properties", {}),
    }
    return {
        "id": workspace.arm_id,
        "name": workspace.name,
        "type": f"{PROVIDER}/workspaces",
        "location": body.get("location", cloud.LOCATION),
        "kind": "Default",
        "sku": {"name": "Basic", "tier": "Basic"},
        "tags": body.get("tags", {}),
        "identity": {"type": "SystemAssigned", "principalId": workspace.id, "tenantId": cloud.TENANT_ID},
        "systemData": {"createdAt": body["createdAt"], "createdBy": "local user", "createdByType": "User"},
        "properties": {
            **properties,
            "provisioningState": "Succeeded",
            "workspaceId": workspace.id,
            "tenantId": cloud.TENANT_ID,
            "storageAccount": storage_id(workspace),
            "discoveryUrl": f"{base}/discovery{workspace.arm_id}",
            "mlFlowTrackingUri": f"{base}/mlflow/v1.0{workspace.arm_id}",
        },
    }


def create(
    services: Services, subscription: str, group: str, name: str, body: dict[str, Any]
) -> tuple[Workspace, bool]:
    """Make the workspace that `body` describes, or give an existing one these settings; whether it is new.

    Raises AzureError as `workspace_settings.kept`, 400 for names that Azure refuses; then nothing is stored.
    """
    known = services.workspaces
    found = known.find(subscription, group, name)
    if found is None:
        same = [w.subscription for w in known.all() if w.subscription.lower() == subscription.lower()]
        workspace_settings.check_new(subscription, name, bool(same))
        settings = workspace_settings.kept(body, name, None)
        found, created = known.create(subscription, group, name, settings)
        if created:
            return found, True
    workspace = found

    def changed(present_body: dict[str, Any]) -> dict[str, Any]:
        return workspace_settings.kept(body, workspace.name, present_body, account=storage_id(workspace))

    known.change(workspace, changed)
    return workspace, False


def create_blueprint(services: Services) -> Blueprint:
    """Routes of subscriptions, resource groups, workspaces and the discovery document."""
    blueprint = Blueprint("workspaces", __name__)
    known = services.workspaces

    def group_body(first: Workspace) -> dict[str, Any]:
        return {
            "id": f"/subscriptions/{first.subscription}/resourceGroups/{first.resource_group}",
            "name": first.resource_group,
            "type": "Microsoft.Resources/resourceGroups",
            "location": known.body(first).get("location", cloud.LOCATION),
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

    def listed(subscription: str, group: str | None = None) -> Response:
        versions.check()
        wanted = {w.id for w in members(subscription, group)}
        kinds = [kind.lower() for kind in request.args.get("kind", "").split(",") if kind]
        for kind in kinds:
            if kind not in _KINDS:
                raise bad_request(
                    "InvalidQueryParameter", f"kind={kind[:60]!r}: use {', '.join(_KINDS)}.", target="kind"
                )
        shown = [
            present(services, workspace, body)
            for workspace, body in known.described()
            if workspace.id in wanted and (not kinds or "default" in kinds)
        ]
        skip, top = paging.window()
        return jsonify(paging.page(services.settings.base_url, shown[skip : skip + top + 1], skip, top))

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
        first: dict[str, Workspace] = {}
        for workspace in members(subscription):
            first.setdefault(workspace.resource_group.lower(), workspace)
        return jsonify({"value": [group_body(first[name]) for name in sorted(first)]})

    @blueprint.get("/subscriptions/<subscription>/resourceGroups/<group>")
    def group(subscription: str, group: str) -> Response:
        return jsonify(group_body(members(subscription, group)[0]))

    @blueprint.get(f"/subscriptions/<subscription>/providers/{PROVIDER}/workspaces")
    def in_subscription(subscription: str) -> Response:
        return listed(subscription)

    @blueprint.get(f"/subscriptions/<subscription>/resourceGroups/<group>/providers/{PROVIDER}/workspaces")
    def in_group(subscription: str, group: str) -> Response:
        return listed(subscription, group)

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
        locations = {cloud.LOCATION} | {
            str(body.get("location", cloud.LOCATION)) for w, body in known.described() if w in found
        }
        if location.lower() not in locations:
            raise not_found(
                f"No workspace of this subscription is in {location[:60]!r}, but in: "
                f"{', '.join(sorted(locations))}.",
                code="LocationNotFound",
                target="location",
            )
        return found

    @blueprint.get(WORKSPACE_RULE)
    def get(**arguments: str) -> Response:
        workspace = workspace_of(services, arguments)
        return jsonify(present(services, workspace, known.body(workspace)))

    @blueprint.put(WORKSPACE_RULE)
    def put(subscription: str, group: str, workspace: str) -> Response:
        services.auth.require_user()
        versions.check()
        made, _ = create(services, subscription, group, workspace, json_body())
        return jsonify(present(services, made, known.body(made)))

    @blueprint.patch(WORKSPACE_RULE)
    def patch(**arguments: str) -> Response:
        workspace = workspace_of(services, arguments)
        body = json_body()
        own = storage_id(workspace)
        known.change(workspace, lambda now: workspace_settings.patched(now, body, workspace.name, own))
        return jsonify(present(services, workspace, known.body(workspace)))

    @blueprint.delete(WORKSPACE_RULE)
    def delete(**arguments: str) -> Response:
        return workspace_actions.delete(services, workspace_of(services, arguments))

    @blueprint.post(f"{WORKSPACE_RULE}/listKeys")
    def list_keys(**arguments: str) -> Response:
        # Storage takes tokens and shared access signatures, which datastores give; there is no account key.
        return jsonify({"userStorageArmId": storage_id(workspace_of(services, arguments))})

    @blueprint.post(f"{WORKSPACE_RULE}/resyncKeys")
    def resync_keys(**arguments: str) -> Response:
        # Nothing keeps a copy of a key, so all are in step.
        workspace_of(services, arguments)
        return Response(status=200)

    @blueprint.post(f"{WORKSPACE_RULE}/diagnose")
    def diagnose(**arguments: str) -> Response:
        return jsonify({"value": workspace_actions.diagnose(services, workspace_of(services, arguments))})

    @blueprint.app_errorhandler(IntegrityError)
    def removed_meanwhile(error: IntegrityError) -> Response:
        if "FOREIGN KEY" not in str(error.orig):
            raise error
        # The one foreign key there is: the workspace was deleted while this request wrote into it.
        return guard.render(not_found("The workspace has been deleted.", target="workspace"))

    @blueprint.route(
        f"{_GROUP_RULE}/providers/<namespace>/<kind>/<name>",
        methods=["GET", "PUT", "PATCH", "POST", "DELETE"],
    )
    def dependent(subscription: str, group: str, namespace: str, kind: str, name: str) -> Response:
        members(subscription, group)
        known_kind = f"{namespace}/{kind}".lower() in {one.lower() for one in _DEPENDENT}
        if request.method != "DELETE" or not known_kind:
            raise not_found(f"There is no resource {kind[:100]}/{name[:100]!r} in this resource group.")
        # None of them is a resource of its own here: a storage account goes with its workspace.
        return Response(status=204)

    @blueprint.get(f"/discovery{WORKSPACE_RULE}")
    def discovery(subscription: str, group: str, workspace: str) -> Response:
        # Sent without a token by the SDK; it tells nothing but our own address.
        known.get(subscription, group, workspace)
        base = services.settings.base_url
        planes = ("api", "history", "experimentation", "catalog", "modelmanagement", "pipelines", "studio")
        return jsonify(dict.fromkeys(planes, base))

    return blueprint
