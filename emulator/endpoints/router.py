"""The scoring plane, a process of its own: HTTPS on loopback, from an endpoint's URI to a scorer process.

`python -m amlocal.emulator.endpoints.router --routes FILE --port P --cert F --key F`

It knows only the route table, reads it again when it changes, and may be killed and started at any time.
Status codes are those that managed online endpoints show (Azure's "HTTP status codes" for online endpoints).
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import socket
import sys
import uuid
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from amlocal.emulator.endpoints.answers import DEPLOYMENT_HEADER, pass_on, render, unavailable
from amlocal.emulator.endpoints.callers import check_caller, check_key
from amlocal.emulator.endpoints.forwarding import Busy, Died, Forwarder, Unreachable
from amlocal.emulator.endpoints.route_table import (
    DeploymentRoute,
    EndpointRoute,
    RouteTable,
    endpoint_key,
)
from amlocal.emulator.http.errors import AzureError, not_found
from amlocal.emulator.processes import watch_leash

DEFAULT_MAX_BODY = 100 * 1024 * 1024
KEEP_ALIVE_SECONDS = 75
BACKLOG = 512

log = logging.getLogger("amlocal.router")


class Routes:
    """The route table, read again whenever the file has been replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._table = RouteTable()

    def current(self) -> tuple[RouteTable, bool]:
        """The table, and whether it is another one than at the last call."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            changed = self._seen is not None
            self._seen, self._table = None, RouteTable()
            return self._table, changed
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return self._table, False
        self._seen = seen
        try:
            self._table = RouteTable.parse(self._path.read_text())
        except ValueError as error:
            # Requests go on with the last good table.
            log.error("%s: %s", self._path, error)
            return self._table, False
        log.info("route table version %d", self._table.version)
        return self._table, True


class Router:
    """The ASGI application. `rng` chooses between deployments; `port` is what clients name in Host."""

    def __init__(
        self, routes: Path, *, port: int, max_body: int = DEFAULT_MAX_BODY, rng: random.Random | None = None
    ) -> None:
        self._routes = Routes(routes)
        self._port = port
        self._max_body = max_body
        self._rng = rng or random.Random()
        self._forwarder = Forwarder()
        path = "/{workspace}/{endpoint}"
        self.app = Starlette(
            routes=[
                Route("/ready", self._ready, methods=["GET"]),
                Route(f"{path}/score", self._score, methods=["POST"]),
                Route(f"{path}/swagger.json", self._swagger, methods=["GET"]),
            ],
            exception_handlers={AzureError: _azure_error, 404: _no_route, 405: _no_route},
        )

    async def _ready(self, request: Request) -> Response:
        check_caller(request, self._port)
        return JSONResponse({"status": "ready", "version": self._routes.current()[0].version})

    async def _swagger(self, request: Request) -> Response:
        check_caller(request, self._port)
        await self._find(request)
        raise AzureError(404, "SwaggerNotFound", "This endpoint has no swagger.json.")

    async def _score(self, request: Request) -> Response:
        identifier = _request_id(request)
        try:
            response = await self._answer(request, identifier)
        except AzureError as error:
            response = render(error, body_read=getattr(request.state, "body_read", False))
        except ClientDisconnect:
            response = Response(status_code=499)
        response.headers["x-request-id"] = identifier
        client = request.headers.get("x-ms-client-request-id", "")
        if _printable(client):
            response.headers["x-ms-client-request-id"] = client
        return response

    async def _answer(self, request: Request, identifier: str) -> Response:
        check_caller(request, self._port)
        endpoint = await self._find(request)
        check_key(request, endpoint)
        name, deployment = self._choose(request, endpoint)
        body = await self._read(request)
        while True:
            try:
                answer = await self._forwarder.post(
                    deployment, body, {"Content-Type": "application/json", "x-request-id": identifier}
                )
            except Unreachable as error:
                # A scorer that was just replaced is not reachable any more; then the table has changed, too.
                current = await self._find(request)
                if current is endpoint:
                    raise unavailable(f"Deployment {name!r} has no running scorer: {error}.") from error
                endpoint = current
                name, deployment = self._choose(request, endpoint)
                continue
            except Died as error:
                raise unavailable(f"The scorer of deployment {name!r} ended: {error}.") from error
            except Busy as error:
                raise AzureError(429, "TooManyRequests", f"Deployment {name!r}: {error}.") from error
            except TimeoutError as error:
                raise AzureError(
                    408,
                    "RequestTimeout",
                    f"Deployment {name!r} did not answer within its request_timeout_ms of "
                    f"{deployment.request_timeout_ms}.",
                ) from error
            return pass_on(answer, name)

    async def _find(self, request: Request) -> EndpointRoute:
        table, changed = self._routes.current()
        if changed:
            await self._forwarder.keep_only(
                instance.socket
                for endpoint in table.endpoints.values()
                for deployment in endpoint.deployments.values()
                for instance in deployment.instances
            )
        name = request.path_params["endpoint"]
        endpoint = table.endpoints.get(endpoint_key(request.path_params["workspace"], name))
        if endpoint is None:
            raise not_found(f"There is no endpoint {name!r} in this workspace.", target="endpoint")
        return endpoint

    def _choose(self, request: Request, endpoint: EndpointRoute) -> tuple[str, DeploymentRoute]:
        wanted = request.headers.get(DEPLOYMENT_HEADER)
        if wanted is not None:
            deployment = endpoint.deployments.get(wanted)
            if deployment is None:
                known = ", ".join(sorted(endpoint.deployments)) or "none"
                raise not_found(
                    f"The header {DEPLOYMENT_HEADER} names {wanted[:64]!r}; this endpoint has: {known}. "
                    "(After an invoke with deployment_name the SDK goes on sending it: use a new MLClient.)",
                    target=DEPLOYMENT_HEADER,
                )
            if not deployment.serving:
                raise unavailable(f"Deployment {wanted!r} does not serve (state {deployment.state}).")
            return wanted, deployment
        candidates = [
            (name, deployment, endpoint.traffic[name])
            for name, deployment in endpoint.deployments.items()
            if endpoint.traffic.get(name, 0) > 0 and deployment.serving
        ]
        if not candidates:
            raise not_found(
                "There is no valid deployment with positive weight: give a deployment traffic, for example "
                "endpoint.traffic = {'blue': 100}.",
                target="traffic",
            )
        weights = [weight for _, _, weight in candidates]
        name, deployment, _ = self._rng.choices(candidates, weights=weights)[0]
        return name, deployment

    async def _read(self, request: Request) -> bytes:
        length = request.headers.get("content-length")
        if length is not None and length.isdigit() and int(length) > self._max_body:
            raise self._too_large(int(length))
        chunks: list[bytes] = []
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > self._max_body:
                raise self._too_large(size)
            chunks.append(chunk)
        request.state.body_read = True
        return b"".join(chunks)

    def _too_large(self, size: int) -> AzureError:
        text = f"The request has {size} bytes or more; this server takes up to {self._max_body}."
        return AzureError(413, "PayloadTooLarge", text)


async def _azure_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AzureError)
    return render(error)


async def _no_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    text = f"{request.method} {request.url.path[:200]}: score with POST /<workspace id>/<endpoint>/score."
    return render(AzureError(status, "MethodNotAllowed" if status == 405 else "ResourceNotFound", text))


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if _printable(given) else str(uuid.uuid4())


def _printable(text: str) -> bool:
    return 0 < len(text) <= 128 and text.isascii() and text.isprintable()


def listen(port: int) -> socket.socket:
    """A listener on loopback; port 0 takes a free one."""
    # asyncio switches Nagle's algorithm off only where the protocol is named; else answers take 40 ms more.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(BACKLOG)
    return listener


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="amlocal.emulator.endpoints.router", description=__doc__)
    parser.add_argument("--routes", type=Path, required=True, help="the route table")
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one and prints it")
    parser.add_argument("--cert", required=True, help="certificate chain, PEM")
    parser.add_argument("--key", required=True, help="its key, PEM")
    parser.add_argument("--max-body", type=int, default=DEFAULT_MAX_BODY, help="bytes")
    parser.add_argument("--seed", type=int, help="makes the choice between deployments repeatable")
    options = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    watch_leash()
    listener = listen(options.port)
    port = listener.getsockname()[1]
    router = Router(options.routes, port=port, max_body=options.max_body, rng=random.Random(options.seed))
    config = uvicorn.Config(
        router.app,
        http="h11",
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=options.cert,
        ssl_keyfile=options.key,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=30,
    )
    log.info("router on https://localhost:%d (process %d)", port, os.getpid())
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
