"""Lint of a job's YAML: what azure-ai-ml refuses, then what the server would, each with its line."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from amlocal.compat import mltable, names
from amlocal.compat.azureml_uri import is_azureml
from amlocal.compat.data_report import Report
from amlocal.compat.yaml_places import Document
from amlocal.emulator.cli import lint_data, lint_places, lint_sdk
from amlocal.emulator.cli.lint_findings import Finding, Severity, one_line
from amlocal.emulator.http.errors import AzureError, not_there_yet
from amlocal.emulator.jobs import command_request
from amlocal.emulator.jobs.runners import automl_parameters, automl_request
from amlocal.emulator.jobs.runners.automl_draw import with_sample
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.sweeps import request as sweep_request

_Job = TypeVar("_Job")
_ROUNDS = 50
# Without these there is no job whose other parts could be checked.
_NEEDED = (
    *("taskDetails", "taskDetails.taskType", "taskDetails.trainingData", "taskDetails.targetColumnName"),
    *("objective", "objective.goal", "objective.primaryMetric", "searchSpace", "trial", "trial.command"),
)


class JobLint:
    """One YAML file of a job; `shown` is its name in the findings."""

    def __init__(self, document: Document, path: Path, shown: str) -> None:
        self._document = document
        self._path = path
        self._shown = shown
        self._findings: list[Finding] = []

    def run(self) -> list[Finding]:
        """Every finding, this file's own first, in the order of the lines."""
        value: Mapping[str, Any] = self._document.value
        for key in self._document.repeated:
            self._add(key.line, "warning", f"{key.key} stands there twice; the last one counts")
        loaded = lint_sdk.load(value, self._path)
        for refusal in loaded.refusals:
            self._add(self._document.line(refusal.path), "error", _told(refusal, value))
        if loaded.properties is not None:
            self._server(loaded.kind, loaded.properties)
        return sorted(
            dict.fromkeys(self._findings), key=lambda one: (one.file != self._shown, one.file, one.line)
        )

    def _server(self, kind: str, properties: dict[str, Any]) -> None:
        if kind == "AutoML":
            job = self._read(automl_request.read, properties)
            if job is not None:
                self._image_job(job)
        elif kind == "Command":
            self._read(command_request.read, properties)
            self._inputs()
        elif kind == "Sweep":
            self._read(sweep_request.read, properties)
            self._inputs()
        else:
            self._add(self._document.line(["type"]), "error", not_there_yet(f"Running {kind} jobs").message)

    def _read(self, read: Callable[[Mapping[str, Any]], _Job], properties: dict[str, Any]) -> _Job | None:
        """What the server reads; each thing that it refuses is noted and left out, so that all come up."""
        rest = copy.deepcopy(properties)
        for _ in range(_ROUNDS):
            try:
                return read(rest)
            except AzureError as error:
                target = error.target or ""
                self._at(target, "error", error.message)
                if target in _NEEDED or not lint_places.remove(rest, target):
                    return None
        return None

    def _image_job(self, job: ImageJob) -> None:
        texts = automl_parameters.told(job.task, job.ignored)
        # Where there are too many, the last text counts those that are not listed.
        for place, text in zip((*job.ignored[: len(texts) - 1], *job.ignored[-1:]), texts, strict=False):
            self._at(
                f"taskDetails.{place}", "warning", f"{text} is not known to the task and changes nothing"
            )
        for notice in job.notices:
            self._at(
                "taskDetails.modelSettings.advancedSettings", "warning", notice.removeprefix("WARNING: ")
            )
        try:
            drawn = with_sample(job, str(self._document.value.get("name") or self._path.stem))
            if drawn.fallback:
                self._at("taskDetails.modelSettings.modelName", "warning", drawn.fallback)
        except AzureError as error:
            self._at(error.target or "", "error", error.message)
        train = self._data("training_data", "trainingData", job.training_uri, job, mltable.MINIMUM_ROWS)
        if job.validation_uri is not None:
            held = self._data("validation_data", "validationData", job.validation_uri, job, 1)
            if train is not None and held is not None:
                for notice in mltable.compare(train, held):
                    self._at("taskDetails.validationData", "warning", notice)

    def _data(self, name: str, key: str, uri: str, job: ImageJob, least: int) -> Report | None:
        """Every row of a local MLTable folder; what lies in a datastore is not looked at."""
        given = self._document.value.get(name)
        # The SDK takes the prefix of azureml:NAME:VERSION away.
        written = given.get("path") if isinstance(given, dict) else None
        if is_azureml(written if isinstance(written, str) else uri):
            return None
        place = f"taskDetails.{key}.uri"
        if "://" in uri:
            self._at(place, "error", f"{name}: {uri!r} is neither a local folder nor an azureml reference.")
            return None
        path = self._path.parent / uri
        if not path.is_dir():
            what = "is a file; name the folder that holds MLTable" if path.exists() else "does not exist"
            self._at(place, "error", f"{name}: {uri!r} {what}. It is looked for beside the YAML file.")
            return None
        shown = (Path(self._shown).parent / uri).as_posix()
        findings, report = lint_data.folder(path, shown, label=job.label_column, task=job.task, least=least)
        self._findings += findings
        return report

    def _inputs(self) -> None:
        """The SDK looks for local inputs only when it uploads them."""
        inputs = self._document.value.get("inputs")
        for name, body in inputs.items() if isinstance(inputs, dict) else ():
            uri = body.get("path") if isinstance(body, dict) else None
            if not isinstance(uri, str) or is_azureml(uri) or ":" in uri:
                continue
            if not (self._path.parent / uri).exists():
                line = self._document.line(["inputs", name, "path"])
                self._add(line, "error", f"inputs.{name}: {uri!r} does not exist beside the YAML file.")

    def _at(self, target: str, severity: Severity, message: str) -> None:
        self._add(self._document.line(lint_places.yaml_path(target)), severity, message)

    def _add(self, line: int, severity: Severity, message: str) -> None:
        self._findings.append(Finding(self._shown, line, severity, one_line(message)))


def _told(refusal: lint_sdk.Refusal, document: Mapping[str, Any]) -> str:
    """What azure-ai-ml refuses, in the server's words where the server has some."""
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in refusal.path)[1:]
    last = str(refusal.path[-1]) if refusal.path else ""
    task = _task(document)
    if refusal.is_unknown_key:
        known = refusal.known
        if task is not None and refusal.path[0] in ("training_parameters", "search_space"):
            search = refusal.path[0] == "search_space"
            rows = names.hyperparameters(task).values()
            known = [row.name for row in rows if (row.search if search else row.settings)]
        near = names.nearest(last[:100], known)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"{place} is not a known key, and azure-ai-ml refuses the file for it{hint}"
    if task is not None and refusal.path[:1] == ("training_parameters",) and len(refusal.path) == 2:
        settings = document.get("training_parameters")
        try:
            names.coerce(task, last, settings.get(last) if isinstance(settings, dict) else None)
        except names.BadParameter as error:
            return f"training_parameters.{error}."
    return f"azure-ai-ml refuses the file: {place + ': ' if place else ''}{refusal.message}"


def _task(document: Mapping[str, Any]) -> str | None:
    """The trainers' name of an image job's task; None for any other job."""
    try:
        return (
            names.task(str(document.get("task")).lower()).name if document.get("type") == "automl" else None
        )
    except names.UnknownTask:
        return None
