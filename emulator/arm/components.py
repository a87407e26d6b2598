"""Components: named, versioned steps that pipelines and jobs are made of, checked as a job's parts are.

A command component is checked whole. Parallel and pipeline components are kept with what they refer to
checked; what has a type that cannot be kept here is refused by name.
Source: the componentSpec that azure-ai-ml 1.35 sends, and Azure's "command component YAML schema".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from amlocal.compat.azureml_uri import AssetUri, UriError, WorkspaceName, parse
from amlocal.emulator.arm import component_interface, documents, environments
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, properties_of
from amlocal.emulator.http.errors import AzureError, bad_request, conflict, not_there_yet
from amlocal.emulator.jobs import command_line
from amlocal.emulator.jobs.fields import shown

ANONYMOUS = "azureml_anonymous"
# The version by which azure-ai-ml asks for a component without naming one.
DEFAULT_VERSION = "azureml_default"
_TYPES = ("command", "parallel", "pipeline")
_ELSEWHERE = ("automl", "data_transfer", "flow", "flow_parallel", "import", "spark", "sweep")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}\Z")
# Texts that Azure lets a version change; the server writes name and version itself.
_CHANGEABLE = frozenset(
    {"$schema", "_source", "creation_context", "description", "display_name", "id", "name", "tags", "version"}
)
_REFERENCES = ("code", "environment")


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = dict(properties_of(body))
    if call.version == DEFAULT_VERSION:
        raise bad_request(
            "InvalidVersion",
            f"{DEFAULT_VERSION} stands for the newest version and cannot be given to one.",
            target="version",
        )
    spec = properties.get("componentSpec")
    if not isinstance(spec, dict):
        raise bad_request(
            "InvalidComponent", "`properties.componentSpec` must be an object.", target="componentSpec"
        )
    named = spec.get("name", call.name)
    if not isinstance(named, str) or (named.lower() != call.name.lower() and call.name != ANONYMOUS):
        raise bad_request(
            "InvalidComponent",
            f"componentSpec.name is {shown(named)}, the address says {call.name!r}.",
            target="componentSpec.name",
        )
    _check(call, spec)
    definition = {
        key: value for key, value in spec.items() if key not in _CHANGEABLE and value not in (None, {}, [])
    }
    properties["definition"] = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()
    if present is not None and present.properties["definition"] != properties["definition"]:
        raise conflict(
            f"Component {call.name}:{call.version} exists already and cannot be changed: "
            f"{_differing(present.properties['componentSpec'], spec)} would be another. "
            "Create a new version.",
            target="componentSpec",
        )
    properties["componentSpec"] = {**spec, "name": named, "version": call.version}
    properties["provisioningState"] = "Succeeded"
    return {**body, "properties": properties}


def _check(call: Call, spec: Mapping[str, Any]) -> None:
    kind = spec.get("type")
    if isinstance(kind, str) and kind in _ELSEWHERE:
        raise not_there_yet(f"A component of type {kind}")
    if kind not in _TYPES:
        raise bad_request(
            "InvalidComponentType",
            f"componentSpec.type is {shown(kind)}; use {', '.join(_TYPES)}.",
            target="componentSpec.type",
        )
    if spec.get("intellectualProperty"):
        raise not_there_yet("A component with protected intellectual property")
    inputs = component_interface.inputs(spec)
    outputs = component_interface.outputs(spec)
    if kind == "command":
        _check_command(spec, inputs, outputs)
        _check_references(call, spec, "componentSpec", ("environment",))
    elif kind == "parallel":
        task = spec.get("task")
        if not isinstance(task, dict):
            raise _lacks("task", "a parallel component")
        _check_references(call, task, "componentSpec.task", _REFERENCES)
    else:
        _check_steps(call, spec)


def _check_command(
    spec: Mapping[str, Any], inputs: Mapping[str, Mapping[str, Any]], outputs: Mapping[str, Any]
) -> None:
    command = spec.get("command")
    if not isinstance(command, str) or not command.strip():
        raise _lacks("command", "a command component")
    command_line.check(command.replace("$[[", "").replace("]]", ""), inputs, outputs)
    always = {
        name: row for name, row in inputs.items() if not row.get("optional") or row.get("default") is not None
    }
    command_line.check(command, always, outputs)


def _check_references(call: Call, parent: Mapping[str, Any], where: str, required: tuple[str, ...]) -> None:
    for key in _REFERENCES:
        value = parent.get(key)
        if value in (None, "") and key not in required:
            continue
        if not isinstance(value, str) or not value:
            raise bad_request(
                "InvalidComponent",
                f"{where}.{key} is {shown(value)}; it must be the id of a registered {key}. "
                "azure-ai-ml registers local ones and writes their ids.",
                target=f"{where}.{key}",
            )
        if key == "environment":
            environments.resolve(call.services.store, call.workspace, value)
        else:
            _check_asset(call, value, "codes", f"{where}.{key}")


def _check_steps(call: Call, spec: Mapping[str, Any]) -> None:
    jobs = spec.get("jobs")
    if not isinstance(jobs, dict) or not jobs:
        raise _lacks("jobs", "a pipeline component")
    for name, job in jobs.items():
        where = f"componentSpec.jobs.{str(name)[:100]}"
        if not isinstance(job, dict):
            raise bad_request("InvalidComponent", f"{where} must be an object.", target=where)
        reference = job.get("componentId", job.get("component"))
        if reference is None:
            continue  # a node of control flow
        if not isinstance(reference, str):
            raise bad_request("InvalidComponent", f"{where}.componentId must be a text.", target=where)
        _check_asset(call, reference, "components", f"{where}.componentId")


def _check_asset(call: Call, reference: str, kind: str, where: str) -> None:
    """Raises AzureError for a reference that names nothing in this workspace."""
    if reference.lower().startswith("git+"):
        raise not_there_yet("Code from a git repository")
    try:
        found = parse(reference)
    except UriError as error:
        raise bad_request("InvalidComponent", f"{where}: {error}", target=where) from error
    ours = WorkspaceName(call.workspace.subscription, call.workspace.resource_group, call.workspace.name)
    if not isinstance(found, AssetUri) or found.kind not in (None, kind) or found.registry is not None:
        raise bad_request(
            "InvalidComponent",
            f"{where}: {shown(reference)} names nothing among the {kind} of this workspace.",
            target=where,
        )
    if found.label not in (None, "latest"):
        raise bad_request(
            "InvalidComponent", f"{where}: {shown(reference)}: the only label is latest.", target=where
        )
    if found.workspace is not None and _key(found.workspace) != _key(ours):
        raise bad_request(
            "InvalidComponent",
            f"{where}: {shown(reference)} belongs to another workspace than {ours.workspace}.",
            target=where,
        )
    name, version = found.name, found.version
    newest = version is None or version == DEFAULT_VERSION
    stored = call.services.store.read(
        lambda c: (
            documents.latest(c, call.workspace.id, kind, name)
            if newest
            else documents.get(c, call.workspace.id, kind, name, version or "")
        )
    )
    if stored is None:
        label = name if newest else f"{name}:{version}"
        raise bad_request(
            "InvalidComponent",
            f"{where}: {label!r} does not exist among the {kind} of workspace {ours.workspace}.",
            target=where,
        )


def _key(name: WorkspaceName) -> str:
    return f"{name.subscription}/{name.resource_group}/{name.workspace}".lower()


def _lacks(field: str, what: str) -> AzureError:
    where = f"componentSpec.{field}"
    return bad_request("InvalidComponent", f"{where} is missing: {what} needs it.", target=where)


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = sorted((old.keys() | new.keys()) - _CHANGEABLE)
    return (
        ", ".join(key for key in keys if (old.get(key) or None) != (new.get(key) or None)) or "componentSpec"
    )


def _present(call: Call, document: Document) -> dict[str, Any]:
    return {key: value for key, value in document.properties.items() if key != "definition"}


COMPONENTS = Resource(
    path="components",
    title="Component",
    versioned=True,
    name_rule=_NAME,
    immutable=("definition",),
    top_level=(),
    default_version=DEFAULT_VERSION,
    unlisted=(ANONYMOUS,),
    prepare=_prepare,
    present=_present,
)
