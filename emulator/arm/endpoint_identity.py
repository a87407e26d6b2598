"""The managed identity of an endpoint: kept as it was given, and no principal is made up for it.

Rules: Azure's "Access Azure resources from an online endpoint with a managed identity". It is chosen when the
endpoint is created and cannot be changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from amlocal.emulator.http.errors import AzureError, bad_request, conflict

SYSTEM, USER, BOTH, NONE = "SystemAssigned", "UserAssigned", "SystemAssigned,UserAssigned", "None"
_TYPES = {text.lower(): text for text in (SYSTEM, USER, BOTH, NONE)}
_RESOURCE_ID = re.compile(
    r"/subscriptions/[^/]+/resourcegroups/[^/]+/providers/Microsoft\.ManagedIdentity"
    r"/userAssignedIdentities/[^/]+\Z",
    re.IGNORECASE,
)


def identity_of(value: Any, present: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is stored and shown for the `identity` of a body. `present` is that of the existing endpoint.

    Raises 400 for one that is none, 409 for a change.
    """
    if value is None:
        return dict(present) if present is not None else {"type": SYSTEM}
    if not isinstance(value, dict):
        raise _refusal("`identity` must be an object with a `type`.")
    kind = _TYPES.get(str(value.get("type", "")).replace(" ", "").lower())
    if kind is None:
        raise _refusal(
            f"identity type {str(value.get('type'))[:60]!r}: use system_assigned ({SYSTEM}) or "
            f"user_assigned ({USER})."
        )
    identity: dict[str, Any] = {"type": kind}
    assigned = value.get("userAssignedIdentities") or {}
    if not isinstance(assigned, dict):
        raise _refusal("`userAssignedIdentities` must map resource ids to objects.")
    if ("User" in kind) != bool(assigned):
        raise _refusal(
            f"identity type {kind} needs `user_assigned_identities` with at least one resource_id."
            if "User" in kind
            else f"identity type {kind} has no `user_assigned_identities`; use user_assigned."
        )
    for resource_id in assigned:
        if not _RESOURCE_ID.match(resource_id):
            raise _refusal(
                f"{resource_id[:200]!r} is not the resource id of a user-assigned identity: write "
                "/subscriptions/<id>/resourceGroups/<group>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>."
            )
    if assigned:
        identity["userAssignedIdentities"] = {resource_id: {} for resource_id in assigned}
    if present is not None and _comparable(identity) != _comparable(present):
        raise conflict(
            f"The identity of an endpoint cannot be changed; this one's is {present['type']}. "
            "Create another endpoint.",
            code="IdentityCannotBeChanged",
            target="identity",
        )
    return identity


def _comparable(identity: Mapping[str, Any]) -> tuple[str, list[str]]:
    assigned = identity.get("userAssignedIdentities") or {}
    return str(identity["type"]), sorted(resource_id.lower() for resource_id in assigned)


def _refusal(message: str) -> AzureError:
    return bad_request("InvalidIdentity", message, target="identity")
