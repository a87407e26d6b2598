"""The definition of a command job: read, checked, and typed.

Source: the REST body (`CommandJob`) that azure-ai-ml sends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amlocal.emulator.http.errors import not_there_yet, user_error
from amlocal.emulator.jobs import command_line, fields
from amlocal.emulator.jobs.fields import shown

MOST_COMMAND = 256 * 1024
LONGEST = 60 * 86400.0
_LITERAL = "literal"
_INPUT_TYPES = ("uri_file", "uri_folder", "mltable", "custom_model", "mlflow_model")
_OUTPUT_TYPES = _INPUT_TYPES
_INPUT_MODES = {
    # There is no mount of the system here that could be read-only, and a job must not be able to change what
    # is stored: it gets a copy, as with "download".
    "readonlymount": "download",
    "readwritemount": "mount",
    "download": "download",
    "direct": "direct",
}
_OUTPUT_MODES = ("readwritemount", "upload")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_OWN = "AMLOCAL_"
_SHOWN_SERVICES = frozenset({"tracking", "studio"})


@dataclass(frozen=True)
class InputSpec:
    """One input: a literal has a `value`, everything else a `uri` and a `mode` (mount, download, direct)."""

    kind: str
    value: str = ""
    uri: str = ""
    mode: str = "download"


@dataclass(frozen=True)
class OutputSpec:
    """One named output; `body` is what the client sent of it."""

    kind: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class CommandJob:
    """What a user asked for. `timeout` is seconds."""

    command: str
    code: str | None
    environment: str
    inputs: Mapping[str, InputSpec]
    outputs: Mapping[str, OutputSpec]
    variables: Mapping[str, str]
    timeout: float | None


def read(properties: Mapping[str, Any]) -> CommandJob:
    """The job that the ARM `properties` define. Raises AzureError naming field and remedy."""
    command = properties.get("command")
    if not isinstance(command, str) or not command.strip():
        raise user_error("command is missing; give the line that the job runs.", target="command")
    if len(command) > MOST_COMMAND or "\0" in command:
        raise user_error(
            f"command is longer than {MOST_COMMAND} characters or has a NUL in it.", target="command"
        )
    _refuse(properties)
    environment = fields.text(properties, "environmentId", "environmentId")
    if environment is None:
        raise user_error(
            "environment is missing; azureml:host:1 is the interpreter of this installation.",
            target="environmentId",
        )
    inputs = {name: _input(name, body) for name, body in _named(properties, "inputs").items()}
    outputs = {name: _output(name, body) for name, body in _named(properties, "outputs").items()}
    command_line.check(command, inputs, outputs)
    limits = fields.mapping(properties, "limits", "limits")
    timeout = None
    if limits.get("timeout") is not None:
        timeout = fields.duration(limits["timeout"], "limits.timeout", "limits.timeout", maximum=LONGEST)
    return CommandJob(
        command=command,
        code=fields.text(properties, "codeId", "codeId"),
        environment=environment,
        inputs=inputs,
        outputs=outputs,
        variables=_variables(properties),
        timeout=timeout,
    )


def _refuse(properties: Mapping[str, Any]) -> None:
    """What would have to be done and is not must not be passed over."""
    distribution = fields.mapping(properties, "distribution", "distribution")
    if distribution:
        kind = shown(distribution.get("distributionType"))
        raise not_there_yet(f"The distribution {kind} of a command job")
    resources = fields.mapping(properties, "resources", "resources")
    count = fields.whole(
        resources, "instanceCount", "resources.instance_count", "resources.instanceCount", maximum=1000
    )
    if (count or 1) > 1:
        raise not_there_yet(f"A command job on {count} instances (resources.instance_count)")
    for name, service in fields.mapping(properties, "services", "services").items():
        given = service.get("jobServiceType") if isinstance(service, dict) else None
        if str(given or name).lower() not in _SHOWN_SERVICES:
            raise not_there_yet(f"The interactive service {shown(name)} of a command job")


def _named(properties: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for name, body in fields.mapping(properties, key, key).items():
        if not _NAME.fullmatch(name):
            raise user_error(
                f"{key}: {shown(name)} cannot be a name: use letters, digits and '_', at most 100, not "
                "beginning with a digit.",
                target=key,
            )
        if body is None:
            continue
        if not isinstance(body, dict):
            raise user_error(f"{key}.{name} must be an object, not {shown(body)}.", target=f"{key}.{name}")
        found[name] = body
    return found


def _input(name: str, body: Mapping[str, Any]) -> InputSpec:
    place = f"inputs.{name}"
    kind = _kind(body, "jobInputType", place, (_LITERAL, *_INPUT_TYPES))
    if kind == _LITERAL:
        value = body.get("value")
        if isinstance(value, bool | int | float):
            value = str(value)
        if not isinstance(value, str) or "\0" in value or len(value) > MOST_COMMAND:
            raise user_error(
                f"{place}.value must be a text, not {shown(body.get('value'))}.", target=f"{place}.value"
            )
        return InputSpec(kind, value=value)
    uri = fields.text(body, "uri", f"{place}.uri", limit=4096)
    if uri is None:
        raise user_error(f"{place} has no path.", target=f"{place}.uri")
    if uri.lower().startswith(("https://", "http://", "wasbs://", "abfss://")):
        raise not_there_yet(f"The input {name!r} from {uri.partition(':')[0]}://")
    given = fields.text(body, "mode", f"{place}.mode") or "ReadOnlyMount"
    mode = _INPUT_MODES.get(given.lower().replace("_", ""))
    if mode is None:
        raise not_there_yet(f"The mode {shown(given)} of the input {name!r}")
    return InputSpec(kind, uri=uri, mode=mode)


def _output(name: str, body: Mapping[str, Any]) -> OutputSpec:
    place = f"outputs.{name}"
    kind = _kind(body, "jobOutputType", place, _OUTPUT_TYPES)
    if name == "default":
        raise not_there_yet("A place of one's own for the default artifacts (the output 'default')")
    if body.get("assetName") or body.get("assetVersion"):
        raise not_there_yet(f"Registering the output {name!r} as an asset (its name and version)")
    given = fields.text(body, "mode", f"{place}.mode") or "ReadWriteMount"
    if given.lower().replace("_", "") not in _OUTPUT_MODES:
        raise not_there_yet(f"The mode {shown(given)} of the output {name!r}")
    fields.text(body, "uri", f"{place}.uri", limit=4096)
    return OutputSpec(kind, body)


def _kind(body: Mapping[str, Any], key: str, place: str, known: tuple[str, ...]) -> str:
    given = fields.text(body, key, f"{place}.{key}") or ""
    kind = given.lower()
    if kind == "triton_model":
        raise not_there_yet(f"The type triton_model ({place})")
    if kind not in known:
        raise user_error(
            f"{place} has the type {shown(given)}; it must be one of {', '.join(known)}.",
            target=f"{place}.{key}",
        )
    return kind


def _variables(properties: Mapping[str, Any]) -> dict[str, str]:
    found = fields.texts(properties, "environmentVariables")
    for name, value in found.items():
        if not _NAME.fullmatch(name) or name.startswith(_OWN):
            raise user_error(
                f"environment_variables: {shown(name)} cannot be set: use letters, digits and '_', at most "
                f"100, not beginning with a digit or {_OWN}.",
                target="environmentVariables",
            )
        if "\0" in value or len(value) > MOST_COMMAND // 2:
            raise user_error(
                f"environment_variables.{name} has a NUL in it or is too long.",
                target=f"environmentVariables.{name}",
            )
    return found
