"""The scoring plane's ASGI application: one request's way from an endpoint's URI to a scorer and back.

Status codes are those that managed online endpoints show (Azure's "HTTP status codes" for online endpoints).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from amlocal.emulator.endpoints import prometheus
from amlocal.emulator.endpoints.answers import (
    DEPLOYMENT_HEADER,
    Passed,
    died,
    model_status,
    pass_on,
    render,
    unavailable,
)
from amlocal.emulator.endpoints.bodies import check_length, read_body
from amlocal.emulator.endpoints.callers import Credentials, check_caller
from amlocal.emulator.endpoints.counters import NO_DEPLOYMENT, Counters, counters_file
from amlocal.emulator.endpoints.forwarding import Busy, Forwarder
from amlocal.emulator.endpoints.mirror import Mirror
from amlocal.emulator.endpoints.route_table import EndpointRoute, endpoint_key
from amlocal.emulator.endpoints.scorer_client import Died, NotStarted, ScorerAnswer, ScorerRequest
from amlocal.emulator.endpoints.table_reader import TableReader
from amlocal.emulator.endpoints.traffic import choose, mirrored
from amlocal.emulator.http.errors import AzureError, not_found

DEFAULT_MAX_BODY = 100 * 1024 * 1024
# Python's own HTTP server, which scorers use, takes 100.
MAX_HEADERS = 90
# How often the table is looked at without a request, for those who wait for an instance; seconds.
TICK = 0.1
# Changed counters are written once in so many ticks.
WRITE_EVERY = 10
CLIENT_GONE = 499
# What concerns one connection only, is the router's own to say, or must not reach a user's code (the key).
_NOT_PASSED_ON = frozenset(
    b"authorization connection content-length cookie expect host keep-alive proxy-authorization "
    b"proxy-connection te trailer transfer-encoding upgrade x-forwarded-prefix x-request-id".split()
)

log = logging.getLogger("amlocal.router")


class Router:
    """The application. `rng` chooses between deployments; `port` is what clients name in Host."""

    def __init__(
        self,
        routes: Path,
        credentials: Credentials,
        *,
        port: int,
        max_body: int = DEFAULT_MAX_BODY,
        rng: random.Random | None = None,
    ) -> None:
        self._reader = TableReader(routes)
        self._credentials = credentials
        self._port = port
        self._max_body = max_body
        self._rng = rng or random.Random()
        self._forwarder = Forwarder()
        self._counters = Counters()
        self._counters_file = counters_file(routes)
        self._mirror = Mirror(self._forwarder, self._counters)
        path = "/{workspace}/{endpoint}"
        self.app = Starlette(
            routes=[
                Route("/ready", self._ready, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
                Route(f"{path}/score", self._score, methods=["GET", "POST"]),
                Route(f"{path}/swagger.json", self._score, methods=["GET"]),
                Route(f"{path}/", self._score, methods=["GET"]),
            ],
            exception_handlers={AzureError: _azure_error, 404: _no_route, 405: _no_route},
            lifespan=self._background,
        )
        self.app.router.redirect_slashes = False

    @contextlib.asynccontextmanager
    async def _background(self, app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._mirror.close()
            self._counters.write(self._counters_file)

    async def _tick(self) -> None:
        for number in itertools.count():
            try:
                self._table()
                if number % WRITE_EVERY == 0:
                    self._counters.write(self._counters_file)
            except OSError as error:  # a full disk must not end this
                log.error("%s cannot be written: %s", self._counters_file, error)
            await asyncio.sleep(TICK)

    async def _ready(self, request: Request) -> Response:
        check_caller(request, self._port)
        self._table()
        return JSONResponse({"status": "ready", "version": self._reader.current()[0].version})

    async def _metrics(self, request: Request) -> Response:
        check_caller(request, self._port)
        self._credentials.check_user(request)
        return PlainTextResponse(prometheus.render(self._counters), media_type=prometheus.MEDIA_TYPE)

    async def _score(self, request: Request) -> Response:
        begin = time.monotonic()
        call = _Call(request)
        try:
            response = await self._answer(call)
        except AzureError as error:
            response = render(error, body_read=call.body_read)
        except ClientDisconnect:
            response = Response(status_code=CLIENT_GONE)
        if call.counted:
            took = (time.monotonic() - begin) * 1000
            self._counters.finished(call.key, call.deployment, response.status_code, took, call.model_status)
        response.headers["x-request-id"] = call.identifier
        client = request.headers.get("x-ms-client-request-id", "")
        if _printable(client):
            response.headers["x-ms-client-request-id"] = client
        return response

    async def _answer(self, call: _Call) -> Response:
        request = call.request
        check_caller(request, self._port)
        endpoint = self._find(call)
        # From here on it is a request to an endpoint that exists.
        call.counted = True
        self._credentials.check(request, endpoint)
        if len(request.headers.raw) > MAX_HEADERS:
            text = f"The request has more than {MAX_HEADERS} headers."
            raise AzureError(431, "RequestHeaderFieldsTooLarge", text)
        wanted = request.headers.get(DEPLOYMENT_HEADER)
        check_length(request, self._max_body)
        choose(endpoint, wanted, self._rng)  # so that what cannot be served is refused before its body comes
        outgoing = call.outgoing(await read_body(request, self._max_body))
        call.body_read = True
        return await _unless_gone(request, self._send(call, wanted, outgoing))

    async def _send(self, call: _Call, wanted: str | None, outgoing: ScorerRequest) -> Response:
        seen: EndpointRoute | None = None
        copied = wanted is not None or not call.scoring
        while True:
            endpoint = self._find(call)
            name = call.deployment = choose(endpoint, wanted, self._rng)
            if not copied and (other := mirrored(endpoint, name, self._rng)) is not None:
                self._mirror.copy(call.key, other, outgoing)
            copied = True
            counters = self._counters.of(call.key, name)
            counters.in_flight += 1
            try:
                answer = await self._forwarder.send(call.key, name, outgoing)
            except NotStarted as error:
                # A scorer that was just replaced is not reachable any more; then the table has changed, too.
                if self._find(call) is endpoint and seen is endpoint:
                    log.warning("%s: no scorer of %s can be reached: %s", call.key, name, error)
                    raise unavailable(f"Deployment {name!r} has no running scorer: {error}.") from error
                seen = endpoint
                continue
            except Died as error:
                log.warning("%s: the scorer of %s ended with a request: %s", call.key, name, error)
                raise died(name, str(error)) from error
            except Busy as error:
                raise AzureError(429, "TooManyRequests", f"Deployment {name!r}: {error}.") from error
            except TimeoutError as error:
                limit = endpoint.deployments[name].request_timeout_ms
                text = f"Deployment {name!r} did not answer within its request_timeout_ms of {limit}."
                raise AzureError(408, "RequestTimeout", text) from error
            finally:
                counters.in_flight -= 1
            return self._finish(call, name, answer)

    def _finish(self, call: _Call, name: str, answer: ScorerAnswer) -> Response:
        if call.path == b"/swagger.json" and answer.status == 404:
            # The scorer's own words: it names the versions that there are.
            response = Passed(404, answer)
            response.headers[DEPLOYMENT_HEADER] = name
            return response
        call.model_status = model_status(answer)
        return pass_on(answer, name)

    def _find(self, call: _Call) -> EndpointRoute:
        endpoint = self._table().get(call.key)
        if endpoint is None:
            name = call.request.path_params["endpoint"]
            raise not_found(f"There is no endpoint {name!r} in this workspace.", target="endpoint")
        return endpoint

    def _table(self) -> Mapping[str, EndpointRoute]:
        """The endpoints of the newest table; whoever depends on it is told of a change."""
        table, changed = self._reader.current()
        if changed:
            self._forwarder.update(table)
            self._counters.keep_only(
                (key, name) for key, endpoint in table.endpoints.items() for name in endpoint.deployments
            )
        return table.endpoints


class _Call:
    """One request of a client, and what is known about it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.key = endpoint_key(request.path_params["workspace"], request.path_params["endpoint"])
        given = request.headers.get("x-request-id", "")
        self.identifier = given if _printable(given) else str(uuid.uuid4())
        self.path = b"/" + request.url.path.rpartition("/")[2].encode()
        self.deployment = NO_DEPLOYMENT
        self.model_status = 0
        # A request without one leaves nothing to be read before its connection can be used again.
        sent = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
        self.body_read = not sent
        self.counted = False

    @property
    def scoring(self) -> bool:
        return self.path == b"/score"

    def outgoing(self, body: list[Any]) -> ScorerRequest:
        """The request for the scorer: all headers but those that are not its business."""
        query = self.request.scope["query_string"]
        headers = [pair for pair in self.request.headers.raw if pair[0] not in _NOT_PASSED_ON]
        headers.append((b"x-request-id", self.identifier.encode()))
        # Where the document that a scorer writes of itself has to send its readers.
        headers.append((b"x-forwarded-prefix", f"/{self.key}".encode()))
        method = "POST" if self.request.method == "POST" else "GET"
        return ScorerRequest(method, self.path + (b"?" + query if query else b""), headers, body)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """What `work` gives; it is cancelled when the client hangs up first. Raises ClientDisconnect then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _azure_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AzureError)
    return render(error)


async def _no_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    text = f"{request.method} {request.url.path[:200]}: score with POST /<workspace id>/<endpoint>/score."
    return render(AzureError(status, "MethodNotAllowed" if status == 405 else "ResourceNotFound", text))


def _printable(text: str) -> bool:
    return 0 < len(text) <= 128 and text.isascii() and text.isprintable()
