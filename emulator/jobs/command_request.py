"""The definition of a command job: read, checked, and typed.

Source: the REST body (`CommandJob`) that azure-ai-ml sends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amlocal.emulator.arm.resource import ASSET_NAME, VERSION
from amlocal.emulator.http.errors import user_error
from amlocal.emulator.jobs import command_line, distribution, fields, job_services
from amlocal.emulator.jobs.distribution import Distribution
from amlocal.emulator.jobs.fields import shown

MOST_COMMAND = 256 * 1024
LONGEST = 60 * 86400.0
_LITERAL = "literal"
_TYPES = ("uri_file", "uri_folder", "mltable", "custom_model", "mlflow_model", "triton_model")
_MODELS = ("custom_model", "mlflow_model", "triton_model")
_INPUT_MODES = {
    # There is no mount of the system here that could be read-only, and a job must not be able to change what
    # is stored: it gets a copy, as with "download".
    "readonlymount": "download",
    "readwritemount": "mount",
    "download": "download",
    "direct": "direct",
    "evalmount": "evaluate",
    "evaldownload": "evaluate",
}
_OUTPUT_MODES = {"readwritemount": "mount", "upload": "mount", "direct": "direct"}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_OWN = "AMLOCAL_"
# The output that stands for everything else that a job leaves: ./outputs, ./logs and its log.
ARTIFACTS = "default"


@dataclass(frozen=True)
class InputSpec:
    """One input: a literal has a `value`, everything else a `uri` and a `mode`.

    Modes: mount (what is stored itself), download (a copy), direct (the address alone), evaluate (a copy of
    what an MLTable names).
    """

    kind: str
    value: str = ""
    uri: str = ""
    mode: str = "download"


@dataclass(frozen=True)
class OutputSpec:
    """One named output; `body` is what the client sent of it.

    `mode` is mount (a folder or file to write) or direct (the address alone). `asset` is the name under which
    the output is registered when the job has completed, `version` that asset's wanted version.
    """

    kind: str
    body: Mapping[str, Any]
    mode: str = "mount"
    asset: str | None = None
    version: str | None = None

    @property
    def registry(self) -> str:
        """The kind of asset that the output can become: data or models."""
        return "models" if self.kind in _MODELS else "data"


@dataclass(frozen=True)
class CommandJob:
    """What a user asked for. `timeout` is seconds; `parameters` are what a trial has drawn, as text."""

    command: str
    code: str | None
    environment: str
    inputs: Mapping[str, InputSpec]
    outputs: Mapping[str, OutputSpec]
    variables: Mapping[str, str]
    timeout: float | None
    distribution: Distribution
    parameters: Mapping[str, str] = field(default_factory=dict)


def read(properties: Mapping[str, Any], parameters: Mapping[str, str] | None = None) -> CommandJob:
    """The job that the ARM `properties` define. Raises AzureError naming field and remedy.

    `parameters` are a trial's, by their names in the search space; None for a job that is no trial.
    """
    command = properties.get("command")
    if not isinstance(command, str) or not command.strip():
        raise user_error("command is missing; give the line that the job runs.", target="command")
    if len(command) > MOST_COMMAND or "\0" in command:
        raise user_error(
            f"command is longer than {MOST_COMMAND} characters or has a NUL in it.", target="command"
        )
    job_services.asked(properties)
    environment = fields.text(properties, "environmentId", "environmentId")
    if environment is None:
        raise user_error(
            "environment is missing; azureml:host:1 is the interpreter of this installation.",
            target="environmentId",
        )
    inputs = {
        name: _input(name, body)
        for name, body in _named(properties, "inputs").items()
        if not _is_absent(body)
    }
    outputs = {name: _output(name, body) for name, body in _named(properties, "outputs").items()}
    command_line.check(command, inputs, outputs, parameters)
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
        distribution=distribution.read(properties),
        parameters=parameters or {},
    )


def _named(properties: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for name, body in fields.mapping(properties, key, key).items():
        if not NAME.fullmatch(name):
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


def _is_absent(body: Mapping[str, Any]) -> bool:
    """An input without value, as clients send an optional one that is not given."""
    return str(body.get("jobInputType", _LITERAL)).lower() == _LITERAL and body.get("value") is None


def _input(name: str, body: Mapping[str, Any]) -> InputSpec:
    place = f"inputs.{name}"
    kind = _kind(body, "jobInputType", place, (_LITERAL, *_TYPES))
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
    given = fields.text(body, "mode", f"{place}.mode") or "ReadOnlyMount"
    mode = _INPUT_MODES.get(given.lower().replace("_", ""))
    if mode is None:
        raise user_error(
            f"{place} has the mode {shown(given)}; it must be one of ro_mount, rw_mount, download, direct, "
            "eval_mount, eval_download.",
            target=f"{place}.mode",
        )
    return InputSpec(kind, uri=uri, mode=mode)


def _output(name: str, body: Mapping[str, Any]) -> OutputSpec:
    place = f"outputs.{name}"
    kind = _kind(body, "jobOutputType", place, _TYPES)
    asset, version = _asset(body, place)
    if name == ARTIFACTS and (kind != "uri_folder" or asset):
        raise user_error(
            f"{place} is the place of the job's artifacts: its type is uri_folder and it has no name.",
            target=place,
        )
    given = fields.text(body, "mode", f"{place}.mode") or "ReadWriteMount"
    mode = _OUTPUT_MODES.get(given.lower().replace("_", ""))
    if mode is None:
        raise user_error(
            f"{place} has the mode {shown(given)}; it must be one of rw_mount, upload, direct.",
            target=f"{place}.mode",
        )
    fields.text(body, "uri", f"{place}.uri", limit=4096)
    return OutputSpec(kind, body, mode, asset, version)


def _asset(body: Mapping[str, Any], place: str) -> tuple[str | None, str | None]:
    """The name and version under which an output is to be registered."""
    asset = fields.text(body, "assetName", f"{place}.assetName")
    version = body.get("assetVersion")
    if isinstance(version, int) and not isinstance(version, bool):
        version = str(version)
    version = fields.text({"assetVersion": version}, "assetVersion", f"{place}.assetVersion")
    if asset is not None and not ASSET_NAME.match(asset):
        raise user_error(
            f"{place}: {shown(asset)} cannot be the name of an asset: use letters, digits, '-', '_' and '.', "
            "at most 255, beginning with a letter or digit.",
            target=f"{place}.assetName",
        )
    if version is not None and asset is None:
        raise user_error(
            f"{place} has a version and no name; give the asset's name too.", target=f"{place}.assetVersion"
        )
    if version is not None and not VERSION.match(version):
        raise user_error(
            f"{place}: {shown(version)} cannot be a version: use letters, digits, '-', '_', '.' and '+', "
            "at most 100, beginning with a letter or digit.",
            target=f"{place}.assetVersion",
        )
    return asset, version


def _kind(body: Mapping[str, Any], key: str, place: str, known: tuple[str, ...]) -> str:
    given = fields.text(body, key, f"{place}.{key}") or ""
    kind = given.lower()
    if kind not in known:
        raise user_error(
            f"{place} has the type {shown(given)}; it must be one of {', '.join(known)}.",
            target=f"{place}.{key}",
        )
    return kind


def _variables(properties: Mapping[str, Any]) -> dict[str, str]:
    found = fields.texts(properties, "environmentVariables")
    for name, value in found.items():
        if not NAME.fullmatch(name) or name.startswith(_OWN):
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
