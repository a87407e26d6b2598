"""What every engine can do: run one attempt of one job somewhere, and tell what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

EngineStateName = Literal["not_started", "running", "exited", "lost"]


class EngineError(Exception):
    """The engine could not do what it was asked to do; the message says why."""


@dataclass(frozen=True)
class EngineJob:
    """One attempt of one job. Paths are absolute; `grace` and `timeout` are seconds.

    `env` is the complete environment of the process. `stdout` receives standard output and standard error.
    """

    job_dir: Path
    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path
    stdout: Path
    attempt: int = 1
    grace: float = 10.0
    timeout: float | None = None


@dataclass(frozen=True)
class ExitReport:
    """How an attempt ended: a return code, or a signal, or an error that kept it from being started."""

    attempt: int
    returncode: int | None
    signal: int | None
    at: str
    error: str | None = None
    stopped: bool = False
    timed_out: bool = False

    @property
    def succeeded(self) -> bool:
        return self.returncode == 0 and not self.stopped and not self.timed_out

    def describe(self) -> str:
        """The outcome in words, for a job's error message."""
        if self.timed_out:
            return "stopped because its time was up"
        if self.stopped:
            return "stopped on request"
        if self.error is not None:
            return self.error
        if self.signal is not None:
            return f"killed by signal {self.signal}"
        return f"ended with exit code {self.returncode}"


@dataclass(frozen=True)
class EngineState:
    """Where an attempt stands. `report` is there exactly when `name` is "exited".

    "lost": it was started, nobody watches it any more and nobody recorded its end.
    """

    name: EngineStateName
    report: ExitReport | None = None


@dataclass(frozen=True)
class EngineEvent:
    """An attempt that was seen running has reached a final state."""

    job_dir: Path
    attempt: int
    state: EngineState


@dataclass(frozen=True)
class LogChunk:
    """Bytes of an attempt's output and the offset at which to go on."""

    data: bytes
    next_offset: int


@dataclass(frozen=True)
class Gpu:
    """One accelerator. `memory` is bytes, None where only the kernel driver could be asked."""

    index: int
    name: str
    memory: int | None
    driver: str | None


@dataclass(frozen=True)
class Capacity:
    """What the engine may hand out: processors, bytes of memory, accelerators."""

    cpus: int
    memory: int
    gpus: tuple[Gpu, ...] = ()


class Engine(Protocol):
    """The six calls. All are safe to call from any thread, and again after a restart of the server."""

    def submit(self, job: EngineJob) -> None:
        """Start an attempt; it is recorded as started when this returns. Raises EngineError if not."""

    def state(self, job_dir: Path, attempt: int) -> EngineState:
        """Where the attempt stands. A running one is watched from then on: its end comes out of `events`."""

    def logs(self, job_dir: Path, offset: int = 0, limit: int = 1 << 20) -> LogChunk:
        """At most `limit` bytes of the output from `offset` on; empty when there are none yet."""

    def cancel(self, job_dir: Path, attempt: int) -> None:
        """Ask a running attempt to stop, an ended one is left alone. The end is seen by `state`."""

    def events(self, timeout: float | None = None) -> EngineEvent | None:
        """Wait up to `timeout` seconds (None: for ever) for the next attempt to end; None if none did."""

    def capacity(self) -> Capacity:
        """What there is on this engine, now."""
