"""What opens an endpoint, as the control plane hands it out: two keys, or a token for an hour.

Routes and answers: Azure's "Online Endpoints - List Keys", "- Regenerate Keys" and "- Get Token".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flask import Response
from sqlalchemy import Connection

from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, json_body
from amlocal.emulator.endpoints.deployment_records import KEYS
from amlocal.emulator.endpoints.keys import EndpointKeys, generate_key
from amlocal.emulator.http.errors import AzureError, bad_request, conflict

# Under this name `prepare` hands on the keys that a client chose; it is never stored.
CHOSEN = "chosenKeys"
# Only a key's hash is compared, and it has no salt: a short one could be guessed.
_KEY = re.compile(r"[!-~]{32,256}\Z")
_FIELDS = {"primaryKey": "primary", "secondaryKey": "secondary"}


def chosen(value: Any) -> dict[str, str]:
    """The keys with which an endpoint shall begin, by "primary" and "secondary". Raises 400."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not set(value) <= set(_FIELDS):
        raise _bad_keys("`keys` must be an object with `primaryKey` and `secondaryKey`.")
    found = {}
    for field, which in _FIELDS.items():
        key = value.get(field)
        if key is None:
            continue
        if not isinstance(key, str) or not _KEY.match(key):
            raise _bad_keys(f"`keys.{field}` must be 32 to 256 visible ASCII characters without spaces.")
        found[which] = key
    return found


def ensure(c: Connection, workspace_id: str, endpoint: str, wanted: Mapping[str, str]) -> EndpointKeys:
    """The endpoint's keys, made when it has none. Raises 409 when others are `wanted` than it has."""
    stored = documents.get(c, workspace_id, KEYS, endpoint)
    if stored is None:
        keys = EndpointKeys(
            wanted.get("primary") or generate_key(), wanted.get("secondary") or generate_key()
        )
        _store(c, workspace_id, endpoint, keys)
        return keys
    if any(stored.body[which] != key for which, key in wanted.items()):
        raise conflict(
            "`keys` can only be given when the endpoint is created. Use regenerateKeys.",
            code="KeysCannotBeChanged",
            target="keys",
        )
    return EndpointKeys(stored.body["primary"], stored.body["secondary"])


def list_keys(call: Call, document: Document) -> dict[str, Any]:
    """POST listKeys: both keys. Raises 400 when they would open nothing."""
    _require_mode(document, "Key")
    keys = call.services.store.write(lambda c: ensure(c, call.workspace.id, document.name, {}))
    return {"primaryKey": keys.primary, "secondaryKey": keys.secondary}


def regenerate(call: Call, document: Document) -> Response:
    """POST regenerateKeys: the old key of that type stops working when this is answered."""
    which = str(json_body().get("keyType", "")).lower()
    if which not in _FIELDS.values():
        raise bad_request("InvalidKeyType", "`keyType` must be Primary or Secondary.", target="keyType")
    _require_mode(document, "Key")

    # `keyValue` is not taken: azure-ai-ml sends the present key there, which is to be replaced.
    def replace(c: Connection) -> None:
        old = ensure(c, call.workspace.id, document.name, {})
        _store(
            c,
            call.workspace.id,
            document.name,
            EndpointKeys(
                generate_key() if which == "primary" else old.primary,
                generate_key() if which == "secondary" else old.secondary,
            ),
        )

    call.services.store.write(replace)
    call.services.deployments.publish()
    operation = call.services.operations.start(call.arm_id)
    call.services.operations.succeed(operation)
    return Response(status=202, headers=call.services.operations.headers(operation, location=True))


def token(call: Call, document: Document) -> dict[str, Any]:
    """POST token: for an endpoint with authMode AMLToken; times are seconds since 1970."""
    _require_mode(document, "AMLToken")
    access = call.services.auth.endpoint_token(call.workspace, document.name, document.created_at)
    return {
        "accessToken": access.token,
        "expiryTimeUtc": access.expires,
        "refreshAfterTimeUtc": access.refresh_after,
        "tokenType": "Bearer",
    }


_INSTEAD = {
    "Key": "get its keys by listKeys",
    "AMLToken": "get a token by POST .../token",
    "AADToken": "get a token for https://ml.azure.com from your credential",
}


def _require_mode(document: Document, mode: str) -> None:
    """Raises 400 unless the endpoint has the authMode."""
    has = str(document.properties.get("authMode") or "Key")
    if has != mode:
        raise bad_request(
            "AuthModeMismatch",
            f"Endpoint {document.name!r} has authMode {has}, not {mode}: {_INSTEAD[has]} "
            "(azure-ai-ml: online_endpoints.get_keys).",
            target="authMode",
        )


def _store(c: Connection, workspace_id: str, endpoint: str, keys: EndpointKeys) -> None:
    body = {"primary": keys.primary, "secondary": keys.secondary, "hashes": list(keys.hashes())}
    documents.put(c, workspace_id, KEYS, endpoint, "", body)


def _bad_keys(message: str) -> AzureError:
    return bad_request("InvalidKeys", message, target="keys")
