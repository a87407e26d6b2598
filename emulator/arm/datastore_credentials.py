"""The credentials of datastores: what clients see of them, and the secrets that only listSecrets shows.

Source: the REST reference of Azure Machine Learning's datastores, and what azure-ai-ml 1.35 sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amlocal.emulator.http.errors import bad_request

_MOST = 64 * 1024
_TENANT = ("authorityUrl", "clientId", "resourceUrl", "tenantId")


@dataclass(frozen=True, slots=True)
class _Kind:
    """The secret's field ('' for none), the fields that are no secret, and those of them that are needed."""

    secret: str
    shown: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()


_KINDS = {
    "AccountKey": _Kind("key"),
    "Sas": _Kind("sasToken"),
    "ServicePrincipal": _Kind("clientSecret", _TENANT, ("clientId", "tenantId")),
    "Certificate": _Kind("certificate", (*_TENANT, "thumbprint"), ("clientId", "tenantId", "thumbprint")),
    "None": _Kind(""),
}


def split(
    given: Any,
    present: Mapping[str, Any] | None,
    secrets: Mapping[str, Any] | None,
    *,
    ours: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(credentials without a secret, secrets) of what a client sent.

    A secret that is left out stays the stored one if `present` is of the same kind: a client that gets and
    puts does not know it. `ours`: the account is this server's own, which only its own signatures open, so
    keys and signatures of a client are not kept. Raises 400 naming the field.
    """
    if given is None:
        given = {"credentialsType": "None"}
    if not isinstance(given, Mapping):
        raise bad_request(
            "InvalidCredentials", "`properties.credentials` must be an object.", target="credentials"
        )
    name = given.get("credentialsType")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise bad_request(
            "InvalidCredentials",
            f"`properties.credentials.credentialsType` is {str(name)[:60]!r}: use {', '.join(_KINDS)}.",
            target="credentials.credentialsType",
        )
    shown: dict[str, Any] = {"credentialsType": name}
    for field in kind.shown:
        value = _text(given, field)
        if value:
            shown[field] = value
        elif field in kind.needed:
            raise _lacking(field)
    if not kind.secret or (ours and name in ("AccountKey", "Sas")):
        return shown, {}
    sent = given.get("secrets")
    if sent is not None and not isinstance(sent, Mapping):
        raise bad_request(
            "InvalidCredentials",
            "`properties.credentials.secrets` must be an object.",
            target="credentials.secrets",
        )
    value = _text(sent or {}, kind.secret)
    if not value and present and secrets and present.get("credentialsType") == name:
        value = secrets.get(kind.secret)
    if not value:
        raise _lacking(f"secrets.{kind.secret}")
    return shown, {"secretsType": name, kind.secret: value}


def _text(given: Mapping[str, Any], field: str) -> str | None:
    value = given.get(field)
    if value is not None and (not isinstance(value, str) or len(value) > _MOST):
        raise bad_request(
            "InvalidCredentials",
            f"`properties.credentials`: {field} must be a text of at most {_MOST} characters.",
            target=f"credentials.{field}",
        )
    return value


def _lacking(field: str) -> Exception:
    return bad_request(
        "InvalidCredentials", f"`properties.credentials.{field}` is missing.", target=f"credentials.{field}"
    )
