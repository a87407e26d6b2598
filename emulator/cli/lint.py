"""`amlocal lint FILE...`: check jobs and labelled images before they are submitted; no server is needed.
Images in datastores are not looked for: only a server knows what is there.

A job is read by the SDK and then by what the server itself reads jobs with, so the messages are the same.
Exit code 0: no errors; 1: errors (with --strict also for warnings); 2: a file cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from amlocal.compat import label_readers, yaml_places
from amlocal.compat.yaml_places import Document, YamlError
from amlocal.emulator.cli import lint_data, lint_findings
from amlocal.emulator.cli.lint_findings import FORMATS, Finding, Unreadable

TASKS = tuple(label_readers.READERS)
_LINES = (".jsonl", ".ndjson", ".json")
_MINIMUM = 10


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a job's YAML, an MLTable folder or file, or a JSONL file"
    )
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    parser.add_argument("--format", choices=FORMATS, default="text", help="how findings are printed")
    parser.add_argument(
        "--label-column", default="label", metavar="NAME", help="for data alone: where the labels are"
    )
    parser.add_argument("--task", choices=TASKS, default=TASKS[0], help="for data alone: what it is for")


def main(options: argparse.Namespace) -> int:
    findings: list[Finding] = []
    unreadable = False
    for name in options.files:
        try:
            findings += _lint(name, options)
        except Unreadable as error:
            findings.append(error.finding)
            unreadable = True
    for line in lint_findings.rendered(findings, options.format):
        print(line)
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    counts = [_count(len(options.files), "file"), _count(errors, "error"), _count(warnings, "warning")]
    print(", ".join(counts), file=sys.stderr)
    if unreadable:
        return 2
    return 1 if errors or (options.strict and warnings) else 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _lint(name: str, options: argparse.Namespace) -> list[Finding]:
    path = Path(name)
    try:
        if path.is_dir() or path.name == "MLTable":
            folder = path if path.is_dir() else path.parent
            shown = name.rstrip("/") if path.is_dir() else folder.as_posix()
            if not (folder / "MLTable").is_file():
                raise Unreadable(name, "the folder has no file MLTable")
            found, _ = lint_data.folder(
                folder, shown, label=options.label_column, task=options.task, least=_MINIMUM
            )
            return found
        if not path.is_file():
            raise Unreadable(name, "there is no such file" if not path.exists() else "it is no plain file")
        if path.suffix.lower() in _LINES:
            return lint_data.lines(path, name, label=options.label_column, task=options.task)
        return _job(path, name)
    except OSError as error:
        raise Unreadable(name, error.strerror or str(error)) from error


def _job(path: Path, name: str) -> list[Finding]:
    with path.open("rb") as stream:
        raw = stream.read(yaml_places.MAX_BYTES + 1)
    try:
        document = yaml_places.load(raw)
    except YamlError as error:
        raise Unreadable(name, error.message, error.line) from error
    _check_kind(document, name)
    from amlocal.emulator.cli.lint_job import JobLint

    return JobLint(document, path, name).run()


def _check_kind(document: Document, name: str) -> None:
    """Raises Unreadable for what is no job."""
    value = document.value
    if not isinstance(value, dict):
        raise Unreadable(name, "it is no job: a job's YAML is a mapping with type, task, ...")
    schema = value.get("$schema")
    if (
        isinstance(schema, str)
        and schema.rpartition("/")[2]
        and "job" not in schema.rpartition("/")[2].lower()
    ):
        kind = schema.rpartition("/")[2][:100]
        raise Unreadable(name, f"it is no job: its $schema is {kind}", document.line(["$schema"]))
