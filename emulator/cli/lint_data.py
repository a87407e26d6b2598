"""Lint of labelled images: an MLTable folder or a file of JSON lines, row by row, without a server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from amlocal.compat import mltable
from amlocal.compat.azureml_uri import is_azureml, parse
from amlocal.compat.jsonl import DataError
from amlocal.compat.mltable import Report, Unchecked
from amlocal.emulator.cli.lint_findings import Finding, Severity, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".jpe", ".jfif", ".bmp", ".tif", ".tiff")
"""The kinds of images that are trained on."""
_LISTED = 100
_PLACE = re.compile(r"(?P<file>.+?):(?P<line>\d+)")


def folder(
    path: Path, shown: str, *, label: str, task: str, least: int
) -> tuple[list[Finding], Report | None]:
    """Lint an MLTable folder; `shown` is its name in the findings. No report when the rows lie elsewhere."""
    try:
        report = mltable.lint(path, resolve=_resolve, label_column=label, task=task, minimum_rows=least)
    except Unchecked as error:
        text = f"{error} is in a datastore, so its rows are not checked here"
        return [Finding(f"{shown}/MLTable", 1, "warning", one_line(text))], None
    return _findings(report, lambda name: f"{shown}/{name}", f"{shown}/MLTable"), report


def lines(path: Path, shown: str, *, label: str, task: str) -> list[Finding]:
    """Lint a file of JSON lines, as if an MLTable file lay beside it."""
    report = mltable.lint_lines(path, resolve=_resolve, label_column=label, task=task)
    return _findings(report, lambda name: shown, shown)


def _resolve(reference: str) -> Path:
    """What only a server knows counts as there; what no server takes is refused as it would."""
    if is_azureml(reference):
        parse(reference)
        raise Unchecked(reference)
    raise ValueError(
        f"{reference[:200]!r} is neither a relative path nor an azureml reference; jobs read from datastores "
        "only"
    )


def _findings(report: Report, named: Callable[[str], str], whole: str) -> list[Finding]:
    found = [*_errors(report, named, whole), *_dropped(report, named), *_left_out(report, named)]
    found += _suffixes(report, named)
    found += [Finding(whole, 1, "warning", one_line(notice)) for notice in report.notices]
    return found


def _errors(report: Report, named: Callable[[str], str], whole: str) -> Iterator[Finding]:
    for error in report.errors:
        file, line = _place(error, named, whole)
        yield Finding(file, line, "error", one_line(error.message))


def _place(error: DataError, named: Callable[[str], str], whole: str) -> tuple[str, int]:
    match = _PLACE.fullmatch(error.where)
    if match is None:
        return whole, 1
    file = match["file"]
    return (whole if file.endswith("/MLTable") else named(file)), int(match["line"])


def _dropped(report: Report, named: Callable[[str], str]) -> Iterator[Finding]:
    for row in report.dropped[:_LISTED]:
        yield Finding(named(row.file), row.line, "warning", one_line(f"the row is dropped: {row.reason}"))
    yield from _more(report.dropped, named, "rows are dropped")


def _left_out(report: Report, named: Callable[[str], str]) -> Iterator[Finding]:
    for row in report.left_out[:_LISTED]:
        yield Finding(named(row.file), row.line, "warning", one_line(f"left out: {row.reason}"))
    if report.left_out_count > _LISTED:
        more = f"{report.left_out_count - _LISTED} more boxes or polygons are left out"
        yield Finding(named(report.left_out[0].file), 1, "warning", more)


def _suffixes(report: Report, named: Callable[[str], str]) -> Iterator[Finding]:
    strange = [row for row in report.rows if not _path(row.path).lower().endswith(SUFFIXES)]
    for row in strange[:_LISTED]:
        file, _, line = row.source.rpartition(":")
        text = f"{_path(row.path).rpartition('/')[2][:200]!r} does not end in one of {', '.join(SUFFIXES)}"
        yield Finding(named(file), int(line), "warning", one_line(text))
    yield from _more([row.source.rpartition(":")[0] for row in strange], named, "images have another ending")


def _more(
    rows: list[mltable.Dropped] | list[str], named: Callable[[str], str], what: str
) -> Iterator[Finding]:
    if len(rows) <= _LISTED:
        return
    first = rows[0] if isinstance(rows[0], str) else rows[0].file
    severity: Severity = "warning"
    yield Finding(named(first), 1, severity, f"{len(rows) - _LISTED} more {what}")


def _path(reference: str) -> str:
    return unquote(urlsplit(reference).path) if is_azureml(reference) else reference
