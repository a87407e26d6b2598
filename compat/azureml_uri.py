"""The names that Azure Machine Learning gives to data: azureml:// URIs, asset references and ARM ids.

Source of the forms: "Data concepts" and "Data schemas to train computer vision models" in Azure Machine
Learning's documentation, and the patterns which azure-ai-ml 1.35 itself accepts. Keywords are read in any
case, names are kept as written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import unquote

MAX_LENGTH = 4096

ACCEPTED_FORMS = (
    "azureml://subscriptions/SUBSCRIPTION/resourcegroups/GROUP/workspaces/WORKSPACE/datastores/DATASTORE/paths/PATH",
    "azureml://datastores/DATASTORE/paths/PATH",
    "azureml://jobs/JOB/outputs/artifacts/paths/PATH",
    "azureml://jobs/JOB/outputs/OUTPUT/paths/PATH",
    "azureml:NAME:VERSION",
    "azureml:NAME@LABEL",
    "azureml://registries/REGISTRY/data/NAME/versions/VERSION",
    "/subscriptions/SUBSCRIPTION/resourceGroups/GROUP/providers/Microsoft.MachineLearningServices"
    "/workspaces/WORKSPACE/data/NAME/versions/VERSION",
)

_PROVIDER = "microsoft.machinelearningservices"
_NAME = re.compile(r"\w[\w.()\-]{0,259}")
_PLACEHOLDER = re.compile(r"<[^<>/]*>")
_DRIVE = re.compile(r"[A-Za-z]:")
_ASSET_KINDS = ("data", "models", "environments", "components", "codes")


class UriError(ValueError):
    """A reference that has none of the accepted forms, or a path that leaves its root.

    `uri` is the reference as given, `reason` what is wrong with it; the message adds the accepted forms
    when the form itself is at fault.
    """

    def __init__(self, uri: str, reason: str, *, show_forms: bool = False) -> None:
        forms = "".join(f"\n  {form}" for form in ACCEPTED_FORMS)
        super().__init__(f"{_shown(uri)}: {reason}" + (f" Accepted forms:{forms}" if show_forms else ""))
        self.uri = uri
        self.reason = reason


@dataclass(frozen=True, slots=True)
class WorkspaceName:
    """The three names that address a workspace."""

    subscription: str
    resource_group: str
    workspace: str


@dataclass(frozen=True, slots=True)
class DatastoreUri:
    """A file or folder in a datastore; `path` is relative and clean. `workspace` None: the caller's own."""

    datastore: str
    path: str
    workspace: WorkspaceName | None = None

    def __str__(self) -> str:
        return f"{_long_prefix(self.workspace)}datastores/{self.datastore}/paths/{self.path}"

    def within(self, workspace: WorkspaceName) -> DatastoreUri:
        """The same place with its workspace spelled out, unless it names one already."""
        return self if self.workspace else replace(self, workspace=workspace)


@dataclass(frozen=True, slots=True)
class JobOutputUri:
    """A path below one of a job's outputs; `output` is "artifacts" for the run's artifact folder."""

    job: str
    output: str
    path: str
    workspace: WorkspaceName | None = None

    def __str__(self) -> str:
        return f"{_long_prefix(self.workspace)}jobs/{self.job}/outputs/{self.output}/paths/{self.path}"


@dataclass(frozen=True, slots=True)
class AssetUri:
    """A versioned asset: `version` or `label` is set, never both. `kind` None: the context decides."""

    name: str
    version: str | None = None
    label: str | None = None
    kind: str | None = None
    workspace: WorkspaceName | None = None
    registry: str | None = None

    def __str__(self) -> str:
        if self.registry:
            return f"azureml://registries/{self.registry}/{self._tail()}"
        if self.workspace and self.kind:
            return self.arm_id(self.workspace)
        return f"azureml:{self.name}" + (f"@{self.label}" if self.label else f":{self.version}")

    def arm_id(self, workspace: WorkspaceName) -> str:
        """The asset's ARM id in `workspace`; kind "data" where none was said."""
        return (
            f"/subscriptions/{workspace.subscription}/resourceGroups/{workspace.resource_group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{workspace.workspace}/{self._tail()}"
        )

    def _tail(self) -> str:
        which = f"labels/{self.label}" if self.label else f"versions/{self.version}"
        return f"{self.kind or 'data'}/{self.name}/{which}"


AnyUri = DatastoreUri | JobOutputUri | AssetUri


def parse(uri: str) -> AnyUri:
    """The typed form of a data reference. Raises UriError: what is wrong, which forms are accepted."""
    check_text(uri)
    if len(uri) > MAX_LENGTH:
        raise UriError(uri, f"is longer than {MAX_LENGTH} characters.")
    rest = uri[len("azureml:") :] if uri[:8].lower() == "azureml:" else None
    if rest is None and not uri[:15].lower().startswith("/subscriptions/"):
        raise UriError(uri, "is not an azureml reference.", show_forms=True)
    if rest is not None and not rest.startswith("/"):
        return _parse_asset(uri, rest)
    segments = (uri if rest is None else rest).lstrip("/").split("/")
    workspace, segments = _take_workspace(uri, segments)
    reader = _READERS.get(segments[0].lower())
    if reader is None:
        raise UriError(uri, "names no datastore, job or asset.", show_forms=True)
    return reader(uri, segments, workspace)


def parse_datastore(uri: str) -> DatastoreUri:
    """As parse, for places where only a path in a datastore makes sense."""
    parsed = parse(uri)
    if not isinstance(parsed, DatastoreUri):
        raise UriError(uri, f"is not a path in a datastore. Use {ACCEPTED_FORMS[0]} or {ACCEPTED_FORMS[1]}")
    return parsed


def is_azureml(text: str) -> bool:
    """Whether the text claims to be an azureml reference (it may still be a wrong one)."""
    return text[:8].lower() == "azureml:"


def clean_path(path: str) -> str:
    """A relative path without empty and '.' segments and without slash at the end.

    Raises UriError for whatever could leave the root it is joined to: '..', a leading slash or drive, a
    backslash, NUL and other control characters, also when they hide in percent-encoding (decoded up to three
    times). Percent signs that hide nothing are part of the file's name.
    """
    check_text(path)
    if path.startswith("/") or _DRIVE.match(path):
        raise UriError(path, "is absolute; give a path relative to its root.")
    decoded = path
    for _ in range(4):
        _refuse_escape(path, decoded)
        if "%" not in decoded:
            break
        further = unquote(decoded, errors="replace")
        if further.count("/") != decoded.count("/"):
            raise UriError(path, "has an encoded slash; write slashes as '/'.")
        if further == decoded:
            break
        decoded = further
    else:
        raise UriError(path, "is percent-encoded more than three times.")
    if "/." not in path and "//" not in path and path[:1] not in (".", "") and path[-1] != "/":
        return path
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def check_text(text: str) -> None:
    """Raises UriError for text that no file system can hold: control characters, lone surrogates."""
    if not text:
        raise UriError(text, "is empty.")
    if not text.isprintable() and any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise UriError(text, "has a control character in it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UriError(text, "is not valid Unicode (a lone surrogate).") from None


def _refuse_escape(path: str, decoded: str) -> None:
    if "\\" in decoded:
        raise UriError(path, "has a backslash; write slashes as '/'.")
    if ".." in decoded and ".." in decoded.split("/"):
        raise UriError(path, "has '..' in it and could leave its root.")
    if decoded is not path and any(ord(char) < 32 or ord(char) == 127 for char in decoded):
        raise UriError(path, "has an encoded control character in it.")


def _take_workspace(uri: str, segments: list[str]) -> tuple[WorkspaceName | None, list[str]]:
    """The workspace at the front of the segments, if there is one, and the segments after it."""
    if segments[0].lower() != "subscriptions":
        return None, segments
    lowered = [segment.lower() for segment in segments[:7]]
    if lowered[4:6] == ["providers", _PROVIDER]:
        segments = segments[:4] + segments[6:]
        lowered = [segment.lower() for segment in segments[:7]]
    if lowered[2:3] != ["resourcegroups"] or lowered[4:5] != ["workspaces"] or len(segments) < 7:
        raise UriError(uri, "does not name subscription, resource group and workspace.", show_forms=True)
    names = WorkspaceName(
        _name(uri, segments[1], "subscription"),
        _name(uri, segments[3], "resource group"),
        _name(uri, segments[5], "workspace"),
    )
    return names, segments[6:]


def _parse_datastore(uri: str, segments: list[str], workspace: WorkspaceName | None) -> DatastoreUri:
    if len(segments) < 3 or segments[2].lower() != "paths":
        raise UriError(uri, "has no /paths/ after the datastore's name.", show_forms=True)
    return DatastoreUri(_name(uri, segments[1], "datastore"), _path(uri, segments[3:]), workspace)


def _parse_job(uri: str, segments: list[str], workspace: WorkspaceName | None) -> JobOutputUri:
    if len(segments) < 4 or segments[2].lower() != "outputs":
        raise UriError(uri, "has no /outputs/ after the job's name.", show_forms=True)
    # Microsoft's samples register models from .../outputs/artifacts/outputs/mlflow-model/, without "paths".
    path = segments[5:] if segments[4:5] == ["paths"] else segments[4:]
    return JobOutputUri(
        _name(uri, segments[1], "job"), _name(uri, segments[3], "output"), _path(uri, path), workspace
    )


def _parse_arm_asset(uri: str, segments: list[str], workspace: WorkspaceName | None) -> AssetUri:
    if len(segments) != 4 or segments[2].lower() not in ("versions", "labels"):
        raise UriError(uri, "has no /versions/VERSION after the asset's name.", show_forms=True)
    name, which = _name(uri, segments[1], "asset"), _name(uri, segments[3], segments[2].lower()[:-1])
    kind = segments[0].lower()
    if segments[2].lower() == "labels":
        return AssetUri(name, label=which, kind=kind, workspace=workspace)
    return AssetUri(name, version=which, kind=kind, workspace=workspace)


def _parse_registry(uri: str, segments: list[str], workspace: WorkspaceName | None) -> AssetUri:
    if workspace is not None or len(segments) != 6 or segments[2].lower() not in _ASSET_KINDS:
        raise UriError(uri, "does not name an asset of a registry.", show_forms=True)
    asset = _parse_arm_asset(uri, segments[2:], None)
    return replace(asset, registry=_name(uri, segments[1], "registry"))


def _parse_asset(uri: str, rest: str) -> AssetUri:
    name, at, label = rest.partition("@")
    if at:
        return AssetUri(_name(uri, name, "asset"), label=_name(uri, label, "label"))
    name, colon, version = rest.partition(":")
    if not colon:
        raise UriError(uri, "has no version.", show_forms=True)
    return AssetUri(_name(uri, name, "asset"), version=_name(uri, version, "version"))


_READERS: dict[str, Callable[[str, list[str], WorkspaceName | None], AnyUri]] = {
    "datastores": _parse_datastore,
    "jobs": _parse_job,
    "registries": _parse_registry,
    **dict.fromkeys(_ASSET_KINDS, _parse_arm_asset),
}


def _name(uri: str, name: str, what: str) -> str:
    if _NAME.fullmatch(name):
        return name
    if _PLACEHOLDER.fullmatch(name):
        raise UriError(uri, f"still has the placeholder {name} where the {what}'s name belongs.")
    raise UriError(uri, f"{_shown(name)} cannot be the name of a {what}.", show_forms=True)


def _path(uri: str, segments: list[str]) -> str:
    joined = "/".join(segments).lstrip("/")
    if not joined:
        return ""
    try:
        return clean_path(joined)
    except UriError as error:
        raise UriError(uri, f"the path {error.reason}") from None


def _long_prefix(workspace: WorkspaceName | None) -> str:
    if workspace is None:
        return "azureml://"
    return (
        f"azureml://subscriptions/{workspace.subscription}/resourcegroups/{workspace.resource_group}"
        f"/workspaces/{workspace.workspace}/"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "…")
