"""The limits of an AutoML image job: `taskDetails.limitSettings`, read and checked.

Source: "Set up AutoML to train computer vision models" for defaults and ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amlocal.emulator.jobs import fields

DAY = 86400.0
DEFAULT_TIMEOUT = 7 * DAY
MAXIMUM_TIMEOUT = 60 * DAY
MAXIMUM_TRIALS = 1000
MAXIMUM_CONCURRENT = 100
_PLACE = "taskDetails.limitSettings"
_KEYS = frozenset({"maxTrials", "maxConcurrentTrials", "timeout"})


@dataclass(frozen=True)
class Limits:
    """`timeout` is that of the whole job, in seconds; `concurrent` is never above `trials`.

    `ignored` are the places of limits that mean nothing here.
    """

    trials: int
    concurrent: int
    timeout: float
    ignored: tuple[str, ...]


def read(details: Mapping[str, Any]) -> Limits:
    """The limits in a job's `taskDetails`. Raises AzureError naming field and range."""
    limits = fields.mapping(details, "limitSettings", _PLACE)
    trials = fields.whole(
        limits, "maxTrials", "limits.max_trials", f"{_PLACE}.maxTrials", maximum=MAXIMUM_TRIALS
    )
    concurrent = fields.whole(
        limits,
        "maxConcurrentTrials",
        "limits.max_concurrent_trials",
        f"{_PLACE}.maxConcurrentTrials",
        maximum=MAXIMUM_CONCURRENT,
    )
    timeout = DEFAULT_TIMEOUT
    if limits.get("timeout") is not None:
        timeout = fields.duration(
            limits["timeout"], "limits.timeout_minutes", f"{_PLACE}.timeout", maximum=MAXIMUM_TIMEOUT
        )
    unknown = [key for key, value in limits.items() if key not in _KEYS and value is not None]
    return Limits(
        trials=trials or 1,
        concurrent=min(concurrent or 1, trials or 1),
        timeout=timeout,
        ignored=tuple(f"limitSettings.{key}" for key in unknown),
    )
