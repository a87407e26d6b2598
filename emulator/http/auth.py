"""Who is asking: tokens of users and jobs, sessions of the studio, the managed identity's secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from typing import Any

from flask import request

from amlocal.compat import cloud
from amlocal.compat.tokens import TokenError, TokenIssuer
from amlocal.emulator.endpoints import endpoint_tokens
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.workspace import Workspace

JOB_LIFETIME = 60 * 24 * 3600
SESSION_LIFETIME = 7 * 24 * 3600
SESSION_COOKIE = "amlocal_session"


class Authenticator:
    """Checks requests. With `auth` "loose" any bearer token will do, but a missing one never."""

    def __init__(
        self,
        settings: Settings,
        issuer: TokenIssuer,
        identity_header: str,
        view_secret: bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._issuer = issuer
        self._identity_header = identity_header
        self._audiences = cloud.audiences(settings.base_url)
        self._job_audience = f"{settings.base_url}/jobs"
        self._view_secret = view_secret
        self._clock = clock
        self._view_tokens: dict[str, tuple[str, int]] = {}

    def managed_identity_token(self, resource: str, header: str | None) -> dict[str, Any]:
        """The managed-identity endpoint's answer. 401 without the right secret, 400 without a resource."""
        if not header or not hmac.compare_digest(header.encode(), self._identity_header.encode()):
            raise AzureError(
                401, "Unauthorized", "X-IDENTITY-HEADER is not this server's secret. Run `amlocal env` again."
            )
        if not resource:
            raise AzureError(400, "BadRequest", "The query lacks `resource`.", target="resource")
        lifetime = 24 * 3600
        token = self.user_token(resource, lifetime)
        claims = self._issuer.verify(token, [resource])
        return {
            "access_token": token,
            "expires_in": str(lifetime),
            "expires_on": str(claims["exp"]),
            "not_before": str(claims["nbf"]),
            "resource": resource,
            "token_type": "Bearer",
        }

    def user_token(self, audience: str, lifetime: float) -> str:
        return self._issuer.issue(
            audience,
            lifetime=lifetime,
            tid=cloud.TENANT_ID,
            oid=cloud.TENANT_ID,
            sub="local-user",
            appid=cloud.TENANT_ID,
            idtyp="user",
            name="local user",
        )

    def job_token(self, workspace: Workspace, run_id: str) -> str:
        """A token that opens the tracking plane of one workspace, for the process of one run."""
        return self._issuer.issue(self._job_audience, lifetime=JOB_LIFETIME, wsid=workspace.id, run=run_id)

    def endpoint_token(
        self, workspace: Workspace, endpoint: str, created: str
    ) -> endpoint_tokens.AccessToken:
        """A token that opens one endpoint with authMode AMLToken, created then, and nothing else."""
        return endpoint_tokens.issue(self._issuer, workspace.id, endpoint, created)

    def view_token(self, workspace: Workspace) -> str:
        """A token for a browser: it opens the studio pages and the MLflow UI of one workspace.

        Not a JWT, because it stands in links that people read and copy. Made once an hour: every answer about
        a job holds one.
        """
        ends = (int(self._clock()) // 3600 + 1) * 3600 + SESSION_LIFETIME
        token, until = self._view_tokens.get(workspace.id, ("", 0))
        if until != ends:
            token = self._view_token(workspace, ends)
            self._view_tokens[workspace.id] = (token, ends)
        return token

    def _view_token(self, workspace: Workspace, expires: int) -> str:
        text = f"studio\n{workspace.id}\n{expires}".encode()
        digest = hmac.digest(self._view_secret, text, hashlib.sha256)[:18]
        return f"{expires:x}.{base64.urlsafe_b64encode(digest).decode()}"

    def require_user(self) -> Mapping[str, Any]:
        """The claims of the user's bearer token. Raises 401."""
        return self._verify(_bearer(), self._audiences)

    def require_tracking(self, workspace: Workspace) -> None:
        """A user, a job of this workspace, or a browser session of this workspace. Raises 401."""
        cookie = request.cookies.get(SESSION_COOKIE)
        if "Authorization" not in request.headers and cookie:
            self.require_view(workspace, cookie)
            return
        claims = self._verify(_bearer(), (*self._audiences, self._job_audience))
        if claims.get("wsid", workspace.id) != workspace.id:
            raise _unauthorized("the token is of a job in another workspace")

    def require_view(self, workspace: Workspace, token: str) -> None:
        """A studio link or session of this workspace. Raises 401."""
        try:
            expires = int(token.partition(".")[0], 16)
        except ValueError:
            expires = 0
        good = self._view_token(workspace, expires) if 0 < expires < 2**40 else ""
        if not good or not hmac.compare_digest(good.encode(), token.encode()):
            raise AzureError(
                401,
                "InvalidStudioLink",
                "This page opens by the link that jobs.stream prints or services.Studio.endpoint holds.",
            )
        if expires <= self._clock():
            raise AzureError(
                401, "ExpiredStudioLink", "This link has expired. Get the job again for a new one."
            )

    def allows_storage(self) -> bool:
        """Whether the bearer token may read and write blobs. Raises 401 for a bad token."""
        self.require_user()
        return True

    def _verify(self, token: str, audiences: tuple[str, ...]) -> Mapping[str, Any]:
        if self._settings.auth == "loose":
            try:
                return self._issuer.verify(token, audiences)
            except TokenError:
                return {}
        try:
            return self._issuer.verify(token, audiences)
        except TokenError as error:
            raise _unauthorized(str(error)) from error


def _bearer() -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise AzureError(
            401,
            "AuthenticationFailed",
            "The request has no bearer token. Run your program in the environment that `amlocal env` prints.",
        )
    return token.strip()


def _unauthorized(reason: str) -> AzureError:
    return AzureError(
        401,
        "InvalidAuthenticationToken",
        f"Not signed in: {reason}. Run your program in the environment that `amlocal env` prints.",
    )
