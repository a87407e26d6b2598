"""The data of an AutoML image job: a quick look at submit, the whole check and the manifests in Preparing."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amlocal.compat import mltable
from amlocal.compat.mltable import Dropped, Report
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import caps
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.jobs.inputs import InputError, Resolver
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.runners.base import Abandoned, JobFailure
from amlocal.emulator.settings import Caps
from amlocal.emulator.store.folder import write_atomic
from amlocal.emulator.store.workspace import Workspace

BUDGET = 1.0
"""Seconds that a look at all data of a job may take in a request."""
TRAIN_MANIFEST = "train_manifest.jsonl"
VALIDATION_MANIFEST = "validation_manifest.jsonl"
_LINES = "data_lines.json"
_LISTED = 100


def look(resolver: Resolver, workspace: Workspace, job: ImageJob) -> None:
    """Raises AzureError 400 for every fault that shows within the budget."""
    deadline = time.monotonic() + BUDGET
    for name, key, uri, minimum in _sets(job):
        left = max(0.1, deadline - time.monotonic())
        report = _lint(resolver, workspace, job, (name, key, uri, minimum), left, time.monotonic)
        if report.errors:
            details = [
                {"code": error.code, "message": error.message, "target": error.where}
                for error in report.errors
            ]
            raise AzureError(
                400,
                "UserError",
                f"{name}: {report.errors[0].message}",
                target=f"taskDetails.{key}",
                details=details,
            )


@dataclass(frozen=True)
class Checked:
    """The whole check of a job's data: a report for each data set by its name, and what is odd about them."""

    reports: Mapping[str, Report]
    notices: Sequence[str]

    def raise_for_errors(self) -> None:
        """Raises JobFailure naming everything that is wrong with the first faulty data set."""
        for name, report in self.reports.items():
            if report.errors:
                raise JobFailure(f"{name}: " + "\n".join(error.message for error in report.errors))

    def capped(self, most: Caps) -> Checked:
        """The same with as many images as the server's caps allow."""
        reports = {name: caps.images(most, report) for name, report in self.reports.items()}
        told = [
            f"{name}: {notice}"
            for name, report in reports.items()
            for notice in report.notices[len(self.reports[name].notices) :]
        ]
        return replace(self, reports=reports, notices=[*self.notices, *told])

    def write_manifests(self, job_dir: Path) -> None:
        """What the trainer reads."""
        for name, report in self.reports.items():
            file = TRAIN_MANIFEST if name == "training_data" else VALIDATION_MANIFEST
            mltable.write_manifest(report, job_dir / file)

    def write_report(self, path: Path, staging: Path) -> None:
        """data_report.json: all dropped rows of both sets, each set's own counts. Prepared in `staging`."""
        document: dict[str, Any] = {
            "dropped": [
                {"dataset": name, **row._asdict()}
                for name, report in self.reports.items()
                for row in report.dropped
            ],
            "notices": list(self.notices),
            **{name: report.as_dict() for name, report in self.reports.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = json.dumps(document, ensure_ascii=False, indent=1) + "\n"
        write_atomic(path, content.encode(), staging=staging)

    def write_lines(self, job_dir: Path) -> None:
        """What `lines_of` gives back."""
        write_atomic(job_dir / _LINES, json.dumps(list(self.lines())).encode())

    def lines(self) -> Iterator[str]:
        """Counts, dropped rows and notices for the log."""
        for name, report in self.reports.items():
            rows, labels, dropped = len(report.rows), len(report.labels), len(report.dropped)
            objects = f"{report.objects.total()} objects, " if report.detection else ""
            yield f"{name}: {rows} images, {objects}{labels} labels, {dropped} rows dropped"
            yield from _listed("dropped", report.dropped, dropped)
            yield from _listed("left out", report.left_out, report.left_out_count)
        yield from self.notices


def lines_of(job_dir: Path) -> list[str]:
    """What the log of each trial says of the data; none where that is gone."""
    try:
        return [str(line) for line in json.loads((job_dir / _LINES).read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return []


def _listed(what: str, rows: Sequence[Dropped], count: int) -> Iterator[str]:
    for row in rows[:_LISTED]:
        yield f"{what} {row.where}: {row.reason}"
    if count > _LISTED:
        yield f"... and {count - _LISTED} more, in outputs/data_report.json"


def check(resolver: Resolver, workspace: Workspace, job: ImageJob, abandoned: Callable[[], bool]) -> Checked:
    """Check every row of both data sets. Raises JobFailure for data that is not there, and Abandoned."""

    def clock() -> float:
        if abandoned():
            raise Abandoned
        return 0.0

    reports: dict[str, Report] = {}
    for name, key, uri, minimum in _sets(job):
        try:
            report = _lint(resolver, workspace, job, (name, key, uri, minimum), math.inf, clock)
        except AzureError as error:
            raise JobFailure(error.message) from error
        reports[name] = report
    notices = [f"{name}: {notice}" for name, report in reports.items() for notice in report.notices]
    if "validation_data" in reports:
        notices += mltable.compare(reports["training_data"], reports["validation_data"])
    return Checked(reports, notices)


def _sets(job: ImageJob) -> Iterator[tuple[str, str, str, int]]:
    yield "training_data", "trainingData", job.training_uri, mltable.MINIMUM_ROWS
    if job.validation_uri is not None:
        yield "validation_data", "validationData", job.validation_uri, 1


def _lint(
    resolver: Resolver,
    workspace: Workspace,
    job: ImageJob,
    data: tuple[str, str, str, int],
    budget: float,
    clock: Callable[[], float],
) -> Report:
    name, key, uri, minimum = data
    target = f"taskDetails.{key}.uri"
    try:
        folder = resolver.resolve(workspace, uri)
    except InputError as error:
        raise AzureError(error.status, error.code, f"{name}: {error.message}", target=target) from error
    if not folder.is_dir():
        what = "is a file; name the folder that holds MLTable" if folder.exists() else "does not exist"
        raise AzureError(
            400,
            "UserError",
            f"{name}: {shown(uri)} {what}. An mltable input is a folder with a file named MLTable.",
            target=target,
        )
    return mltable.lint(
        folder,
        resolve=resolver.bound(workspace),
        label_column=job.label_column,
        task=job.task,
        minimum_rows=minimum,
        budget_seconds=budget,
        clock=clock,
    )
