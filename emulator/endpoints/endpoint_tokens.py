"""Tokens of endpoints with authMode AMLToken: each opens one endpoint for an hour, and nothing else.

Shape and times of the answer: Azure's "Online Endpoints - Get Token".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amlocal.compat.tokens import TokenError, TokenIssuer, TokenVerifier

LIFETIME = 3600
# The share of its life after which a client should ask for the next token.
REFRESH_SHARE = 0.6
# The claim that holds when the endpoint was created.
_CREATED = "endpoint_created"


@dataclass(frozen=True)
class AccessToken:
    """A token, when it ends, and when to get the next; both in seconds since 1970."""

    token: str = field(repr=False)
    expires: int
    refresh_after: int


def audience(workspace_id: str, endpoint: str) -> str:
    """What such a token is for: one endpoint of one workspace. No other plane accepts it."""
    return f"amlocal:endpoint:{workspace_id.lower()}/{endpoint.lower()}"


def issue(issuer: TokenIssuer, workspace_id: str, endpoint: str, created: str) -> AccessToken:
    """A new token for the endpoint that was created then: not for a later one of the same name."""
    wanted = audience(workspace_id, endpoint)
    token = issuer.issue(wanted, lifetime=LIFETIME, **{_CREATED: created})
    claims = issuer.verify(token, (wanted,))
    begin = int(claims["iat"])
    return AccessToken(token, int(claims["exp"]), begin + int(LIFETIME * REFRESH_SHARE))


def verify(
    verifier: TokenVerifier, token: str, workspace_id: str, endpoint: str, created: str
) -> Mapping[str, Any]:
    """The claims of a token of this endpoint. Raises TokenError for any other, and for an expired one."""
    claims = verifier.verify(token, (audience(workspace_id, endpoint),))
    if claims.get(_CREATED) != created:
        raise TokenError("the token is of an endpoint of this name that has been deleted")
    return claims
