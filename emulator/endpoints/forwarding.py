"""Hands requests to a deployment's scorer processes, each within its limits, and lets the others wait.

Instances may come and go meanwhile: who waits then gets a place at one that is there.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable

from amlocal.emulator.endpoints.route_table import DeploymentRoute, RouteTable
from amlocal.emulator.endpoints.scorer_client import (
    NotStarted,
    ScorerAnswer,
    ScorerRequest,
    exchange,
)

# Azure takes this many requests per place before it refuses more ("Managed online endpoint limits").
QUEUE_FACTOR = 2


class Busy(Exception):
    """More requests are under way than the deployment takes (429 in Azure)."""


class Forwarder:
    """The queues of all deployments; used from one event loop."""

    def __init__(self) -> None:
        self._table = RouteTable()
        self._queues: dict[tuple[str, str], _Queue] = {}

    async def send(self, endpoint: str, name: str, request: ScorerRequest) -> ScorerAnswer:
        """The answer of the least busy instance of deployment `name` of `endpoint` (its key in the table).

        Raises Busy above twice `max_concurrent` requests per instance; TimeoutError after
        `request_timeout_ms`, the wait for a place included, as Azure counts it; NotStarted when no instance
        could be reached; Died.
        """
        deployment = self._deployment(endpoint, name)
        if deployment is None:
            raise NotStarted("it is gone")
        queue = self._queues.get((endpoint, name))
        if queue is None:
            queue = self._queues[endpoint, name] = _Queue(deployment)
        limit = QUEUE_FACTOR * deployment.max_concurrent * len(deployment.instances)
        if queue.in_flight >= limit > 0:
            raise Busy(f"{limit} requests are under way, and it takes no more")
        queue.in_flight += 1
        try:
            async with asyncio.timeout(deployment.request_timeout_ms / 1000):
                return await self._try_each(queue, request)
        finally:
            queue.in_flight -= 1

    def update(self, table: RouteTable) -> None:
        """Take over a new route table; who waits for an instance that is gone waits no longer."""
        self._table = table
        for key, queue in list(self._queues.items()):
            deployment = self._deployment(*key)
            queue.update(deployment or DeploymentRoute())
            if deployment is None and queue.in_flight == 0:
                del self._queues[key]

    def _deployment(self, endpoint: str, name: str) -> DeploymentRoute | None:
        route = self._table.endpoints.get(endpoint)
        return None if route is None else route.deployments.get(name)

    async def _try_each(self, queue: _Queue, request: ScorerRequest) -> ScorerAnswer:
        reason = "it has no instance"
        tried: set[str] = set()
        while (socket := await queue.place(tried)) is not None:
            try:
                return await exchange(socket, request)
            except NotStarted as error:
                tried.add(socket)
                reason = str(error)
            finally:
                queue.free(socket)
        raise NotStarted(reason)


class _Queue:
    """The places of one deployment: `max_concurrent` at each instance, given in the order of asking."""

    def __init__(self, deployment: DeploymentRoute) -> None:
        self.in_flight = 0
        self._sockets = sockets_of(deployment)
        self._places = deployment.max_concurrent
        self._busy: Counter[str] = Counter()
        self._waiting: deque[asyncio.Future[str | None]] = deque()

    def update(self, deployment: DeploymentRoute) -> None:
        sockets = sockets_of(deployment)
        if (sockets, deployment.max_concurrent) != (self._sockets, self._places):
            self._sockets, self._places = sockets, deployment.max_concurrent
            while self._waiting:
                _give(self._waiting.popleft(), None)

    async def place(self, tried: Iterable[str]) -> str | None:
        """A place at an instance that was not tried, to be given back by `free`; None if there is none."""
        while candidates := [socket for socket in self._sockets if socket not in tried]:
            socket: str | None = min(candidates, key=self._busy.__getitem__)
            assert socket is not None
            if self._busy[socket] < self._places:
                self._busy[socket] += 1
                return socket
            turn: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                socket = await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled() and (given := turn.result()) is not None:
                    self.free(given)
                raise
            if socket is not None and socket not in tried:
                return socket
            if socket is not None:
                self.free(socket)
        return None

    def free(self, socket: str) -> None:
        """Give a place back: to who has waited longest, if the instance is still there."""
        if socket in self._sockets and self._busy[socket] <= self._places:
            while self._waiting:
                if _give(self._waiting.popleft(), socket):
                    return
        self._busy[socket] -= 1
        if self._busy[socket] == 0:
            del self._busy[socket]


def sockets_of(deployment: DeploymentRoute) -> tuple[str, ...]:
    return tuple(instance.socket for instance in deployment.instances)


def _give(turn: asyncio.Future[str | None], socket: str | None) -> bool:
    """Whether somebody still waits for this turn."""
    if turn.done():
        return False
    turn.set_result(socket)
    return True
