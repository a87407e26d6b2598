"""Shared access signatures: issued here, verified here, never sent anywhere else.

The shape is that of Azure's service SAS (fields sv, sr, sp, se, spr, sig), so that every client carries it
unchanged; the signature is our own HMAC-SHA256 over all fields and the resource, with a key that stays on
this machine.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlencode

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.storage.names import check_account, check_blob, check_container

SAS_VERSION = "2024-11-04"
PERMISSIONS = "racwdl"
_FIELDS = ("sv", "sr", "sp", "se", "spr")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_MIN_SECRET_BYTES = 32


class SasKey:
    """The secret that signs and verifies. `clock` gives the present time (aware)."""

    def __init__(self, secret: bytes, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        if len(secret) < _MIN_SECRET_BYTES:
            raise ValueError(
                f"the SAS secret has {len(secret)} bytes; at least {_MIN_SECRET_BYTES} are needed"
            )
        self._secret = secret
        self._clock = clock

    def sign(
        self, account: str, container: str, permissions: str, expires: datetime, blob: str | None = None
    ) -> str:
        """The query string (no '?') that opens one container, or one blob of it, until `expires`.

        `permissions` are letters of `racwdl`. ValueError for others and for a time without a zone.
        """
        check_account(account)
        check_container(container)
        if blob is not None:
            check_blob(blob)
        if not permissions or set(permissions) - set(PERMISSIONS):
            raise ValueError(f"SAS permissions {permissions!r}: letters of {PERMISSIONS!r} are allowed")
        if expires.tzinfo is None:
            raise ValueError("the expiry of a SAS needs a time zone")
        fields = {
            "sv": SAS_VERSION,
            "sr": "c" if blob is None else "b",
            "sp": "".join(letter for letter in PERMISSIONS if letter in permissions),
            "se": expires.astimezone(UTC).strftime(_TIME),
            "spr": "https",
        }
        fields["sig"] = self._signature(fields, account, container, blob or "")
        return urlencode(fields)

    def verify(
        self, query: str, account: str, container: str, blob: str | None, needed_permission: str
    ) -> str:
        """The permissions that the SAS in `query` grants on the resource.

        `blob` None means the container itself. `needed_permission`: letters of which one is enough.
        AzureError 403: AuthenticationFailed (not ours, for another resource, expired),
        AuthorizationPermissionMismatch.
        """
        try:
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=100)
        except ValueError as error:
            raise _failed("the query string has too many fields") from error
        fields: dict[str, str] = {}
        for name, value in pairs:
            if name in (*_FIELDS, "sig"):
                if name in fields:
                    raise _failed(f"the field {name} is given twice")
                fields[name] = value
        missing = [name for name in (*_FIELDS, "sig") if name not in fields]
        if missing:
            raise _failed(f"the field {missing[0]} is missing")
        resource = "" if fields["sr"] == "c" else blob or ""
        expected = self._signature(fields, account, container, resource)
        if not hmac.compare_digest(expected.encode(), fields["sig"].encode()):
            raise _failed("it was not issued by this server for this resource")
        if fields["sr"] == "b" and blob is None:
            raise _failed("it opens a blob, not the container")
        # Only a field that we signed gets here, so it is well-formed.
        expiry = datetime.strptime(fields["se"], _TIME).replace(tzinfo=UTC)
        if self._clock() >= expiry:
            raise _failed(f"it expired at {fields['se']}")
        if not set(needed_permission) & set(fields["sp"]):
            raise AzureError(
                403,
                "AuthorizationPermissionMismatch",
                f"The SAS grants {fields['sp']!r}; this request needs {' or '.join(needed_permission)!s}.",
            )
        return fields["sp"]

    def _signature(self, fields: dict[str, str], account: str, container: str, blob: str) -> str:
        # JSON keeps the parts apart whatever they contain; the first one keeps this use of the key apart.
        parts = ["amlocal blob sas 1", account, container, blob, *(fields[name] for name in _FIELDS)]
        digest = hmac.new(self._secret, json.dumps(parts).encode(), hashlib.sha256).digest()
        # Without +, / and = no client can spoil it by quoting it once too often or too little.
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _failed(why: str) -> AzureError:
    return AzureError(
        403,
        "AuthenticationFailed",
        f"The shared access signature is refused: {why}. Ask the datastore for a new one.",
    )
