"""A run's metrics as its trainer wrote them: one JSON line per value, in the job folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

METRICS_FILE = "metrics.jsonl"
_MOST_BYTES = 16 * 1024**2


@dataclass
class MetricTable:
    """Values by step; `names` in order of first appearance."""

    names: list[str] = field(default_factory=list)
    rows: dict[int, dict[str, float]] = field(default_factory=dict)


def read(job_folder: Path) -> MetricTable:
    """The metrics so far; a half-written last line is left for the next read."""
    table = MetricTable()
    file = job_folder / METRICS_FILE
    if not file.is_file():
        return table
    with file.open("rb") as lines:
        for line in lines.read(_MOST_BYTES).split(b"\n")[:-1]:
            row = json.loads(line)
            name, step = str(row["key"]), int(row["step"])
            if name not in table.names:
                table.names.append(name)
            table.rows.setdefault(step, {})[name] = float(row["value"])
    return table
