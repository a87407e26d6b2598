"""The data plane's part in `jobs.download`: the outputs of a run as assets, and where these lie."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, jsonify

from amlocal.compat.azureml_uri import UriError, WorkspaceName, parse_datastore
from amlocal.emulator.arm.resource import json_body
from amlocal.emulator.arm.routes import WORKSPACE_RULE, workspace_of
from amlocal.emulator.http.errors import bad_request, not_found, not_there_yet
from amlocal.emulator.jobs import outputs
from amlocal.emulator.jobs.inputs import output_uri
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.services import Services
from amlocal.emulator.store.workspace import Workspace

RULE = f"/data/v1.0{WORKSPACE_RULE}"
_MOST = 1000
_ASSET = re.compile(
    r"azureml://locations/local/workspaces/([0-9a-f-]{36})/data"
    r"/azureml_([A-Za-z0-9][A-Za-z0-9_-]{0,254})_output_data_([A-Za-z0-9_]{1,100})/versions/1"
)


def outputs_of(workspace: Workspace, record: JobRecord) -> dict[str, Any] | None:
    """The named outputs of a command job as run history shows them; None where there are none."""
    if record.kind != "command":
        return None
    found = {}
    for name, kind in outputs.downloadable(record).items():
        asset = (
            f"azureml://locations/local/workspaces/{workspace.id}/data"
            f"/azureml_{record.name}_output_data_{name}/versions/1"
        )
        found[name] = {"assetId": asset, "type": kind}
    return found or None


def create_blueprint(services: Services) -> Blueprint:
    """Routes under /data/v1.0."""
    blueprint = Blueprint("data_plane", __name__)

    def resolved(workspace: Workspace, asset: Any) -> dict[str, str]:
        match = _ASSET.fullmatch(asset) if isinstance(asset, str) else None
        if match is None or match[1] != workspace.id:
            raise not_found(f"There is no data asset {str(asset)[:200]!r} in this workspace.")
        job, name = match[2], match[3]
        record = services.jobs.get(workspace, job)
        output = (record.body.get("outputs") or {}).get(name)
        kind = outputs.downloadable(record).get(name)
        if not isinstance(output, dict) or kind is None:
            raise not_found(f"The job {job!r} has no output {name!r}.")
        uri = output_uri(job, name, output)
        own = WorkspaceName(workspace.subscription, workspace.resource_group, workspace.name)
        try:
            place = str(parse_datastore(uri).within(own))
        except UriError as error:
            raise bad_request("InvalidUri", str(error)) from error
        return {"uri": place, "type": kind}

    @blueprint.post(f"{RULE}/dataversion/batchGetResolvedUris")
    def batch(**arguments: str) -> Response:
        workspace = workspace_of(services, arguments)
        values = json_body().get("values")
        if not isinstance(values, list) or len(values) > _MOST:
            raise bad_request(
                "InvalidRequestContent",
                f"`values` must be a list of at most {_MOST} assets.",
                target="values",
            )
        return jsonify({"values": {str(asset): resolved(workspace, asset) for asset in values}})

    @blueprint.route(f"{RULE}/<path:rest>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    def other(rest: str, **arguments: str) -> Response:
        workspace_of(services, arguments)
        raise not_there_yet(f"The data call {rest[:200]!r}")

    return blueprint
