"""Copies of requests for a deployment that is being tried out; nobody waits for its answers.

Source: "Test the deployment with mirrored traffic" of Azure's guide to safe rollout.
"""

from __future__ import annotations

import asyncio
import logging
import time

from amlocal.emulator.endpoints.answers import model_status, pass_on
from amlocal.emulator.endpoints.counters import Counters
from amlocal.emulator.endpoints.forwarding import Busy, Forwarder
from amlocal.emulator.endpoints.scorer_client import Died, NotStarted, ScorerRequest

# Copies beyond these are left out and counted: a slow deployment must not fill the router's memory.
MOST_COPIES = 32
MOST_BYTES = 128 * 1024 * 1024

log = logging.getLogger("amlocal.router")


class Mirror:
    """The copies under way."""

    def __init__(
        self,
        forwarder: Forwarder,
        counters: Counters,
        *,
        most_copies: int = MOST_COPIES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._forwarder = forwarder
        self._counters = counters
        self._most_copies = most_copies
        self._most_bytes = most_bytes
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def copy(self, endpoint: str, name: str, request: ScorerRequest) -> None:
        """Send a copy to deployment `name` of `endpoint`, unless too many are under way; returns at once."""
        size = request.size
        counters = self._counters.of(endpoint, name)
        if len(self._tasks) >= self._most_copies or self._bytes + size > self._most_bytes:
            counters.mirror_dropped += 1
            return
        counters.mirrored += 1
        self._bytes += size
        task = asyncio.get_running_loop().create_task(self._send(endpoint, name, request, size))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up the copies under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, endpoint: str, name: str, request: ScorerRequest, size: int) -> None:
        begin = time.monotonic()
        status, own = 499, 0
        try:
            answer = await self._forwarder.send(endpoint, name, request)
            status, own = pass_on(answer, name).status_code, model_status(answer)
        except (Busy, TimeoutError, NotStarted, Died) as error:
            status = {Busy: 429, TimeoutError: 408, NotStarted: 503, Died: 424}[type(error)]
            log.warning("%s: copy for %s failed: %s", endpoint, name, error or "it took too long")
        finally:
            self._bytes -= size
            self._counters.finished(endpoint, name, status, (time.monotonic() - begin) * 1000, own)
