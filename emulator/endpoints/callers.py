"""Who may call the router: by Host, Origin and credential.

`authMode` says what an endpoint takes: Key, AMLToken or AADToken (Azure's "Authenticate clients for online
endpoints"). Tokens are verified with the public key only: the router cannot make any. With the setting `auth`
loose any bearer opens every endpoint, but a missing one none, as on the control plane.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import Request

from amlocal.compat.tokens import TokenError, TokenVerifier
from amlocal.emulator.endpoints import endpoint_tokens
from amlocal.emulator.endpoints.keys import matches
from amlocal.emulator.endpoints.route_table import EndpointRoute
from amlocal.emulator.http.errors import AzureError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_caller(request: Request, port: int) -> None:
    """Refuse names that are not this machine's (DNS rebinding) and pages of other origins."""
    host = request.headers.get("host", "").lower()
    if host not in {f"{f'[{name}]' if ':' in name else name}:{port}" for name in LOOPBACK}:
        raise AzureError(403, "HostNotAllowed", f"Host {host[:100]!r} is not a name of this server.")
    origin = request.headers.get("origin")
    if origin is not None and not _loopback(origin):
        raise AzureError(403, "OriginNotAllowed", f"Pages of {origin[:100]!r} may not call this server.")


def _loopback(origin: str) -> bool:
    try:
        return urlsplit(origin).hostname in LOOPBACK
    except ValueError:
        return False


class Credentials:
    """Checks what a request carries in its Authorization header; `audiences` are those of users' tokens."""

    def __init__(self, verifier: TokenVerifier, audiences: Iterable[str], *, loose: bool = False) -> None:
        self._verifier = verifier
        self._audiences = tuple(audiences)
        self._loose = loose

    def check(self, request: Request, endpoint: EndpointRoute) -> None:
        """Raises AzureError 401 unless the request carries what opens the endpoint that its path names."""
        given = _bearer(request)
        mode = endpoint.auth_mode.lower()
        if self._loose and given:
            return
        if mode == "key":
            if not matches(given, endpoint.key_hashes):
                raise _refused("a key of this endpoint")
        elif mode == "amltoken":
            workspace, name = request.path_params["workspace"], request.path_params["endpoint"]
            try:
                endpoint_tokens.verify(self._verifier, given, workspace, name, endpoint.created)
            except TokenError as error:
                raise _refused("a token of this endpoint", error) from error
        elif mode == "aadtoken":
            self._check_user(given)
        else:
            text = f"The router cannot check callers of endpoints with authMode {endpoint.auth_mode!r}."
            raise AzureError(401, "AuthModeNotSupported", text, headers={"WWW-Authenticate": "Bearer"})

    def check_user(self, request: Request) -> None:
        """Raises AzureError 401 unless the request carries a user's token."""
        self._check_user(_bearer(request))

    def _check_user(self, given: str) -> None:
        if self._loose and given:
            return
        try:
            self._verifier.verify(given, self._audiences)
        except TokenError as error:
            raise _refused("a user's token for https://ml.azure.com", error) from error


def _bearer(request: Request) -> str:
    """What is given as a bearer; empty, which opens nothing, for none."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _refused(wanted: str, reason: TokenError | None = None) -> AzureError:
    challenge, why = "Bearer", ""
    if reason is not None:  # as RFC 6750 has it
        challenge, why = f'Bearer error="invalid_token", error_description="{reason}"', f" ({reason})"
    text = f"The request needs the header 'Authorization: Bearer ...' with {wanted}{why}."
    return AzureError(401, "Unauthorized", text, headers={"WWW-Authenticate": challenge})
