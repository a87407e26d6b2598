"""Who may call the router: by Host, Origin and key."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request

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


def check_key(request: Request, endpoint: EndpointRoute) -> None:
    """Raises AzureError 401 unless the request carries one of the endpoint's keys."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    challenge = {"WWW-Authenticate": "Bearer"}
    if endpoint.auth_mode.lower() != "key":
        text = f"The router cannot check callers of endpoints with authMode {endpoint.auth_mode!r}."
        raise AzureError(401, "AuthModeNotSupported", text, headers=challenge)
    if scheme.lower() != "bearer" or not matches(key.strip(), endpoint.key_hashes):
        text = "The request needs the header 'Authorization: Bearer <key>' with a key of this endpoint."
        raise AzureError(401, "Unauthorized", text, headers=challenge)
