"""Liveness and readiness probes of a scorer: their settings, and when their answers change anything.

`initial_delay` is grace: failures within it do not count, and nothing ever waits for its end. A readiness
probe asks often until the first answer, so that a scorer is in use as soon as its model is loaded.
Names, defaults and meaning: Azure's ProbeSettings of managed online deployments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Answer = Literal["ok", "failing", "broken"]

# Seconds between questions to a scorer that has not been ready yet.
EAGER = 0.1


@dataclass(frozen=True)
class ProbeSettings:
    """One probe. Times in seconds; thresholds are numbers of answers in a row."""

    initial_delay: float = 10.0
    period: float = 10.0
    timeout: float = 2.0
    success_threshold: int = 1
    failure_threshold: int = 30

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> ProbeSettings:
        """What `to_json` gave; defaults for None."""
        return cls(**(value or {}))


class ProbeState:
    """What the answers to one probe add up to. `begin` is when the process was started."""

    def __init__(self, settings: ProbeSettings, begin: float, *, healthy: bool, eager: bool = False) -> None:
        """`healthy`: what holds before the first answer; `eager`: ask often until there is one."""
        self.settings = settings
        self.healthy = healthy
        self.failures = 0
        self.successes = 0
        self._grace_ends = begin + settings.initial_delay
        self._eager = eager
        self.due = begin if eager else begin + settings.period

    def record(self, now: float, ok: bool) -> bool:
        """Take one answer in; whether `healthy` has changed."""
        before = self.healthy
        if ok:
            self._eager = False
            self.failures = 0
            self.successes += 1
            if self.successes >= self.settings.success_threshold:
                self.healthy = True
        else:
            self.successes = 0
            if now >= self._grace_ends:
                self.failures += 1
            if self.failures >= self.settings.failure_threshold:
                self.healthy = False
        self.due = now + (EAGER if self._eager else self.settings.period)
        return self.healthy != before


class Watch:
    """Both probes of one process.

    `alive(timeout)` and `ready(timeout)` ask it: "ok", "failing", or "broken": it will never be ready.
    """

    def __init__(
        self,
        liveness: ProbeSettings,
        readiness: ProbeSettings,
        begin: float,
        *,
        alive: Callable[[float], Answer],
        ready: Callable[[float], Answer],
    ) -> None:
        self._alive = alive
        self._ready = ready
        self._liveness = ProbeState(liveness, begin, healthy=True)
        self._readiness = ProbeState(readiness, begin, healthy=False, eager=True)
        self.broken = False

    @property
    def ready(self) -> bool:
        """Whether requests may go to the process."""
        return self._readiness.healthy

    @property
    def dead(self) -> bool:
        """Whether the process has to be started again."""
        return not self._liveness.healthy

    @property
    def due(self) -> float:
        """When to call `tick` again."""
        return min(self._liveness.due, self._readiness.due)

    def tick(self, now: float) -> str | None:
        """Ask what is due; what has changed, in words for the log."""
        told: list[str] = []
        state = self._readiness
        if now >= state.due:
            answer = self._ready(state.settings.timeout)
            self.broken = answer == "broken"
            if state.record(now, answer == "ok"):
                told.append(
                    "ready: requests are taken"
                    if state.healthy
                    else f"the readiness probe failed {state.failures} times in a row: "
                    "no requests until it succeeds"
                )
        state = self._liveness
        if now >= state.due and state.record(now, self._alive(state.settings.timeout) == "ok"):
            told.append(f"the liveness probe failed {state.failures} times in a row")
        return "; ".join(told) or None
