"""metrics.jsonl: every metric of every epoch, on disk before anyone is told.

One JSON object per line: {"key", "value", "step", "timestamp"}; step = epoch from 0, timestamp in
milliseconds. Termination policies and the server's replay read it, so each (key, step) stands in it once,
also after a resume.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict


class Metric(TypedDict):
    """One line."""

    key: str
    value: float
    step: int
    timestamp: int


class MetricLog:
    """Appends to one file. Opening it cuts off a line that a killed process left unfinished."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._seen: set[tuple[str, int]] = set()
        if fresh:
            path.write_bytes(b"")
        elif path.exists():
            self._seen = {(line["key"], line["step"]) for line in self._repair()}

    def _repair(self) -> list[Any]:
        whole = self._path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end != len(whole):
            with self._path.open("r+b") as file:
                file.truncate(end)
        return [json.loads(line) for line in whole[:end].splitlines()]

    def append(self, metrics: Iterable[Metric]) -> list[Metric]:
        """Write those not yet there, flushed to disk; returns them."""
        new = [metric for metric in metrics if (metric["key"], metric["step"]) not in self._seen]
        if new:
            text = "".join(json.dumps(metric, allow_nan=False) + "\n" for metric in new)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self._seen |= {(metric["key"], metric["step"]) for metric in new}
        return new
