"""MLflow's tracking URI of a workspace: checks a request, streams it to the MLflow process and back."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote

from flask import Blueprint, Response, redirect, request

from amlocal.emulator.history import mlflow_paths, mlflow_routes
from amlocal.emulator.history.mlflow_client import ACCOUNT_HEADER, WORKSPACE_HEADER, SocketConnection
from amlocal.emulator.http.errors import AzureError, bad_request, mlflow_restarting, not_found

CHUNK = 64 * 1024
ORIGIN = "http://localhost"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# v1.0: plain mlflow; v2.0: what azureml-mlflow makes of an azureml:// tracking URI (observed on the wire).
VERSIONS = ("v1.0", "v2.0")
# Resource Manager's fixed segments are case-insensitive.
FIXED = ("subscriptions", "resourcegroups", "providers", "microsoft.machinelearningservices", "workspaces")
RULE = "/mlflow/<version>/<s1>/<subscription>/<s2>/<group>/<s3>/<s4>/<s5>/<workspace>"

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Secrets, and what would let a client name its own workspace or host.
WITHHELD = frozenset({"authorization", "cookie", "host", "expect", "content-length", "forwarded"})
WITHHELD_PREFIXES = ("x-mlflow-workspace", "x-amlocal-", "x-forwarded-")


class Workspace(Protocol):
    """What the proxy needs to know of a workspace."""

    @property
    def id(self) -> str: ...

    @property
    def account(self) -> str: ...


Authorise = Callable[[str, str, str], Workspace]
# (workspace, route, body of a call) to the answer, or None where MLflow's own process is to answer.
Registry = Callable[[Any, str, bytes], Response | None]


def create_blueprint(
    socket: Path, authorise: Authorise, blob_folder: Path, registry: Registry | None = None
) -> Blueprint:
    """The routes below `/mlflow/v{1,2}.0/subscriptions/.../workspaces/<name>/`.

    `authorise(subscription, group, workspace)` checks the current request's token or session and returns the
    workspace, or raises AzureError. `blob_folder`: root of the blob trees, MLflow's artifact destination.
    `registry` answers what belongs to the model registry, see mlflow_registry.py.
    """
    blueprint = Blueprint("mlflow", __name__)

    def forward(route: str, **parts: str) -> Response:
        found = _workspace(authorise, parts)
        mlflow_routes.check_route(route)
        artifact = mlflow_routes.is_artifact(route)
        body = None if artifact and request.method == "PUT" else _call_body()
        answer = registry(found, route, body or b"") if registry is not None else None
        if answer is not None:
            return answer
        if artifact:
            _check_artifact(route, found.account, blob_folder)
        mlflow_routes.check_body(found.account, route, body or b"")
        return _send(socket, found, route, _prefix(), body)

    @blueprint.route(f"{RULE}/", defaults={"route": ""}, methods=METHODS, provide_automatic_options=False)
    @blueprint.route(f"{RULE}/<path:route>", methods=METHODS, provide_automatic_options=False)
    def mlflow(route: str, **parts: str) -> Response:
        return forward(route, **parts)

    @blueprint.route(RULE, methods=["GET"], strict_slashes=True)
    def bare(**parts: str) -> Response:
        # The UI's files have relative addresses, which need the slash.
        _workspace(authorise, parts)
        answer = redirect(quote(request.path) + "/", code=308)
        assert isinstance(answer, Response)
        return answer

    return blueprint


def _workspace(authorise: Authorise, parts: dict[str, str]) -> Workspace:
    fixed = tuple(parts[name].lower() for name in ("s1", "s2", "s3", "s4", "s5"))
    if fixed != FIXED or parts["version"] not in VERSIONS:
        raise not_found(
            "An MLflow tracking URI has the form /mlflow/v1.0/subscriptions/SUB/resourceGroups/GROUP/..."
        )
    return authorise(parts["subscription"], parts["group"], parts["workspace"])


def _prefix() -> str:
    """The request's path up to and including the workspace's name: version, five pairs, `/mlflow`."""
    return quote("/".join(request.path.split("/")[:11]))


def _check_artifact(route: str, account: str, blob_folder: Path) -> None:
    path, depth = mlflow_routes.artifact_path(route, request.method, request.args.getlist("path"))
    try:
        mlflow_paths.resolve(blob_folder, account, path, depth=depth)
    except mlflow_paths.ArtifactPathError as error:
        raise AzureError(
            403, "AuthorizationFailure", f"Artifact path refused: {error}.", target="path"
        ) from error


def _send(socket: Path, workspace: Workspace, route: str, prefix: str, body: bytes | None) -> Response:
    """Send the current request on and answer with the stream of MLflow's answer.

    `body` None: that of the request is streamed.
    """
    target = "/" + quote(route, safe="/~!$&'()*+,;=:@")
    if request.query_string:
        target += "?" + request.query_string.decode("latin-1")
    connection = SocketConnection(socket)
    try:
        connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", "localhost")
        connection.putheader(WORKSPACE_HEADER, workspace.id.lower())
        connection.putheader(ACCOUNT_HEADER, workspace.account)
        for name, value in request.headers:
            low = name.lower()
            if low not in HOP_BY_HOP | WITHHELD and not low.startswith(WITHHELD_PREFIXES):
                connection.putheader(name, value.encode("latin-1", "replace"))
        if body is None:
            _stream_body(connection)
        else:
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
        answer = connection.getresponse()
    except TimeoutError as error:
        connection.close()
        raise AzureError(504, "GatewayTimeout", "MLflow did not answer in time.") from error
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise mlflow_restarting() from error
    except BaseException:
        connection.close()
        raise
    return _answer(connection, answer, prefix)


def _call_body() -> bytes:
    """The whole body of a call that moves no artifact; 413 if it is too long."""
    limit = mlflow_routes.MAX_CALL_BODY
    parts, size = [], 0
    for chunk in _chunks(request.stream):
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            raise AzureError(
                413, "RequestBodyTooLarge", f"The body of an MLflow call has at most {limit} bytes."
            )
    return b"".join(parts)


def _stream_body(connection: SocketConnection) -> None:
    """Send an artifact's bytes as they come in; 400 if they end before the announced length."""
    length = request.content_length
    if length is None and not request.environ.get("wsgi.input_terminated"):
        # Without it a body of unknown length would be taken for an empty one.
        if "Transfer-Encoding" in request.headers:
            raise AzureError(411, "LengthRequired", "This server takes uploads with a Content-Length only.")
        length = 0
    if length is not None:
        connection.putheader("Content-Length", str(length))
        connection.endheaders()
    else:
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
    sent = 0
    for chunk in _chunks(request.stream):
        sent += len(chunk)
        connection.send(chunk if length is not None else b"%x\r\n%s\r\n" % (len(chunk), chunk))
    if length is None:
        connection.send(b"0\r\n\r\n")
    elif sent != length:
        raise bad_request("IncompleteBody", f"The body ended after {sent} of {length} bytes.")


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk


def _answer(connection: SocketConnection, answer: http.client.HTTPResponse, prefix: str) -> Response:
    def stream() -> Iterator[bytes]:
        while chunk := answer.read1(CHUNK):
            yield chunk
        if answer.length:
            # The status is long sent: only a broken connection tells the client that bytes are missing.
            raise ConnectionError(f"MLflow's answer ended {answer.length} bytes early")

    headers = []
    for name, value in answer.getheaders():
        low = name.lower()
        if low in HOP_BY_HOP or low in ("date", "server"):
            continue
        if low == "location":
            # MLflow knows neither its public name nor the workspace's prefix.
            value = value.removeprefix(ORIGIN)
            value = prefix + value if value.startswith("/") else value
        headers.append((name, value))
    response = Response(stream(), status=answer.status, headers=headers, direct_passthrough=True)
    response.call_on_close(connection.close)
    return response
