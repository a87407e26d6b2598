"""Deployments of Resource Manager templates: the way in which azure-ai-ml makes a workspace.

Of a template's resources exactly the workspace is made. A storage account, key vault, Application Insights
and Log Analytics resource that the template would make beside it are passed over: the workspace needs none of
them here, and the deployment does not list them. Any other resource is refused by its type.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, jsonify
from sqlalchemy import Connection

from amlocal.compat import cloud
from amlocal.emulator.arm import documents, workspaces
from amlocal.emulator.arm.arm_expressions import Scope, invalid
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import json_body
from amlocal.emulator.arm.workspace_settings import check_kind
from amlocal.emulator.http import versions
from amlocal.emulator.http.errors import bad_request, not_found, not_there_yet
from amlocal.emulator.services import Services
from amlocal.emulator.store.workspace import PROVIDER, Workspace

KIND = "Microsoft.Resources/deployments"
_GROUP = "/subscriptions/<subscription>/resourceGroups/<group>"
_NAME = re.compile(r"[\w.()-]{1,64}\Z", re.ASCII)
_WORKSPACE = f"{PROVIDER}/workspaces"
_MOST_RESOURCES = 800
# What accompanies a workspace, and the setting of the workspace that names it.
_PASSED_OVER = {
    "microsoft.storage/storageaccounts": "storageAccount",
    "microsoft.keyvault/vaults": "keyVault",
    "microsoft.insights/components": "applicationInsights",
    "microsoft.operationalinsights/workspaces": None,
}


def workspace_of_template(
    properties: Mapping[str, Any], subscription: str, group: str
) -> tuple[str, dict[str, Any]]:
    """(name, ARM body) of the one workspace that the deployment `properties` describe.

    Raises AzureError: 400 for what Resource Manager would refuse, 501 for what amlocal cannot make.
    """
    if str(properties.get("mode") or "Incremental").lower() != "incremental":
        raise not_there_yet("A deployment in complete mode")
    for link in ("templateLink", "parametersLink", "onErrorDeployment"):
        if properties.get(link):
            raise not_there_yet(f"A deployment's {link}")
    template = properties.get("template")
    if not isinstance(template, dict):
        raise invalid("The deployment lacks `properties.template`.")
    scope = _scope(template, properties.get("parameters") or {}, subscription, group)
    listed = template.get("resources")
    if not isinstance(listed, list) or len(listed) > _MOST_RESOURCES:
        raise invalid(f"`template.resources` must be a list of at most {_MOST_RESOURCES} resources.")
    wanted = [resource for resource in listed if _wanted(resource, scope)]
    found = [resource for resource in wanted if resource["type"].lower() == _WORKSPACE.lower()]
    # Before what a hub or feature store needs beside it, so that the refusal names the thing itself.
    for resource in found:
        check_kind(scope.value(resource.get("kind")))
    beside = _beside(wanted, scope)
    if len(found) != 1:
        raise invalid(f"The template makes {len(found)} workspaces ({_WORKSPACE}); it must make one.")
    name = scope.value(found[0].get("name"))
    if not isinstance(name, str):
        raise invalid("The workspace's `name` must be a text.")
    _check_children(found[0], scope)
    body = {key: scope.value(found[0].get(key)) for key in ("location", "kind", "tags", "identity")}
    inner = scope.value(found[0].get("properties") or {})
    if not isinstance(inner, dict):
        raise invalid("The workspace's `properties` must be an object.")
    for setting, identity in beside.items():
        if str(inner.get(setting) or "").lower().endswith(identity):
            del inner[setting]
    return name, {**body, "properties": inner}


def _scope(template: Mapping[str, Any], given: Any, subscription: str, group: str) -> Scope:
    declared, variables = template.get("parameters") or {}, template.get("variables") or {}
    if not all(isinstance(values, dict) for values in (declared, variables, given)):
        raise invalid("`parameters` and `variables` must be objects.")
    values: dict[str, Any] = {}
    rules: dict[str, Any] = {}
    for name, rule in declared.items():
        if not isinstance(rule, dict):
            raise invalid(f"The parameter {name[:60]!r} is not declared by an object.")
        rules[name.lower()] = rule
        if "defaultValue" in rule:
            values[name.lower()] = rule["defaultValue"]
    for name, holder in given.items():
        if name.lower() not in rules:
            raise invalid(f"The template has no parameter {name[:60]!r}.")
        if not isinstance(holder, dict) or "value" not in holder:
            raise invalid(f"The parameter {name[:60]!r} lacks its `value`.")
        value = holder["value"]
        allowed = rules[name.lower()].get("allowedValues")
        # Null stands for a parameter that is not given.
        if value is not None and isinstance(allowed, list) and value not in allowed:
            # azure-ai-ml may send an enum's repr: PublicNetworkAccessType.DISABLED.
            ending = str(value).rpartition(".")[2].lower()
            value = next((one for one in allowed if str(one).lower() == ending), None)
        if value is None and holder["value"] is not None:
            raise invalid(
                f"The parameter {name[:60]!r} is {str(holder['value'])[:60]!r}: use one of {allowed}."
            )
        # A client's value is never an expression.
        values[name.lower()] = _plain(value)
    return Scope(
        values,
        {name.lower(): value for name, value in variables.items()},
        {
            "subscriptionId": subscription,
            "id": f"/subscriptions/{subscription}",
            "tenantId": cloud.TENANT_ID,
        },
        {"name": group, "id": f"/subscriptions/{subscription}/resourceGroups/{group}"},
    )


def _plain(value: Any, depth: int = 0) -> Any:
    if depth > 40:
        raise invalid("A parameter's value is nested too deeply.")
    if isinstance(value, str):
        return f"[{value}" if value.startswith("[") and value.endswith("]") else value
    if isinstance(value, dict):
        return {key: _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, depth + 1) for inner in value]
    return value


def _wanted(resource: Any, scope: Scope) -> bool:
    if not isinstance(resource, dict) or not isinstance(resource.get("type"), str):
        raise invalid("A resource of the template lacks its `type`.")
    if resource.get("copy"):
        raise not_there_yet("Copies in a template")
    condition = scope.value(resource.get("condition", True))
    if not isinstance(condition, bool):
        raise invalid("The `condition` of a resource must be true or false.")
    return condition


def _beside(wanted: Sequence[Mapping[str, Any]], scope: Scope) -> dict[str, str]:
    """By setting of the workspace: the end of the ARM id of what the template would make for it."""
    found: dict[str, str] = {}
    for resource in wanted:
        kind = resource["type"].lower()
        if kind == _WORKSPACE.lower():
            continue
        if kind not in _PASSED_OVER:
            raise not_there_yet(f"A template's resource of type {resource['type'][:100]}")
        setting = _PASSED_OVER[kind]
        if setting is not None:
            found[setting] = f"/{kind}/{scope.value(resource.get('name'))}".lower()
    return found


def _check_children(resource: Mapping[str, Any], scope: Scope) -> None:
    children = resource.get("resources") or []
    if not isinstance(children, list):
        raise invalid("The workspace's `resources` must be a list.")
    for child in children:
        if _wanted(child, scope):
            raise not_there_yet(f"A template's {child['type'][:60]} below a workspace")


def create_blueprint(services: Services) -> Blueprint:
    """Routes of a resource group's deployments and of the operations in them."""
    blueprint = Blueprint("deployments", __name__)

    def checked(name: str) -> None:
        services.auth.require_user()
        versions.check()
        if not _NAME.match(name):
            raise bad_request(
                "InvalidDeploymentName",
                f"{name[:100]!r} is not a valid name of a deployment: 1 to 64 letters, digits, '-', '_', "
                "'.', '(' and ')'.",
                target="deploymentName",
            )

    def find(subscription: str, group: str, name: str) -> tuple[Workspace, Document]:
        """A deployment is kept with the workspace that it made, and goes with it."""
        checked(name)

        def read(c: Connection) -> tuple[Workspace, Document] | None:
            for workspace in near:
                document = documents.get(c, workspace.id, KIND, name)
                if document is not None:
                    return workspace, document
            return None

        place = (subscription.lower(), group.lower())
        near = [
            w
            for w in services.workspaces.all()
            if (w.subscription.lower(), w.resource_group.lower()) == place
        ]
        found = services.store.read(read)
        if found is None:
            raise not_found(
                f"Deployment {name!r} does not exist in resource group {group[:100]!r}.",
                code="DeploymentNotFound",
            )
        return found

    @blueprint.put(f"{_GROUP}/providers/Microsoft.Resources/deployments/<name>")
    def put(subscription: str, group: str, name: str) -> tuple[Response, int]:
        checked(name)
        begun = datetime.now(UTC)
        properties = json_body().get("properties")
        if not isinstance(properties, dict):
            raise invalid("The body lacks `properties`.")
        workspace_name, body = workspace_of_template(properties, subscription, group)
        workspace, created = workspaces.create(services, subscription, group, workspace_name, body)
        ended = datetime.now(UTC)
        kept = {
            "properties": {
                "provisioningState": "Succeeded",
                "mode": "Incremental",
                "timestamp": ended.isoformat(),
                "duration": f"PT{(ended - begun).total_seconds():.3f}S",
                "correlationId": str(uuid.uuid4()),
                "outputResources": [{"id": workspace.arm_id}],
            },
            "created": created,
        }
        document, new = services.store.write(lambda c: documents.put(c, workspace.id, KIND, name, "", kept))
        return jsonify(_shown(workspace, document)), 201 if new else 200

    @blueprint.get(f"{_GROUP}/providers/Microsoft.Resources/deployments/<name>")
    def get(subscription: str, group: str, name: str) -> Response:
        return jsonify(_shown(*find(subscription, group, name)))

    @blueprint.get(f"{_GROUP}/deployments/<name>/operations")
    def operations(subscription: str, group: str, name: str) -> Response:
        workspace, document = find(subscription, group, name)
        told = document.properties
        operation = {
            "id": f"{_identity(workspace, document)}/operations/{told['correlationId']}",
            "operationId": told["correlationId"],
            "properties": {
                "provisioningOperation": "Create",
                "provisioningState": told["provisioningState"],
                "timestamp": told["timestamp"],
                "duration": told["duration"],
                "statusCode": "Created" if document.body["created"] else "OK",
                "targetResource": {
                    "id": workspace.arm_id,
                    "resourceType": _WORKSPACE,
                    "resourceName": workspace.name,
                },
            },
        }
        return jsonify({"value": [operation]})

    return blueprint


def _identity(workspace: Workspace, document: Document) -> str:
    return (
        f"/subscriptions/{workspace.subscription}/resourceGroups/{workspace.resource_group}"
        f"/providers/{KIND}/{document.name}"
    )


def _shown(workspace: Workspace, document: Document) -> dict[str, Any]:
    return {
        "id": _identity(workspace, document),
        "name": document.name,
        "type": KIND,
        "properties": document.properties,
    }
