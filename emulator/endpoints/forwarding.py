"""Hands a request to one scorer process over its unix socket, within the instance's limits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import httpx

from amlocal.emulator.endpoints.route_table import DeploymentRoute


class Unreachable(Exception):
    """No scorer took the request: it was not started anywhere and may be sent again."""


class Died(Exception):
    """The scorer ended while it worked on the request."""


class Busy(Exception):
    """More requests are under way than the deployment takes (429 in Azure)."""


@dataclass
class _Lane:
    """One scorer process: its client, and how much it has to do."""

    client: httpx.AsyncClient
    turns: asyncio.Semaphore
    limit: int
    in_flight: int = 0


class Forwarder:
    """Clients and counters of all instances; used from one event loop."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}

    async def post(
        self, deployment: DeploymentRoute, body: bytes, headers: Mapping[str, str]
    ) -> httpx.Response:
        """The answer of the least busy instance that can be reached.

        Raises Busy above twice `max_concurrent` requests per instance, TimeoutError after
        `request_timeout_ms` (with the wait for a turn), Unreachable and Died.
        Limits: Azure's "Managed online endpoint limits".
        """
        lanes = [self._lane(item.socket, deployment.max_concurrent) for item in deployment.instances]
        if sum(lane.in_flight for lane in lanes) >= 2 * sum(lane.limit for lane in lanes):
            raise Busy(f"more than {2 * sum(lane.limit for lane in lanes)} requests are under way")
        async with asyncio.timeout(deployment.request_timeout_ms / 1000):
            reason = "it has no instance"
            for lane in sorted(lanes, key=lambda lane: lane.in_flight):
                lane.in_flight += 1
                try:
                    async with lane.turns:
                        return await lane.client.post("http://scorer/score", content=body, headers=headers)
                except httpx.ConnectError as error:
                    reason = str(error)
                except httpx.TransportError as error:
                    raise Died(str(error) or type(error).__name__) from error
                finally:
                    lane.in_flight -= 1
        raise Unreachable(reason)

    async def keep_only(self, sockets: Iterable[str]) -> None:
        """Forget instances that are not in the route table any more, once their last request is done."""
        wanted = set(sockets)
        for path in [path for path in self._lanes if path not in wanted]:
            if self._lanes[path].in_flight == 0:
                await self._lanes.pop(path).client.aclose()

    def _lane(self, path: str, limit: int) -> _Lane:
        lane = self._lanes.get(path)
        if lane is None:
            # A connection for each request: one kept open might be closed by a stopping scorer just when it
            # is used again, and such a request could not safely be repeated. `verify` is without meaning
            # here, but saves reading the system's certificates.
            transport = httpx.AsyncHTTPTransport(
                uds=path, verify=False, limits=httpx.Limits(max_keepalive_connections=0)
            )
            client = httpx.AsyncClient(transport=transport, timeout=None, trust_env=False)  # noqa: S113
            lane = self._lanes[path] = _Lane(client, asyncio.Semaphore(limit), limit)
        elif lane.limit != limit:
            lane.turns, lane.limit = asyncio.Semaphore(limit), limit
        return lane
