"""The file MLTable in an MLTable folder: which JSON lines files it names and how they are to be read.

Source: MLTable's published schema (MLTable.json of the mltable package) and the samples in "Set up AutoML to
train computer vision models". Only what image data needs is carried out; every other transformation that
would change the rows is refused by name, never skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amlocal.compat.azureml_uri import UriError, clean_path, is_azureml, parse
from amlocal.compat.jsonl import ENCODINGS, DataError, brief

FILE_NAME = "MLTable"
MAX_BYTES = 1024 * 1024
JSON_LINES_SUFFIXES = (".jsonl", ".json", ".ndjson")

SAMPLE = """\
paths:
  - file: ./train_annotations.jsonl
transformations:
  - read_json_lines:
      encoding: utf8
      invalid_lines: error
      include_path_column: false
  - convert_column_types:
      - columns: image_url
        column_type: stream_info
"""

Resolve = Callable[[str], Path]
"""Path of an azureml:// reference, file:// URL or absolute path; raises ValueError or OSError to refuse."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_OTHER_READERS = ("read_delimited", "read_parquet", "read_delta_lake", "read_files")
# Adds columns, takes none away and leaves the rows as they are.
_HARMLESS = ("extract_columns_from_partition_format",)


@dataclass(frozen=True)
class Definition:
    """What an MLTable file says. `paths` holds (kind, value) with kind file, folder or pattern."""

    paths: tuple[tuple[str, str], ...]
    encoding: str = "utf8"
    drop_invalid_lines: bool = False
    stream_columns: tuple[str, ...] = ()
    dropped_columns: frozenset[str] = frozenset()
    kept_columns: frozenset[str] | None = None
    converted: Mapping[str, str] = field(default_factory=dict)

    def lacks(self, column: str) -> bool:
        """Whether the transformations take the column away."""
        return column in self.dropped_columns or (
            self.kept_columns is not None and column not in self.kept_columns
        )


def is_relative(reference: str) -> bool:
    """Whether a reference is a path relative to the MLTable folder: no scheme, no leading slash."""
    return not (reference.startswith(("/", "\\")) or _SCHEME.match(reference))


def read_definition(folder: Path) -> Definition:
    """Reads folder/MLTable. Raises DataError naming the folder or field and what to write instead."""
    file = folder / FILE_NAME
    if not file.is_file():
        raise DataError(
            "MLTableNotFound",
            f"The MLTable folder {folder.name!r} has no file named MLTable. "
            f"Create it beside the JSONL file:\n{SAMPLE}",
            folder.name,
        )
    where = f"{folder.name}/{FILE_NAME}"
    if file.stat().st_size > MAX_BYTES:
        raise DataError("MLTableInvalid", f"{where} is larger than {MAX_BYTES:,} bytes.", where)
    document = _load(file, where)
    if not isinstance(document, dict):
        raise DataError(
            "MLTableInvalid",
            f"{where} must be a mapping with paths and transformations, like\n{SAMPLE}",
            where,
        )
    paths = tuple(_paths(document.get("paths"), where))
    return _transform(paths, document.get("transformations"), where)


def data_files(folder: Path, definition: Definition, resolve: Resolve) -> list[tuple[str, Path]]:
    """(name to show, path) of every JSON lines file, each once, in the order of the MLTable file.

    Raises DataError when a path is refused, missing or matches nothing.
    """
    where = f"{folder.name}/{FILE_NAME}"
    found: dict[Path, str] = {}
    for kind, value in definition.paths:
        try:
            matches = list(_matches(folder, kind, value, resolve))
        except (ValueError, OSError) as error:
            raise DataError("MLTablePathInvalid", f"{where}: {kind}: {value}: {error}", where) from error
        if not matches:
            what = "no such file" if kind == "file" else f"no {', '.join(JSON_LINES_SUFFIXES)} file there"
            raise DataError("MLTablePathNotFound", f"{where}: {kind}: {value}: {what}.", where)
        for path in matches:
            found.setdefault(path, _show(path, folder))
    return [(name, path) for path, name in found.items()]


def _load(file: Path, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(file.read_bytes())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(
            "MLTableInvalid", f"{where}:{line}: not YAML: {error.problem}.", f"{where}:{line}"
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError("MLTableInvalid", f"{where}: not YAML: {brief(str(error))}.", where) from error


def _paths(value: Any, where: str) -> Iterator[tuple[str, str]]:
    form = "paths must be a list such as\npaths:\n  - file: ./train_annotations.jsonl"
    if not isinstance(value, list) or not value:
        raise DataError("MLTableInvalid", f"{where}: {form}", where)
    for entry in value:
        if not isinstance(entry, dict) or len(entry) != 1:
            raise DataError("MLTableInvalid", f"{where}: {brief(entry)}: {form}", where)
        ((kind, path),) = entry.items()
        if kind not in ("file", "folder", "pattern") or not isinstance(path, str) or not path:
            raise DataError(
                "MLTableInvalid",
                f"{where}: {brief(entry)}: use file, folder or pattern with a path as text.",
                where,
            )
        yield kind, path


def _transform(paths: tuple[tuple[str, str], ...], steps: Any, where: str) -> Definition:
    reads: dict[str, Any] | None = None
    streams: list[str] = []
    dropped: set[str] = set()
    kept: frozenset[str] | None = None
    converted: dict[str, str] = {}
    for name, options in _steps(steps, where):
        if name == "read_json_lines":
            reads = options if isinstance(options, dict) else {}
        elif name == "convert_column_types":
            for column, column_type in _conversions(options, where):
                if column_type == "stream_info":
                    streams.append(column)
                else:
                    converted[column] = column_type
        elif name == "drop_columns":
            dropped.update(_columns(options, name, where))
        elif name == "keep_columns":
            named = frozenset(_columns(options, name, where))
            kept = named if kept is None else kept & named
        elif name not in _HARMLESS:
            _refuse(name, where)
    if reads is None:
        raise DataError(
            "MLTableInvalid",
            f"{where}: image data needs the transformation read_json_lines:\n{SAMPLE}",
            where,
        )
    return Definition(
        paths, *_read_options(reads, where), tuple(streams), frozenset(dropped), kept, converted
    )


def _steps(steps: Any, where: str) -> Iterator[tuple[str, Any]]:
    if steps is None:
        return
    if not isinstance(steps, list):
        raise DataError("MLTableInvalid", f"{where}: transformations must be a list.", where)
    for step in steps:
        if isinstance(step, str):
            yield step, None
        elif isinstance(step, dict) and len(step) == 1:
            ((name, options),) = step.items()
            yield str(name), options
        else:
            raise DataError("MLTableInvalid", f"{where}: {brief(step)} is not one transformation.", where)


def _refuse(name: str, where: str) -> None:
    shown = brief(name)
    if name in _OTHER_READERS:
        advice = "AutoML for images reads JSON lines: use read_json_lines."
    else:
        advice = "It would change the rows; write the rows that are wanted into the JSONL file instead."
    raise DataError(
        "MLTableTransformationNotSupported",
        f"{where}: the transformation {shown} is not supported. {advice}",
        where,
    )


def _read_options(options: dict[str, Any], where: str) -> tuple[str, bool]:
    encoding = options.get("encoding", "utf8")
    if not isinstance(encoding, str) or encoding.lower() not in ENCODINGS:
        raise DataError(
            "MLTableInvalid",
            f"{where}: read_json_lines: encoding {brief(encoding)} is not supported. "
            f"Use one of {', '.join(ENCODINGS)}.",
            where,
        )
    invalid = options.get("invalid_lines", "error")
    # MLTable's schema says drop; ignore is the older spelling of the same.
    if invalid not in ("error", "drop", "ignore"):
        raise DataError(
            "MLTableInvalid",
            f"{where}: read_json_lines: invalid_lines {brief(invalid)}: use error or drop.",
            where,
        )
    return encoding, invalid != "error"


def _conversions(options: Any, where: str) -> Iterator[tuple[str, str]]:
    for entry in options if isinstance(options, list) else [None]:
        if not isinstance(entry, dict) or "column_type" not in entry:
            raise DataError(
                "MLTableInvalid",
                f"{where}: convert_column_types takes a list of columns and column_type:\n{SAMPLE}",
                where,
            )
        kind = entry["column_type"]
        kind = next(iter(kind), "") if isinstance(kind, dict) else kind
        for column in _columns(entry.get("columns"), "convert_column_types", where):
            yield column, str(kind)


def _columns(value: Any, name: str, where: str) -> list[str]:
    columns = [value] if isinstance(value, str) else value
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        raise DataError(
            "MLTableInvalid", f"{where}: {name}: columns must be names or a list of names.", where
        )
    return columns


def _matches(folder: Path, kind: str, value: str, resolve: Resolve) -> Iterator[Path]:
    if kind == "pattern":
        yield from _glob(folder, value, resolve)
        return
    place = _place(folder, value, resolve)
    if kind == "file":
        if place.is_file():
            yield place
        return
    for path in sorted(place.rglob("*")):
        if path.suffix.lower() in JSON_LINES_SUFFIXES and path.is_file():
            yield _inside(path, place)


def _glob(folder: Path, value: str, resolve: Resolve) -> Iterator[Path]:
    wildcard = re.search(r"[*?\[]", value)
    if wildcard is None:
        yield from _matches(folder, "file", value, resolve)
        return
    cut = value.rfind("/", 0, wildcard.start()) + 1
    base = _place(folder, value[:cut] or "./", resolve)
    for path in sorted(base.glob(clean_path(value[cut:]))):
        if path.is_file():
            yield _inside(path, base)


def _place(folder: Path, value: str, resolve: Resolve) -> Path:
    if is_relative(value):
        clean = clean_path(value)
        return _inside(folder / clean, folder) if clean else folder
    if is_azureml(value):
        parse(value)
    return resolve(value)


def _inside(path: Path, root: Path) -> Path:
    if not path.resolve().is_relative_to(root.resolve()):
        raise UriError(path.name, "is a link that leaves its folder.")
    return path


def _show(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
