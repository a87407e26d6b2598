"""What a workspace can be given: checked, completed and kept; the rest of Azure's settings refused by name.

Names and values: WorkspaceProperties of the Azure Machine Learning REST API. Templates write booleans as
texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from amlocal.compat import cloud
from amlocal.emulator.arm.merging import merge
from amlocal.emulator.arm.resource import checked
from amlocal.emulator.http.errors import AzureError, bad_request, conflict, not_there_yet

# Azure's own rules for what is made through Resource Manager.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,32}\Z", re.ASCII)
GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_LOCATION = re.compile(r"[a-z0-9]{2,40}\Z")
_ACCESS = {"enabled": "Enabled", "disabled": "Disabled"}
_MODES = {mode.lower(): mode for mode in ("accessKey", "identity", "userDelegationSAS")}
_TEXTS = {"friendlyName": 255, "description": 5000, "imageBuildCompute": 1000}
# Set to something in these, a workspace would need what one machine does not have.
_REFUSED = {
    "keyVault": "A workspace with a key vault of one's own",
    "applicationInsights": "A workspace with an Application Insights resource of one's own",
    "containerRegistry": "A workspace with a container registry",
    "primaryUserAssignedIdentity": "A workspace with user-assigned identities",
    "softDeleteEnabled": "Soft delete of workspaces",
    "allowRecoverSoftDeletedWorkspace": "Soft delete of workspaces",
    "provisionNetworkNow": "Managed networks",
    "enableDataIsolation": "Data isolation of hubs",
    "existingWorkspaces": "Hubs",
    "hubResourceId": "Projects",
    "serverlessComputeSettings": "Serverless compute in a virtual network",
    "sharedPrivateLinkResources": "Private links",
}


def kept(
    body: Mapping[str, Any], name: str, present: Mapping[str, Any] | None, *, account: str | None = None
) -> dict[str, Any]:
    """The settings to store for `body` (an ARM workspace); `present` are those of an existing workspace.

    `account` is the ARM id of an existing workspace's own storage account. Raises AzureError: 400 for bad
    values, 409 for what cannot change, 501 for what is not there yet.
    """
    body = checked({**body, "properties": body.get("properties") or {}})
    properties = body["properties"]
    check_kind(body.get("kind"))
    _check_identity(body.get("identity"))
    _refuse(properties, account)
    tags = body.get("tags") or {}
    if len(tags) > 50:
        raise bad_request("InvalidTags", "A resource can have at most 50 tags.", target="tags")
    location = _location(body.get("location"), present)
    found: dict[str, Any] = {"friendlyName": name, "description": ""}
    for field, longest in _TEXTS.items():
        value = properties.get(field)
        if value is None or value == "":
            continue
        if not isinstance(value, str) or len(value) > longest:
            raise _bad(field, f"a text of at most {longest} characters")
        found[field] = value
    access = _one_of(properties, "publicNetworkAccess", _ACCESS)
    found["publicNetworkAccess"] = access or "Enabled"
    mode = _one_of(properties, "systemDatastoresAuthMode", _MODES)
    if mode is not None:
        found["systemDatastoresAuthMode"] = mode
    for field, default in (("hbiWorkspace", False), ("allowRoleAssignmentOnRG", True)):
        value = _flag(properties, field)
        found[field] = default if value is None else value
    before = ((present or {}).get("properties") or {}).get("hbiWorkspace", False)
    if present is not None and found["hbiWorkspace"] != before:
        raise conflict("`hbiWorkspace` of a workspace cannot be changed.", target="hbiWorkspace")
    return {"location": location, "tags": tags, "properties": found}


def patched(present: Mapping[str, Any], change: Mapping[str, Any], name: str, account: str) -> dict[str, Any]:
    """The settings after a PATCH. As in Azure tags are replaced as a whole, properties one by one."""
    base = {key: present[key] for key in ("location", "tags", "properties") if key in present}
    base.setdefault("properties", {"publicNetworkAccess": "Disabled"})
    merged = merge(base, {key: value for key, value in change.items() if key != "tags"})
    if change.get("tags") is not None:
        merged["tags"] = change["tags"]
    return kept(merged, name, present, account=account)


def check_kind(kind: Any) -> None:
    """Raises 501 for hubs, projects and feature stores, 400 for what is no kind of workspace."""
    if kind is None or kind == "":
        return
    titles = {"hub": "A hub", "project": "A project", "featurestore": "A feature store"}
    if not isinstance(kind, str) or kind.lower() not in ("default", *titles):
        raise bad_request(
            "InvalidKind",
            f"kind {str(kind)[:60]!r}: use Default, Hub, Project or FeatureStore.",
            target="kind",
        )
    if kind.lower() in titles:
        raise not_there_yet(titles[kind.lower()])


def check_new(subscription: str, name: str, subscription_known: bool) -> None:
    """Raises 400 unless Azure would let a workspace of these names be made."""
    if not subscription_known and not GUID.match(subscription):
        raise bad_request(
            "InvalidSubscriptionId",
            f"{subscription[:80]!r} is not the id of a subscription: it must be a GUID. "
            "(`amlocal workspace add` makes other texts answer.)",
            target="subscription",
        )
    if not NAME.match(name):
        raise bad_request(
            "InvalidWorkspaceName",
            f"{name[:100]!r} is not a valid name of a workspace: 3 to 33 letters, digits, '-' and '_', "
            "beginning with a letter or digit.",
            target="name",
        )


def _location(value: Any, present: Mapping[str, Any] | None) -> str:
    """In Azure's short form. Any region's name is kept; the machine is this one."""
    before = None if present is None else str(present.get("location", cloud.LOCATION))
    if value is None or value == "":
        if before is None:
            raise bad_request("LocationRequired", "A workspace needs a `location`.", target="location")
        return before
    location = str(value).replace(" ", "").lower()
    if not _LOCATION.match(location):
        raise bad_request(
            "InvalidLocation", f"location {str(value)[:60]!r} is not a region's name.", target="location"
        )
    if before is not None and location != before:
        raise conflict(
            f"The workspace is in {before!r} and its location cannot be changed to {location!r}.",
            code="InvalidResourceLocation",
            target="location",
        )
    return location


def _check_identity(identity: Any) -> None:
    if identity is None or identity == {}:
        return
    kind = identity.get("type") if isinstance(identity, dict) else None
    if not isinstance(kind, str) or kind.replace(" ", "").lower() not in (
        "systemassigned", "userassigned", "systemassigned,userassigned", "none",
    ):  # fmt: skip
        raise _bad("identity", "SystemAssigned, UserAssigned or both", where="")
    if "user" in kind.lower() or identity.get("userAssignedIdentities"):
        raise not_there_yet("A workspace with user-assigned identities")


def _refuse(properties: Mapping[str, Any], account: str | None) -> None:
    for field, feature in _REFUSED.items():
        value = properties.get(field)
        if not (value in (None, "", {}, [], False) or (isinstance(value, str) and value.lower() == "false")):
            raise not_there_yet(feature)
    storage = properties.get("storageAccount")
    if storage and (account is None or str(storage).lower() != account.lower()):
        raise not_there_yet("A workspace on a storage account of one's own")
    encryption = _object(properties, "encryption")
    keys = _object(encryption, "keyVaultProperties")
    if str(encryption.get("status") or "Disabled").lower() != "disabled" or any(keys.values()):
        raise not_there_yet("Encryption with a key of one's own")
    if str(_object(properties, "managedNetwork").get("isolationMode") or "Disabled") != "Disabled":
        raise not_there_yet("Managed networks")
    acls = _object(properties, "networkAcls")
    if str(acls.get("defaultAction") or "Allow").lower() != "allow" or acls.get("ipRules"):
        raise not_there_yet("IP rules of workspaces")
    store = _object(properties, "featureStoreSettings")
    if any(value and value != {"SparkRuntimeVersion": None} for value in store.values()):
        raise not_there_yet("Feature stores")
    if any(_object(properties, "workspaceHubConfig").values()):
        raise not_there_yet("Hubs")


def _object(properties: Mapping[str, Any], field: str) -> dict[str, Any]:
    value = properties.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad(field, "an object")
    return value


def _one_of(properties: Mapping[str, Any], field: str, values: Mapping[str, str]) -> str | None:
    value = properties.get(field)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value.lower() not in values:
        raise _bad(field, " or ".join(values.values()))
    return values[value.lower()]


def _flag(properties: Mapping[str, Any], field: str) -> bool | None:
    value = properties.get(field)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise _bad(field, "true or false")


def _bad(field: str, wanted: str, where: str = "properties.") -> AzureError:
    return bad_request("InvalidRequestContent", f"`{where}{field}` must be {wanted}.", target=field)
