"""A sweep's trials in the order of their scores: the table that ends among the artifacts of its job.

`outputs/leaderboard.csv` has one row a trial and these columns: rank (empty without a score), trial, status,
score, seconds (from the trial's first start to its end), images_per_second (training images of all epochs
over those seconds, so start and validation count; our own trainers only), one column for each hyperparameter,
and reason, why a trial did not complete. Equal scores: the earlier trial is before.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.sweeps.log import brief
from amlocal.emulator.jobs.sweeps.records import SAMPLE, SCORE

CSV = Path("outputs") / "leaderboard.csv"
RESULT = "result.json"
TERMINATED = "amlocal.terminated"
_FIRST = ("rank", "trial", "status", "score", "seconds", "images_per_second")
_LAST = "reason"


@dataclass(frozen=True)
class Row:
    """One trial; `rank` from 1, None without a score. `parameters` by name, inner ones as `outer.inner`."""

    rank: int | None
    trial: str
    status: str
    score: float | None
    seconds: float | None
    images_per_second: float | None
    parameters: Mapping[str, Any]
    reason: str


def maximizes(sweep: JobRecord) -> bool:
    """Whether larger values of the sweep's primary metric are better."""
    return bool(_metric(sweep).get("goal") != "minimize")


def metric(sweep: JobRecord) -> str:
    """The name of the sweep's primary metric; "" before it is known."""
    return str(_metric(sweep).get("name", ""))


def rows(sweep: JobRecord, trials: Sequence[JobRecord], folders: Mapping[str, Path]) -> list[Row]:
    """All trials of a sweep, best first, those without a score last; `trials` in the order of their making.

    `folders`: the job folders by trial, where result.json is looked for.
    """
    sign = -1.0 if maximizes(sweep) else 1.0
    scores = {trial.name: score_of(trial) for trial in trials}

    def order(trial: JobRecord) -> tuple[bool, float]:
        score = scores[trial.name]
        return score is None, 0.0 if score is None else sign * score

    found = []
    for place, trial in enumerate(sorted(trials, key=order), 1):
        seconds = seconds_of(trial)
        found.append(
            Row(
                rank=None if scores[trial.name] is None else place,
                trial=trial.name,
                status=trial.state.value,
                score=scores[trial.name],
                seconds=seconds,
                images_per_second=_speed(folders.get(trial.name), seconds),
                parameters=dict(_flat(_sample(sweep, trial.name))),
                reason=_reason(trial),
            )
        )
    return found


def parameters(found: Sequence[Row]) -> list[str]:
    """The names of all hyperparameters, in the order in which the trials have them."""
    return list(dict.fromkeys(name for row in found for name in row.parameters))


def table(found: Sequence[Row]) -> str:
    """The rows as CSV (RFC 4180, but lines end with a line feed)."""
    names = parameters(found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIRST, *names, _LAST])
    for row in found:
        writer.writerow(
            [
                *(_cell(value) for value in (row.rank, row.trial, row.status, row.score)),
                "" if row.seconds is None else f"{row.seconds:.1f}",
                "" if row.images_per_second is None else f"{row.images_per_second:.1f}",
                *(_cell(row.parameters.get(name)) for name in names),
                row.reason,
            ]
        )
    return text.getvalue()


def score_of(trial: JobRecord) -> float | None:
    """The score that counts for a trial; None: it has none."""
    try:
        score = float(trial.properties[SCORE])
    except (KeyError, ValueError):
        return None
    return score if math.isfinite(score) else None


def seconds_of(trial: JobRecord) -> float | None:
    """From the first start to the end, or to now; None before it."""
    if trial.started_at is None:
        return None
    end = datetime.now(UTC) if trial.ended_at is None else datetime.fromisoformat(trial.ended_at)
    return max(0.0, (end - datetime.fromisoformat(trial.started_at)).total_seconds())


def _metric(sweep: JobRecord) -> dict[str, Any]:
    return _object(sweep.properties.get("primary_metric_config"))


def _sample(sweep: JobRecord, trial: str) -> dict[str, Any]:
    return _object(sweep.tags.get(SAMPLE.format(trial)))


def _object(text: str | None) -> dict[str, Any]:
    """A record's JSON; what a client wrote over it is not trusted to be one."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _flat(sample: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in sample.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _speed(folder: Path | None, seconds: float | None) -> float | None:
    if folder is None or not seconds:
        return None
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        images = float(result["train_images"]) * float(result["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return images / seconds if math.isfinite(images) else None


def _reason(trial: JobRecord) -> str:
    told = trial.tags.get(TERMINATED) or (trial.error or {}).get("message") or ""
    return brief(str(told))


def _cell(value: Any) -> Any:
    return "" if value is None else json.dumps(value) if isinstance(value, list) else value
