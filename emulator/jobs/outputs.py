"""Outputs of a command job that become assets: checked at submit, registered when the job has ended well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from amlocal.compat.azureml_uri import UriError, WorkspaceName, parse_datastore
from amlocal.emulator.arm import documents
from amlocal.emulator.http.errors import AzureError, conflict, user_error
from amlocal.emulator.jobs.command_request import ARTIFACTS, OutputSpec
from amlocal.emulator.jobs.inputs import output_uri
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import JobFailure
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.workspace import Workspace

VERSIONS = "amlocal.outputs."
_VERSION = VERSIONS + "{}.version"
_MARKS = {"mltable": "MLTable", "mlflow_model": "MLmodel"}
_WORDS = {"data": "data asset", "models": "model"}


def check(store: Store, workspace: Workspace, outputs: Mapping[str, OutputSpec]) -> None:
    """What can be known at submit. Raises AzureError: 409 for a version that exists, 400 for two alike."""
    seen: set[tuple[str, str, str]] = set()

    def read(connection: Connection) -> None:
        for name, spec in outputs.items():
            if spec.asset is None or spec.version is None:
                continue
            target = f"outputs.{name}.assetVersion"
            key = (spec.registry, spec.asset.lower(), spec.version)
            if key in seen:
                raise user_error(
                    f"outputs.{name}: another output is to become {spec.asset}:{spec.version} too.",
                    target=target,
                )
            seen.add(key)
            if documents.get(connection, workspace.id, spec.registry, spec.asset, spec.version) is not None:
                raise conflict(_taken(name, spec), target=target)

    store.read(read)


def contents(places: Mapping[str, Path], outputs: Mapping[str, OutputSpec]) -> dict[str, dict[str, Any]]:
    """What is to be registered, by output; of a model its flavors. Raises JobFailure."""
    found: dict[str, dict[str, Any]] = {}
    for name, spec in outputs.items():
        if spec.asset is None:
            continue
        path = places[name]
        lacks = ""
        if spec.kind == "uri_file":
            lacks = "" if path.is_file() else "is no file"
        elif not path.is_dir() or not any(path.iterdir()):
            lacks = "" if path.is_file() and spec.kind == "custom_model" else "is empty"
        elif spec.kind in _MARKS and not (path / _MARKS[spec.kind]).is_file():
            lacks = f"holds no file named {_MARKS[spec.kind]}"
        if lacks:
            raise JobFailure(
                f"The output {name!r} was to become the {_WORDS[spec.registry]} {spec.asset!r}, but {lacks} "
                "after the command's end."
            )
        found[name] = {}
        if spec.kind == "mlflow_model":
            found[name] = {"flavors": _flavors(path, name)}
    return found


def register(
    connection: Connection,
    workspace: Workspace,
    job: JobRecord,
    outputs: Mapping[str, OutputSpec],
    found: Mapping[str, Mapping[str, Any]],
) -> dict[str, str]:
    """Make the assets; the job's properties that say which versions they are.

    To be called in the write that ends the job, so that a version is made once or not at all. Raises
    JobFailure when a version was made by somebody else since the job was submitted.
    """
    made = {}
    for name, extra in found.items():
        spec = outputs[name]
        assert spec.asset is not None
        kind, version = spec.registry, spec.version
        if version is None:
            numbers = documents.next_versions(connection, workspace.id, kind, [spec.asset])
            version = numbers[spec.asset.lower()]
        elif documents.get(connection, workspace.id, kind, spec.asset, version) is not None:
            raise JobFailure(_taken(name, spec))
        properties = _properties(workspace, job, name, spec, extra)
        documents.put(connection, workspace.id, kind, spec.asset, version, {"properties": properties})
        made[_VERSION.format(name)] = version
    return made


def is_registered(record: JobRecord, names: Iterable[str]) -> bool:
    """Whether outputs of a job have become assets already."""
    return any(_VERSION.format(name) in record.properties for name in names)


def shown(record: JobRecord, writer: str | None = None) -> dict[str, Any]:
    """The outputs of a job as clients see them: with addresses, and versions once registered.

    `writer` is the run that has written them, the job itself if it is not given; "" for none (yet). The place
    of the artifacts is not among them: azure-ai-ml would read a job's log there itself, as the owner of an
    account key.
    """
    run = record.name if writer is None else writer
    found = {}
    for name, output in (record.body.get("outputs") or {}).items():
        if not isinstance(output, dict) or name == ARTIFACTS:
            continue
        version = record.properties.get(_VERSION.format(name))
        registered = {} if version is None else {"assetVersion": version}
        place = {"uri": output_uri(run, name, output)} if run else {}
        found[name] = {**output, **place, **registered}
    return found


def downloadable(record: JobRecord) -> dict[str, str]:
    """The outputs of a command job that clients can download: name to data type.

    A model is shown as the folder that it is: clients resolve what is called a model elsewhere, and fail.
    """
    found = {}
    for name, output in (record.body.get("outputs") or {}).items():
        if not isinstance(output, dict):
            continue
        if name == ARTIFACTS and not (output.get("uri") and record.state is JobState.COMPLETED):
            continue
        kind = str(output.get("jobOutputType", "")).lower()
        found[name] = kind if kind in ("uri_file", "mltable") else "uri_folder"
    return found


def _properties(
    workspace: Workspace, job: JobRecord, name: str, spec: OutputSpec, extra: Mapping[str, Any]
) -> dict[str, Any]:
    own = WorkspaceName(workspace.subscription, workspace.resource_group, workspace.name)
    try:
        uri = str(parse_datastore(output_uri(job.name, name, spec.body)).within(own))
    except UriError as error:
        raise JobFailure(f"outputs.{name}: {error}") from error
    common: dict[str, Any] = {
        "description": spec.body.get("description"),
        "tags": {},
        "properties": {},
        "isAnonymous": False,
    }
    if spec.registry == "data":
        slash = "/" if spec.kind == "uri_folder" and not uri.endswith("/") else ""
        return {**common, "dataType": spec.kind, "dataUri": uri + slash}
    return {
        **common,
        "modelType": spec.kind,
        "modelUri": uri,
        "flavors": extra.get("flavors", {}),
        "stage": "Development",
        "provisioningState": "Succeeded",
        "jobName": job.name,
    }


def _flavors(path: Path, name: str) -> dict[str, Any]:
    from amlocal.emulator.arm.models import flavors

    try:
        return flavors(path, f"the output {name!r}")
    except AzureError as error:
        raise JobFailure(error.message) from error


def _taken(name: str, spec: OutputSpec) -> str:
    return (
        f"outputs.{name}: the {_WORDS[spec.registry]} {spec.asset} has a version {spec.version} already. "
        "Give another version, or none: then it is numbered."
    )
