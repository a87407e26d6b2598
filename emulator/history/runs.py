"""Run history: what the SDK's stream, download, archive and list of children read."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from amlocal.emulator.arm.resource import json_body
from amlocal.emulator.arm.routes import WORKSPACE_RULE, workspace_of
from amlocal.emulator.history import data, logs
from amlocal.emulator.http.errors import bad_request, not_there_yet
from amlocal.emulator.jobs import records
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.services import Services
from amlocal.emulator.store.workspace import Workspace

RULE = f"/history/v1.0{WORKSPACE_RULE}"
_TYPES = {
    "automl": ("automl", "AutoML"),
    "sweep": ("hyperdrive", "HyperDrive"),
    "trial": ("azureml.scriptrun", "Execution"),
    "command": ("azureml.scriptrun", "Execution"),
}


def present(record: JobRecord, root: str | None = None) -> dict[str, Any]:
    """A run as run history shows it; `root`: the name of the topmost run above it, where that is not known to
    be its parent or itself."""
    run_type, orchestrator = _TYPES.get(record.kind, (record.kind, record.kind))
    return {
        "runId": record.name,
        "runUuid": record.name,
        "parentRunId": record.parent,
        "rootRunId": root or record.parent or record.name,
        "experimentName": record.experiment,
        "displayName": record.display_name,
        "name": record.display_name,
        "status": record.state.value,
        "startTimeUtc": record.started_at,
        "endTimeUtc": record.ended_at,
        "createdUtc": record.created_at,
        "runType": run_type,
        "runTypeV2": {"orchestrator": orchestrator, "traits": []},
        "target": record.compute,
        "tags": record.tags,
        "properties": record.properties,
        "hidden": record.archived,
        "dataContainerId": f"dcid.{record.name}",
        "error": error_of(record),
        "description": record.body.get("description"),
        "number": record.sequence,
    }


def error_of(record: JobRecord) -> dict[str, Any] | None:
    """The error as clients read it: `error.error.message`."""
    if record.error is None:
        return None
    return {"error": {"details": [], **record.error}}


def create_blueprint(services: Services) -> Blueprint:
    """Routes under /history/v1.0."""
    blueprint = Blueprint("history", __name__)
    jobs = services.jobs

    def run(arguments: dict[str, str]) -> tuple[Workspace, JobRecord]:
        workspace = workspace_of(services, arguments)
        return workspace, jobs.get(workspace, arguments["run"])

    def root_of(record: JobRecord) -> str:
        return services.store.read(lambda c: records.root_of(c, record)).name

    @blueprint.get(f"{RULE}/runs/<run>")
    def get(**arguments: str) -> Response:
        _, record = run(arguments)
        return jsonify(present(record, root_of(record)))

    @blueprint.get(f"{RULE}/runs/<run>/details")
    def details(**arguments: str) -> Response:
        workspace, record = run(arguments)
        return jsonify(
            {
                "runId": record.name,
                "target": record.compute,
                "status": record.state.value,
                "startTimeUtc": record.started_at,
                "endTimeUtc": record.ended_at,
                "error": error_of(record),
                "warnings": [],
                "tags": record.tags,
                "properties": record.properties,
                "inputDatasets": [],
                "outputDatasets": [],
                "runDefinition": None,
                "logFiles": logs.links(services, workspace, record),
                "submittedBy": "local user",
            }
        )

    @blueprint.get(f"{RULE}/runs/<run>/children")
    def children(**arguments: str) -> Response:
        workspace, record = run(arguments)
        found = jobs.children(workspace, record.name)
        root = root_of(record)
        return jsonify({"value": [present(child, root) for child in found], "nextLink": None})

    @blueprint.get(f"{RULE}/runs/<run>/serviceinstances/<int:node>")
    def services_of(node: int, **arguments: str) -> Response:
        run(arguments)
        return jsonify({"instances": {}})

    @blueprint.patch(f"{RULE}/experiments/<experiment>/runs/<run>")
    def patch(experiment: str, **arguments: str) -> Response:
        workspace, record = run(arguments)
        body = json_body()
        hidden = body.get("hidden")
        if hidden is not None and not isinstance(hidden, bool):
            raise bad_request("InvalidRequestContent", "`hidden` must be true or false.", target="hidden")
        maps = {name: body.get(name) or {} for name in ("tags", "properties")}
        for name, value in maps.items():
            if not isinstance(value, dict):
                raise bad_request("InvalidRequestContent", f"`{name}` must map texts to texts.", target=name)
        changed = jobs.patch(
            workspace,
            record.name,
            **maps,
            display_name=body.get("displayName"),
            description=body.get("description"),
            archived=hidden,
        )
        return jsonify(present(changed, root_of(changed)))

    @blueprint.post(f"{RULE}/rundata")
    def rundata(**arguments: str) -> Response:
        workspace = workspace_of(services, arguments)
        name = json_body().get("runId")
        if not isinstance(name, str):
            raise bad_request("InvalidRequestContent", "`runId` must be a text.", target="runId")
        record = jobs.get(workspace, name)
        shown = present(record, root_of(record))
        return jsonify({"runMetadata": {**shown, "outputs": data.outputs_of(workspace, record)}})

    @blueprint.route(f"{RULE}/<path:rest>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    def other(rest: str, **arguments: str) -> Response:
        workspace_of(services, arguments)
        raise not_there_yet(f"The run history call {rest[:200]!r}")

    return blueprint
