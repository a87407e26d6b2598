"""Which of MLflow's routes a workspace's users may call, and what their bodies may name.

A list of what is let through, not of what is kept out: MLflow's server also has routes that manage other
workspaces, call language models, send webhooks to any address or run an assistant's commands on the host.
"""

from __future__ import annotations

import json
import re
from typing import Any

from amlocal.emulator.history import mlflow_paths
from amlocal.emulator.http.errors import AzureError, bad_request, not_found

API = re.compile(r"(?:ajax-)?api/[23]\.0/mlflow/(?P<call>.+)")
ARTIFACTS = re.compile(r"(?:ajax-)?api/2\.0/mlflow-artifacts/artifacts(?:/(?P<path>.*))?", re.DOTALL)
PAGES = frozenset(
    {"", "health", "version", "graphql", "get-artifact", "model-versions/get-artifact", "v1/traces"}
)
FAMILIES = frozenset(
    {
        "artifacts",
        "datasets",
        "experiments",
        "get-online-trace-details",
        "get-trace-artifact",
        "label-schemas",
        "logged-models",
        "metrics",
        "model-versions",
        "registered-models",
        "review-queues",
        "runs",
        "scorers",
        "server-info",
        "traces",
        "ui-telemetry",
        "unified-traces",
    }
)
KEPT_OUT = frozenset({"runs/create-promptlab-run"})

# Bodies of calls (not of artifacts) are read whole before they are sent on.
MAX_CALL_BODY = 8 * 1024 * 1024
LOCATION_FIELDS = frozenset({"artifactlocation", "artifacturi"})
LOCATION_TAGS = frozenset({"mlflow.artifactLocation", "mlflow.trace.archiveLocation"})
# What MLflow's client sends as `source` of a prompt, which has no files.
PROMPT_SOURCES = frozenset({"dummy-source", "prompt-template"})
MAX_ARTIFACT_DEPTHS = {"GET": 3, "HEAD": 3, "PUT": 3, "DELETE": 4}


def is_artifact(route: str) -> bool:
    """Whether the route (path below the tracking URI) moves an artifact's bytes or lists artifacts."""
    return ARTIFACTS.fullmatch(route) is not None


def check_route(route: str) -> None:
    """Raise 404 unless the route is one that users of a workspace may call."""
    if any(part in (".", "..") for part in mlflow_paths.decode(route).replace("\\", "/").split("/")):
        raise bad_request("InvalidPath", "A path of MLflow has no '.' or '..' segment.")
    if route in PAGES or route.startswith("static-files/") or is_artifact(route):
        return
    found = API.fullmatch(route)
    call = found["call"] if found else ""
    if call.partition("/")[0] not in FAMILIES or call in KEPT_OUT:
        raise not_found(f"amlocal's MLflow server has no '/{route}'.", code="MlflowRouteNotFound")


def artifact_path(route: str, method: str, listed: list[str]) -> tuple[str, int]:
    """The path that a call names and the least depth it must have; `listed`: its `path` parameters."""
    found = ARTIFACTS.fullmatch(route)
    assert found is not None
    if found["path"]:
        return found["path"], MAX_ARTIFACT_DEPTHS.get(method, 4)
    if method not in ("GET", "HEAD") or len(listed) != 1:
        raise bad_request("InvalidPath", "Name the folder to list in exactly one query parameter 'path'.")
    return listed[0], 2


def check_body(account: str, route: str, body: bytes) -> None:
    """Raise 400 if a call's JSON body stores an address outside the workspace's own artifacts.

    Such an address would be opened by the server later (the class of CVE-2023-1177).
    """
    if API.fullmatch(route) is None or not body:
        return
    try:
        value = json.loads(body)
        # MLflow decodes a body that was encoded twice.
        value = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise bad_request("InvalidJson", f"The body is not JSON: {error}") from error
    version = route.endswith("mlflow/model-versions/create")
    if version and isinstance(value, dict):
        _check_source(account, value.get("source"))
    for field, address in _addresses(value):
        _check_address(account, field, address)


def _addresses(value: Any) -> list[tuple[str, Any]]:
    """Every (field, value) anywhere in a body that MLflow would take for a place of artifacts."""
    found: list[tuple[str, Any]] = []
    open_values = [value]
    while open_values:
        one = open_values.pop()
        if isinstance(one, list):
            open_values.extend(one)
        elif isinstance(one, dict):
            open_values.extend(one.values())
            for key, inner in one.items():
                # MLflow reads fields in snake_case and in camelCase.
                if key.replace("_", "").lower() in LOCATION_FIELDS or key in LOCATION_TAGS:
                    found.append((key, inner))
            if one.get("key") in LOCATION_TAGS:
                found.append((str(one["key"]), one.get("value")))
    return found


def _check_address(account: str, field: str, address: Any) -> None:
    if address in (None, ""):
        return
    try:
        mlflow_paths.check_uri(account, str(address))
    except mlflow_paths.ArtifactPathError as error:
        raise _refused(field, address, error) from error


def _check_source(account: str, source: Any) -> None:
    """A model version's source: own artifacts, or a run or model of this workspace, which MLflow looks up."""
    text = str(source or "")
    if text in PROMPT_SOURCES or not text:
        return
    decoded = mlflow_paths.decode(text)
    if decoded.startswith(("runs:/", "models:/")) and not decoded.partition(":/")[2].startswith("/"):
        if ".." in decoded.split("/") or "\\" in decoded:
            raise _refused("source", source, mlflow_paths.ArtifactPathError("a source has no '..' segment"))
        return
    _check_address(account, "source", source)


def _refused(field: str, address: Any, error: mlflow_paths.ArtifactPathError) -> AzureError:
    return bad_request("InvalidArtifactLocation", f"{field} '{str(address)[:200]}': {error}.", target=field)
