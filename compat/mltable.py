"""Checks an MLTable folder of labelled images, row by row, before anything is trained on them.

Source of the rules: "Set up AutoML to train computer vision models" (at least 10 images, one JSON object a
line, image_url as a stream) and the service's habit of dropping faulty rows with a warning instead of failing
the job.
"""

from __future__ import annotations

import difflib
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from amlocal.compat.azureml_uri import UriError, clean_path, is_azureml, parse
from amlocal.compat.data_report import SHOWN, Dropped, Report, Row, compare, notices_of, write_manifest
from amlocal.compat.jsonl import DataError, read_lines
from amlocal.compat.label_readers import DETECTION, READERS, AnyLabel, Reading, together
from amlocal.compat.labels import LabelError
from amlocal.compat.mltable_file import Definition, Resolve, data_files, is_relative, read_definition

__all__ = [
    "DataError",
    "Dropped",
    "Report",
    "Resolve",
    "Row",
    "Unchecked",
    "compare",
    "lint",
    "lint_lines",
    "write_manifest",
]

IMAGE_COLUMN = "image_url"
MINIMUM_ROWS = 10
"""Fewest training images that AutoML for images accepts."""

_MAX_ERRORS = 20
_MAX_COLUMNS = 100
_CLOCK_EVERY = 256


class Unchecked(Exception):
    """Raised by a `resolve` that cannot tell where a reference leads, and does not refuse it: away from a
    server nobody knows what is in a datastore. Such an image counts as there."""


class _Candidate(NamedTuple):
    image: str
    label: AnyLabel
    file: str
    line: int


def lint(
    folder: Path,
    *,
    resolve: Resolve,
    label_column: str = "label",
    task: str = "image-classification",
    image_column: str = IMAGE_COLUMN,
    minimum_rows: int = MINIMUM_ROWS,
    budget_seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Reads and checks every row of an MLTable folder; faults are in the report, none is raised.

    `resolve` turns an azureml:// reference, a file:// URL or an absolute path into a path, and refuses by
    ValueError or OSError; paths relative to the folder are resolved here and cannot leave it. `minimum_rows`
    is 10 for training data; give 1 for validation data. With `budget_seconds` (measured by `clock`) work that
    is left is marked by `complete` False, to be done by a later call without budget. Raises ValueError for an
    unknown `task` only.
    """
    deadline = None if budget_seconds is None else clock() + budget_seconds
    work = _Lint(folder, label_column, image_column, task, resolve, deadline, clock)
    return _run(work, work.read, minimum_rows)


def lint_lines(
    file: Path,
    *,
    resolve: Resolve,
    label_column: str = "label",
    task: str = "image-classification",
    minimum_rows: int = MINIMUM_ROWS,
) -> Report:
    """As `lint` for one file of JSON lines, as if an MLTable file beside it named it."""
    work = _Lint(file.parent, label_column, IMAGE_COLUMN, task, resolve, None, time.monotonic)
    definition = Definition((("file", file.name),), stream_columns=(IMAGE_COLUMN,))
    return _run(work, lambda: work.rows(definition, [(file.name, file)]), minimum_rows)


def _reader(task: str) -> Callable[[Any], Reading]:
    if task not in READERS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(READERS)}")
    return READERS[task]


def _run(work: _Lint, read: Callable[[], list[_Candidate]], minimum_rows: int) -> Report:
    folder = work.folder
    try:
        candidates = read()
        if not work.report.errors:
            work.check(candidates)
            work.judge(minimum_rows)
    except DataError as error:
        work.report.errors.append(error)
    except OSError as error:
        name = Path(str(error.filename)).name if error.filename else folder.name
        work.report.errors.append(DataError("DataNotReadable", f"{name}: {error.strerror}.", name))
    return work.report


class _Lint:
    """The state of one run of lint."""

    def __init__(
        self,
        folder: Path,
        label_column: str,
        image_column: str,
        task: str,
        resolve: Resolve,
        deadline: float | None,
        clock: Callable[[], float],
    ) -> None:
        self.folder = folder
        self.label_column = label_column
        self.image_column = image_column
        self.read_label = _reader(task)
        self.resolve = resolve
        self.deadline = deadline
        self.clock = clock
        self.report = Report(detection=task in DETECTION)
        self._columns: dict[str, None] = {}
        self._real: dict[str, str] = {}
        self._read_whole = False

    def read(self) -> list[_Candidate]:
        """Every row that has an image and a label; the others are in the report."""
        definition = read_definition(self.folder)
        self._check_columns(definition)
        return self.rows(definition, data_files(self.folder, definition, self.resolve))

    def rows(self, definition: Definition, files: Iterable[tuple[str, Path]]) -> list[_Candidate]:
        """The rows of the given files, by their names to show."""
        candidates: list[_Candidate] = []
        read = 0
        for name, path in files:
            for line in read_lines(path, encoding=definition.encoding):
                read += 1
                if read % _CLOCK_EVERY == 0 and self._late():
                    self.report.complete = False
                    return candidates
                if line.value is None:
                    self._invalid_line(name, line.number, line.column, line.fault, definition)
                    if len(self.report.errors) >= _MAX_ERRORS:
                        return candidates
                    continue
                candidate = self._candidate(line.value, name, line.number)
                if candidate is not None:
                    candidates.append(candidate)
        self._read_whole = True
        self.report.columns = list(self._columns)
        if self._columns:
            self._check_found()
        return candidates

    def check(self, candidates: Iterable[_Candidate]) -> None:
        """Finds the image of every candidate; later rows replace earlier ones of the same image."""
        good: dict[str, tuple[Row, _Candidate]] = {}
        for number, candidate in enumerate(candidates):
            if not self.report.complete or (number % _CLOCK_EVERY == 0 and self._late()):
                self.report.complete = False
                self.report.pending += 1
                continue
            try:
                path, etag = self._image(candidate.image)
            except Unchecked:
                path, etag = candidate.image, ""
            except (ValueError, OSError) as error:
                self._drop(candidate.file, candidate.line, _reason(error, candidate.image), self.image_column)
                continue
            source = f"{candidate.file}:{candidate.line}"
            if self.report.detection and path in good:
                row, first = good[path]
                good[path] = (row._replace(label=together(row.label, candidate.label)), first)
                self.report.merged.append(source)
                continue
            earlier = good.pop(path, None)
            if earlier is not None:
                reason = f"replaced by {source}, which has the same image"
                self._drop(earlier[1].file, earlier[1].line, reason, self.image_column)
            good[path] = (Row(path, etag, candidate.label, source), candidate)
        for row, _ in good.values():
            self.report.rows.append(row)
            self.report.count(row)

    def judge(self, minimum: int) -> None:
        """Errors and notices about the data as a whole."""
        report = self.report
        usable = len(report.rows) + report.pending
        if usable < minimum and self._read_whole:
            total = usable + len(report.dropped)
            message = (
                f"{self.folder.name}: {usable} of {total} rows can be used, at least {minimum} are needed."
            )
            if report.dropped:
                shown = [f"{row.where}: {row.reason}" for row in report.dropped[:SHOWN]]
                message += " Dropped: " + "; ".join(shown)
                more = len(report.dropped) - SHOWN
                message += f"; and {more} more." if more > 0 else "."
            where = report.dropped[0].where if report.dropped else self.folder.name
            report.errors.append(DataError("TooFewRows", message, where))
        if report.complete and not report.errors and not report.labels:
            what = "an object: all are background" if report.detection else "a label"
            message = f"{self.folder.name}: not one of {usable} images has {what}."
            report.errors.append(DataError("NoLabels", message, self.folder.name))
        if report.complete and not report.errors:
            report.notices += notices_of(report)

    def _check_columns(self, definition: Definition) -> None:
        where = f"{self.folder.name}/MLTable"
        for column in (self.image_column, self.label_column):
            if definition.lacks(column):
                raise DataError(
                    "ColumnNotFound",
                    f"{where}: drop_columns or keep_columns takes the column {column!r} away.",
                    where,
                )
        if self.image_column not in definition.stream_columns:
            raise DataError(
                "ImageColumnNotStream",
                f"{where}: the column {self.image_column!r} must be a stream; add to transformations\n"
                f"  - convert_column_types:\n      - columns: {self.image_column}\n"
                "        column_type: stream_info",
                where,
            )
        kind = definition.converted.get(self.label_column, "string")
        if kind != "string":
            raise DataError(
                "MLTableTransformationNotSupported",
                f"{where}: converting the label column {self.label_column!r} to {kind} is not supported; "
                "leave the conversion out, labels are used as text.",
                where,
            )

    def _check_found(self) -> None:
        """An error for each needed column that no row has."""
        for column, advice in (
            (self.label_column, "Set target_column_name to the column with the labels."),
            (self.image_column, "Every row needs the address of its image there."),
        ):
            if column in self._columns or self.report.errors:
                continue
            near = difflib.get_close_matches(column, self._columns, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            message = (
                f"{self.folder.name}: no row has the column {column!r}. Columns found: "
                f"{', '.join(self._columns)}.{meant} {advice}"
            )
            self.report.errors.append(DataError("ColumnNotFound", message, self.folder.name))

    def _invalid_line(self, name: str, line: int, column: int, fault: str, definition: Definition) -> None:
        if definition.drop_invalid_lines:
            self._drop(name, line, f"{fault} (column {column})", "")
            return
        message = (
            f"{name}:{line}:{column}: {fault}. Mend the line, or set invalid_lines: drop in "
            f"{self.folder.name}/MLTable to leave such lines out."
        )
        self.report.errors.append(DataError("InvalidJsonLine", message, f"{name}:{line}"))

    def _candidate(self, value: dict[str, Any], name: str, line: int) -> _Candidate | None:
        for column in value.keys() - self._columns.keys():
            if len(self._columns) < _MAX_COLUMNS or column in (self.label_column, self.image_column):
                self._columns[column] = None
        image = value.get(self.image_column)
        if not isinstance(image, str) or not image:
            reason = (
                f"no {self.image_column}" if image in (None, "") else f"{self.image_column} is not a text"
            )
            self._drop(name, line, reason, self.image_column)
            return None
        try:
            reading = self.read_label(value.get(self.label_column))
        except LabelError as error:
            self._drop(name, line, str(error), self.label_column)
            return None
        self.report.single += reading.single
        if reading.dropped:
            self.report.leave_out(name, line, reading.dropped, self.label_column)
        return _Candidate(image, reading.label, name, line)

    def _image(self, reference: str) -> tuple[str, str]:
        """Absolute path and etag of an image. Raises ValueError or OSError with the reason."""
        if is_relative(reference):
            path, root = self._relative(reference)
        else:
            if is_azureml(reference):
                parse(reference)
            path, root = str(self.resolve(reference)), None
        # Plain calls: making a Path for each of 100,000 images takes longer than the calls themselves.
        status = os.stat(path) if root is None else os.lstat(path)  # noqa: PTH116
        if stat.S_ISLNK(status.st_mode):
            if not _below(os.path.realpath(path), root or ""):
                raise UriError(reference, "is a link that leaves the MLTable folder.")
            status = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is a folder" if stat.S_ISDIR(status.st_mode) else "is not a plain file")
        if status.st_size == 0:
            raise ValueError("the image file is empty")
        return path, f"{status.st_size}-{status.st_mtime_ns}"

    def _relative(self, reference: str) -> tuple[str, str]:
        path = os.path.join(os.path.abspath(self.folder), clean_path(reference))  # noqa: PTH100, PTH118
        root = self._realpath(str(self.folder))
        if not _below(self._realpath(os.path.dirname(path)), root):  # noqa: PTH120
            raise UriError(reference, "goes through a link that leaves the MLTable folder.")
        return path, root

    def _realpath(self, folder: str) -> str:
        real = self._real.get(folder)
        if real is None:
            real = self._real[folder] = os.path.realpath(folder)
        return real

    def _drop(self, file: str, line: int, reason: str, column: str) -> None:
        self.report.dropped.append(Dropped(file, line, reason, column))

    def _late(self) -> bool:
        return self.deadline is not None and self.clock() > self.deadline


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _reason(error: ValueError | OSError, reference: str) -> str:
    if isinstance(error, DataError):
        return error.message
    shown = reference if len(reference) <= 200 else reference[:200] + "…"
    if isinstance(error, UriError):
        return f"{shown!r}: {error.reason}"
    if isinstance(error, OSError) and error.strerror:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        return f"image not found: {shown}" if missing else f"image cannot be read: {shown}: {error.strerror}"
    return (str(error).splitlines() or [type(error).__name__])[0]
