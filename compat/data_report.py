"""What came out of checking labelled images: good rows, dropped rows, notices, errors; and the manifest.

The manifest is what training reads: JSON lines of path, etag, label and source.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from amlocal.compat.annotations import Annotation
from amlocal.compat.jsonl import DataError
from amlocal.compat.label_readers import AnyLabel, classes_of

FEW_IMAGES = 10
"""A class with fewer is worth a notice: the documentation asks for 10 to 15 samples a label."""
IMBALANCE = 3
"""Largest class over smallest from which on a notice is due: where Azure's own trainer begins to speak of
imbalance and `weighted_loss` begins to act."""

SHOWN = 5
MOST_LEFT_OUT = 10_000
"""Objects that a report lists one by one; more are only counted."""


class Imbalance(NamedTuple):
    """The largest and the smallest class and their numbers of images; `rate` is the one over the other."""

    largest: str
    images: int
    smallest: str
    fewest: int

    @property
    def rate(self) -> float:
        return self.images / self.fewest

    def as_dict(self) -> dict[str, Any]:
        return {
            "largest": {"label": self.largest, "images": self.images},
            "smallest": {"label": self.smallest, "images": self.fewest},
            "rate": round(self.rate, 3),
        }


class Row(NamedTuple):
    """One image to train on: absolute path, etag (`size-mtime_ns`), label, and the file:line it came from."""

    path: str
    etag: str
    label: AnyLabel
    source: str

    def as_dict(self) -> dict[str, Any]:
        """The row as a line of the manifest has it."""
        label: Any = self.label
        if not isinstance(label, str):
            label = [one.as_dict() if isinstance(one, Annotation) else one for one in label]
        return {"path": self.path, "etag": self.etag, "label": label, "source": self.source}


class Dropped(NamedTuple):
    """One row, or one object of a row, that is not used, and why. `column` names the field at fault, "" for
    the whole line."""

    file: str
    line: int
    reason: str
    column: str = ""

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass
class Report:
    """Outcome of lint.

    `complete` is False when the budget ran out first: `rows` then holds what was checked so far and `pending`
    counts the rows that were read and not checked. `labels` counts the images of each class; an image counts
    for each of its classes. `single` counts rows whose label is no list where it should be one.

    With `detection`, labels are objects: `objects` counts those of each class, `left_out` lists objects that
    cannot be used, of which there are `left_out_count`, and `merged` the rows whose objects were added to an
    earlier row of the same image.
    """

    rows: list[Row] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    notices: list[str] = field(default_factory=list)
    errors: list[DataError] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    complete: bool = True
    pending: int = 0
    single: int = 0
    detection: bool = False
    objects: Counter[str] = field(default_factory=Counter)
    left_out: list[Dropped] = field(default_factory=list)
    left_out_count: int = 0
    merged: list[str] = field(default_factory=list)

    @property
    def unlabelled(self) -> int:
        """Images that have no class: of multi-label data, or background images of detection data."""
        return sum(1 for row in self.rows if not row.label)

    def count(self, row: Row) -> None:
        """Add the row's classes, and its objects, to the counts."""
        self.labels.update(classes_of(row.label))
        if self.detection:
            self.objects.update(one.label for one in row.label if isinstance(one, Annotation))

    def leave_out(self, file: str, line: int, reasons: tuple[str, ...], column: str) -> None:
        """Note objects that are not used."""
        self.left_out_count += len(reasons)
        room = MOST_LEFT_OUT - len(self.left_out)
        self.left_out += [Dropped(file, line, reason, column) for reason in reasons[:room]]

    def imbalance(self) -> Imbalance | None:
        """None when there are fewer than two classes."""
        counts = sorted(self.labels.items(), key=lambda item: (-item[1], item[0]))
        return Imbalance(*counts[0], *counts[-1]) if len(counts) > 1 else None

    def raise_for_errors(self) -> Report:
        """Raises the first error, itself when there is none."""
        if self.errors:
            raise self.errors[0]
        return self

    def as_dict(self) -> dict[str, Any]:
        """The content of data_report.json."""
        imbalance = self.imbalance()
        objects = {
            "objects": dict(sorted(self.objects.items())),
            "left_out": [row._asdict() for row in self.left_out],
            "left_out_count": self.left_out_count,
        }
        return {
            "rows": len(self.rows),
            **(objects if self.detection else {}),
            "labels": dict(sorted(self.labels.items())),
            "unlabelled": self.unlabelled,
            "imbalance": imbalance.as_dict() if imbalance else None,
            "dropped": [row._asdict() for row in self.dropped],
            "notices": list(self.notices),
            "errors": [{"code": e.code, "message": e.message, "where": e.where} for e in self.errors],
            "complete": self.complete,
        }


def compare(train: Report, validation: Report) -> list[str]:
    """Notices about two data sets together: classes that only one has, images that are in both."""
    notices = []
    for label in sorted(set(validation.labels) - set(train.labels)):
        notices.append(f"class {label!r} is in the validation data but not in the training data.")
    paths = {row.path for row in train.rows}
    both = [row.source for row in validation.rows if row.path in paths]
    if both:
        notices.append(f"{_count(both, 'validation image')} also in the training data: {_first(both)}.")
    return notices


def write_manifest(report: Report, path: Path) -> int:
    """Writes the good rows as JSON lines, whole or not at all, for the owner only; returns their number.

    Raises the report's first error, and ValueError for a report that is not complete.
    """
    report.raise_for_errors()
    if not report.complete:
        raise ValueError("the report is not complete: run lint without a budget first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            for row in report.rows:
                stream.write(json.dumps(row.as_dict(), ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return len(report.rows)


def notices_of(report: Report) -> list[str]:
    """What is odd about good rows, in sentences: replaced rows, few classes or images, imbalance, labels
    alike."""
    notices: list[str] = []
    counts = report.labels.most_common()
    replaced = [row.where for row in report.dropped if row.reason.startswith("replaced by ")]
    if replaced:
        notices.append(
            f"{_count(replaced, 'row')} replaced by a later one of the same image: {_first(replaced)}."
        )
    if report.merged:
        notices.append(
            f"{_count(report.merged, 'row')} of an image that has a row already: the objects of all its rows "
            f"count: {_first(report.merged)}."
        )
    if report.left_out:
        shown = [f"{row.where}: {row.reason}" for row in report.left_out]
        more = report.left_out_count - len(shown[:SHOWN])
        notices.append(
            f"{report.left_out_count} boxes or polygons cannot be used and are left out: "
            + "; ".join(shown[:SHOWN])
            + (f"; and {more} more." if more > 0 else ".")
        )
    if report.single:
        notices.append(
            f"{report.single} of {len(report.rows) + len(report.dropped)} labels are no list; each counts as "
            "a list of one here, Azure drops such rows."
        )
    if report.unlabelled:
        what = (
            "objects; they are trained on as background" if report.detection else "label; they are trained on"
        )
        notices.append(f"{report.unlabelled} of {len(report.rows)} images have no {what}.")
    if len(counts) == 1:
        what = "objects" if report.detection else "labels"
        number = report.objects.total() if report.detection else counts[0][1]
        notices.append(f"all {number} {what} are the one class {counts[0][0]!r}.")
    few = [f"{label!r} ({count})" for label, count in sorted(counts) if count < FEW_IMAGES]
    if few:
        notices.append(
            f"{_count(few, 'class', 'classes')} with fewer than {FEW_IMAGES} images: {_first(few)}."
        )
    found = report.imbalance()
    if found and found.rate >= IMBALANCE:
        advice = "." if report.detection else "; weighted_loss can help."
        notices.append(
            f"imbalanced classes: {found.largest!r} has {found.images} images, {found.smallest!r} has "
            f"{found.fewest}, {found.rate:.1f} to 1{advice}"
        )
    spellings: dict[str, list[str]] = {}
    for label in report.labels:
        spellings.setdefault(label.strip().casefold(), []).append(label)
    alike = [" and ".join(map(repr, sorted(group))) for group in spellings.values() if len(group) > 1]
    if alike:
        notices.append(f"classes that differ only by case or blanks: {_first(alike)}.")
    return notices


def _count(items: list[str], one: str, many: str = "") -> str:
    return f"1 {one}" if len(items) == 1 else f"{len(items)} {many or one + 's'}"


def _first(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
