"""The setting `caps`: AutoML jobs made smaller than they ask to be, for tests of larger ones.

Nothing is capped unless the setting says so, and each job whose server has it says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from amlocal.compat import names
from amlocal.compat.data_report import Report, Row
from amlocal.compat.label_readers import classes_of
from amlocal.emulator.settings import Caps

TAG = "amlocal.caps"
"""Stands on every run of a job on a server that has caps: the caps as JSON."""
_EPOCHS = "number_of_epochs"
_SIDES = (
    "training_crop_size",
    "validation_crop_size",
    "validation_resize_size",
    "min_size",
    "max_size",
    "image_size",
)


@dataclass(frozen=True)
class Capped:
    """A trial's parameters under the caps, and a notice for what they changed."""

    parameters: dict[str, Any]
    notices: tuple[str, ...]


def tags(caps: Caps) -> dict[str, str]:
    """The tag of a job's runs; none without caps."""
    given = _given(caps)
    return {TAG: json.dumps(given)} if given else {}


def lines(caps: Caps) -> list[str]:
    """What the head of a trial's log says about them."""
    given = ", ".join(f"{name} {value}" for name, value in _given(caps).items())
    return [f"WARNING: this server caps AutoML jobs (setting caps): at most {given}"] if given else []


def trials(caps: Caps, wanted: int) -> int:
    """How many trials a job may have that asks for `wanted`."""
    return wanted if caps.trials is None else min(wanted, caps.trials)


def parameters(caps: Caps, task: str, model: str, given: Mapping[str, Any]) -> Capped:
    """The parameters of a trial of this model, `given` by its job, its sample or AutoMode, under the caps.

    What is not given has its default, which is capped as well. A side that the model does not use is left
    alone; a model that is built for one size (`names.apply_size_rules`) has that size in spite of a cap.
    """
    capped, changes = dict(given), []
    rows = names.hyperparameters(task)
    for name, most in ((_EPOCHS, caps.epochs), *((side, caps.image_size) for side in _SIDES)):
        row = rows.get(name)
        if row is None or most is None or row.note_for(model):
            continue
        value = row.default_for(model) if given.get(name) is None else given[name]
        if value > most:
            capped[name] = most
            changes.append(f"{name} {most} (instead of {value})")
    notices = (f"capped by this server's settings: {', '.join(changes)}",) if changes else ()
    return Capped(capped, notices)


def images(caps: Caps, report: Report) -> Report:
    """A data set's report with the first rows that the caps allow, in their order.

    Every class keeps its first row, if need be in place of others; where the classes alone need more rows
    than the cap, those are kept. Counts are those of what is kept, and a notice says what is not.
    """
    if caps.images is None or len(report.rows) <= caps.images:
        return report
    kept = _first(report.rows, caps.images)
    fewer = replace(report, rows=kept, labels=Counter(), objects=Counter(), notices=list(report.notices))
    for row in kept:
        fewer.count(row)
    fewer.notices.append(
        f"capped by this server's settings: {len(kept)} of {len(report.rows)} images are used."
    )
    return fewer


def _first(rows: Sequence[Row], most: int) -> list[Row]:
    seen: set[str] = set()
    needed = []
    for number, row in enumerate(rows):
        classes = classes_of(row.label)
        if not seen.issuperset(classes):
            needed.append(number)
            seen.update(classes)
    others = iter(sorted(set(range(len(rows))) - set(needed)))
    kept = {*needed, *(number for number, _ in zip(others, range(most - len(needed)), strict=False))}
    return [rows[number] for number in sorted(kept)]


def _given(caps: Caps) -> dict[str, int]:
    return {name: value for name, value in asdict(caps).items() if value is not None}
