"""From a place in a job's REST body to the same place in its YAML."""

from __future__ import annotations

import re
from typing import Any

from amlocal.compat import names

# What is not the REST name in snake_case; "" stands for nothing at all.
_YAML = {
    "taskDetails": "",
    "taskType": "task",
    "limitSettings": "limits",
    "modelSettings": "training_parameters",
    "sweepSettings": "sweep",
    "timeout": "timeout_minutes",
    "uri": "path",
    "jobInputType": "type",
    "jobOutputType": "type",
    "policyType": "type",
    "environmentId": "environment",
    "codeId": "code",
    "computeId": "compute",
    "distributionType": "type",
}
# Names of the user's own, which are as they are.
_OWN = ("inputs", "outputs", "properties", "tags", "environment_variables")
_STEP = re.compile(r"\[(?P<index>\d{1,9})\]|(?P<key>[^.\[\]]+)")

Path = tuple[str | int, ...]


def rest_path(target: str) -> Path:
    """The steps of a target such as taskDetails.searchSpace[0].learningRate."""
    return tuple(
        int(match["index"]) if match["index"] is not None else match["key"]
        for match in _STEP.finditer(target)
    )


def yaml_path(target: str) -> Path:
    """Where the same thing stands in YAML, as far as that can be said."""
    steps = rest_path(target)
    automl = steps[:1] == ("taskDetails",)
    found: list[str | int] = []
    for step in steps:
        own = len(found) == 1 and found[0] in _OWN and not automl
        if isinstance(step, int) or own:
            found.append(step)
        elif name := _yaml(step, automl):
            found.append(name)
    return tuple(found)


def remove(body: dict[str, Any], target: str) -> bool:
    """Takes what a target names out of a REST body; False when it is not there."""
    steps = rest_path(target)
    if "earlyTermination" in steps:
        # A policy without one of its parts is none.
        steps = steps[: steps.index("earlyTermination") + 1]
    if not steps:
        return False
    place: Any = body
    for step in steps[:-1]:
        place = _below(place, step)
    last = steps[-1]
    there = isinstance(place, dict) and last in place
    if there or (isinstance(place, list) and isinstance(last, int) and last < len(place)):
        del place[last]
        return True
    return False


def _below(place: Any, step: str | int) -> Any:
    if isinstance(place, dict):
        return place.get(step)
    return place[step] if isinstance(place, list) and isinstance(step, int) and step < len(place) else None


def _yaml(step: str, automl: bool) -> str:
    if step == "timeout" and not automl:
        return step
    if step in _YAML:
        return _YAML[step]
    for task in names.tasks():
        for row in names.hyperparameters(task).values():
            if row.rest == step:
                return row.name
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", step).lower()
