"""What the router counts, per endpoint and deployment: requests by status, latencies, copies.

All of it begins at nothing with each start of the router process (`since` says when); a deployment's counters
end with the deployment. Latency is from the arrival of a request's headers to the moment at which
its answer is there, in milliseconds; the time that the client takes to send its body is in it.
"""

from __future__ import annotations

import bisect
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Upper ends of the latency buckets in milliseconds; what takes longer than the last is in one more.
BUCKETS_MS = (
    1,
    2,
    5,
    10,
    20,
    35,
    50,
    75,
    100,
    150,
    250,
    500,
    1000,
    2500,
    5000,
    10_000,
    30_000,
    60_000,
    180_000,
)
# The name under which requests count that were refused before a deployment was chosen.
NO_DEPLOYMENT = ""
# How many past minutes are kept for questions about a time span.
MINUTES_KEPT = 60


@dataclass
class Latency:
    """Counts by bucket, and what is known exactly."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_MS) + 1))
    count: int = 0
    sum: float = 0.0
    min: float = 0.0
    max: float = 0.0

    def add(self, milliseconds: float) -> None:
        self.buckets[bisect.bisect_left(BUCKETS_MS, milliseconds)] += 1
        self.min = milliseconds if self.count == 0 else min(self.min, milliseconds)
        self.max = max(self.max, milliseconds)
        self.count += 1
        self.sum += milliseconds

    def percentile(self, share: float) -> float:
        """An estimate, from the buckets, of the latency that `share` (0 to 1) of all keep; 0 for none."""
        left = share * self.count
        begin = 0.0
        for end, count in zip((*BUCKETS_MS, self.max), self.buckets, strict=True):
            if count and left <= count:
                value = begin + (max(float(end), begin) - begin) * left / count
                return min(max(value, self.min), self.max)
            left -= count
            begin = float(end)
        return self.max

    def to_json(self) -> dict[str, Any]:
        shares = {f"p{number}": self.percentile(number / 100) for number in (50, 90, 95, 99)}
        exact = {"count": self.count, "sum": self.sum, "min": self.min, "max": self.max}
        return {key: round(value, 3) for key, value in {**exact, **shares}.items()} | {
            "buckets": list(self.buckets)
        }


@dataclass
class Minute:
    """One minute of a deployment: its requests by (status, the model's own status), and their latencies."""

    requests: Counter[tuple[int, int]] = field(default_factory=Counter)
    latency: Latency = field(default_factory=Latency)

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": {f"{status}/{model}": number for (status, model), number in self.requests.items()},
            "latency_ms": self.latency.to_json(),
        }


@dataclass
class DeploymentCounters:
    """One deployment's counters. A copy of another deployment's request counts as `mirrored`, too."""

    requests: Counter[int] = field(default_factory=Counter)
    model_status: Counter[int] = field(default_factory=Counter)
    latency: Latency = field(default_factory=Latency)
    in_flight: int = 0
    mirrored: int = 0
    mirror_dropped: int = 0
    minutes: dict[int, Minute] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": {str(status): number for status, number in sorted(self.requests.items())},
            "model_status": {str(status): number for status, number in sorted(self.model_status.items())},
            "errors": sum(number for status, number in self.requests.items() if status >= 400),
            "latency_ms": self.latency.to_json(),
            "in_flight": self.in_flight,
            "mirrored": self.mirrored,
            "mirror_dropped": self.mirror_dropped,
            "minutes": {str(minute): value.to_json() for minute, value in self.minutes.items()},
        }


class Counters:
    """All counters of a router. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.since = clock()
        # Once written in any case: a file may be there that a router before this one has left.
        self.changed = True
        self._known: dict[tuple[str, str], DeploymentCounters] = {}

    def of(self, endpoint: str, deployment: str) -> DeploymentCounters:
        """The counters of a deployment, to be changed by the caller."""
        self.changed = True
        return self._known.setdefault((endpoint, deployment), DeploymentCounters())

    def finished(
        self, endpoint: str, deployment: str, status: int, milliseconds: float, model_status: int = 0
    ) -> None:
        """Count a request that was answered with `status`; `model_status` is what the model itself said."""
        counters = self.of(endpoint, deployment)
        counters.requests[status] += 1
        if model_status:
            counters.model_status[model_status] += 1
        counters.latency.add(milliseconds)
        now = int(self._clock()) // 60
        minute = counters.minutes.get(now)
        if minute is None:
            minute = counters.minutes[now] = Minute()
            for past in [past for past in counters.minutes if past <= now - MINUTES_KEPT]:
                del counters.minutes[past]
        minute.requests[status, model_status] += 1
        minute.latency.add(milliseconds)

    def keep_only(self, names: Iterable[tuple[str, str]]) -> None:
        """Forget deployments that are gone (endpoint, deployment), so that names cannot pile up."""
        wanted = set(names)
        endpoints = {endpoint for endpoint, _ in wanted}
        for endpoint, deployment in list(self._known):
            gone = (endpoint, deployment) not in wanted
            if gone and not (deployment == NO_DEPLOYMENT and endpoint in endpoints):
                del self._known[endpoint, deployment]
                self.changed = True

    def all(self) -> list[tuple[str, str, DeploymentCounters]]:
        """Endpoint's key, deployment's name, counters; in the order of the names."""
        return [(*key, value) for key, value in sorted(self._known.items())]

    def to_json(self) -> dict[str, Any]:
        """{"since", "endpoints": {endpoint key: {deployment: its counters}}}."""
        endpoints: dict[str, dict[str, Any]] = {}
        for endpoint, deployment, counters in self.all():
            endpoints.setdefault(endpoint, {})[deployment] = counters.to_json()
        return {"since": self.since, "endpoints": endpoints}

    def write(self, path: Path) -> None:
        """Replace the file at `path`, if anything has changed; not made to survive a power loss."""
        if not self.changed:
            return
        self.changed = False
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(self.to_json(), file)
        temporary.replace(path)


def counters_file(routes: Path) -> Path:
    """Where the router that reads the table `routes` leaves its counters."""
    return routes.with_name(f"{routes.name}.counters.json")


def read(path: Path) -> dict[str, Any]:
    """What a router wrote last, as `Counters.to_json` has it; nothing counted when there is no file."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {"since": 0.0, "endpoints": {}}
    return content
