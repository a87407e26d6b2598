"""What every request meets first and every answer carries: host check, request ids, the one error shape."""

from __future__ import annotations

import logging
import uuid
from urllib.parse import urlsplit

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from amlocal.emulator.http.disk import disk_full, is_disk_full
from amlocal.emulator.http.draining import drain
from amlocal.emulator.http.errors import AzureError

log = logging.getLogger("amlocal.http")

_CODES = {
    400: "BadRequest",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    411: "LengthRequired",
    413: "RequestEntityTooLarge",
    414: "UriTooLong",
    415: "UnsupportedMediaType",
}


def install(app: Flask, port: int) -> None:
    """Put the guard around `app`, which answers on localhost:`port`."""
    hosts = {f"{name}{end}" for name in ("localhost", "127.0.0.1", "[::1]") for end in ("", f":{port}")}

    @app.before_request
    def check_host() -> None:
        g.request_id = str(uuid.uuid4())
        # A foreign page can make a browser post to localhost, or let its own name resolve to it.
        if request.host.lower() not in hosts:
            raise AzureError(
                403,
                "HostNotAllowed",
                f"This server answers as localhost:{port}, not as {request.host[:100]!r}.",
            )
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() not in hosts:
            raise AzureError(403, "OriginNotAllowed", f"Requests from pages of {origin[:100]!r} are refused.")

    @app.after_request
    def add_ids(response: Response) -> Response:
        drain()
        identity = g.get("request_id") or str(uuid.uuid4())
        response.headers.setdefault("x-ms-request-id", identity)
        response.headers.setdefault("x-ms-correlation-request-id", identity)
        client_id = request.headers.get("x-ms-client-request-id")
        if client_id:
            response.headers.setdefault("x-ms-client-request-id", client_id[:200])
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    @app.errorhandler(AzureError)
    def azure_error(error: AzureError) -> Response:
        return render(error)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        if status in (301, 302, 307, 308):
            return Response(status=status, headers=dict(error.get_headers()))
        message = error.description or "The request cannot be answered."
        if status == 404:
            message = f"There is nothing at {request.method} {request.path[:300]}."
        headers = {}
        if isinstance(error, MethodNotAllowed):
            headers["Allow"] = ", ".join(sorted(error.valid_methods or []))
            message = f"{request.method} is not possible at {request.path[:300]}; {headers['Allow']} are."
        return render(AzureError(status, _CODES.get(status, "BadRequest"), message, headers=headers))

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        if is_disk_full(error):
            log.error("%s %s failed: %s", request.method, request.path, error)
            return render(disk_full())
        log.exception("%s %s failed (request %s)", request.method, request.path, g.get("request_id"))
        return render(
            AzureError(
                500,
                "InternalServerError",
                f"amlocal failed on this request ({type(error).__name__}). "
                f"The server's log has the details under request {g.get('request_id')}.",
            )
        )


def render(error: AzureError) -> Response:
    """The answer that tells a client of `error`."""
    response = jsonify(error.body())
    response.status_code = error.status
    response.headers["x-ms-error-code"] = error.code
    for name, value in error.headers.items():
        response.headers[name] = value
    return response
