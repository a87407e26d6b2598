"""Jobs in ARM: submit, get, list, update, cancel, delete. Runs below a job can be read the same way."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, jsonify, request

from amlocal.emulator.arm import filters, sweeps
from amlocal.emulator.arm.resource import json_body, properties_of
from amlocal.emulator.arm.routes import WORKSPACE_RULE, list_view, workspace_of
from amlocal.emulator.http import paging
from amlocal.emulator.http.errors import bad_request, conflict, not_there_yet
from amlocal.emulator.jobs import job_services, outputs
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.services import Services
from amlocal.emulator.store.workspace import PROVIDER, Workspace
from amlocal.emulator.studio.links import run_link

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}\Z")
RULE = f"{WORKSPACE_RULE}/jobs"


def present(services: Services, workspace: Workspace, record: JobRecord) -> dict[str, Any]:
    """The job as ARM shows it: the body as submitted, and what has become of it."""
    body = dict(record.body)
    if record.kind == "trial":
        body = {
            "jobType": "Command",
            "command": "python -m amlocal.trainers train spec.json",
            "environmentId": f"{workspace.arm_id}/environments/host/versions/1",
            "inputs": {},
            "outputs": {},
        }
    elif record.kind == "command":
        body = _command(record)
    elif record.kind == "sweep" and record.parent is None:
        body = sweeps.present(record)
    elif record.kind == "sweep":
        body = _sweep(services, workspace, record)
    properties = {
        **body,
        "displayName": record.display_name,
        "experimentName": record.experiment,
        "status": record.state.value,
        "tags": record.tags,
        "properties": record.properties,
        "isArchived": record.archived,
        "parentJobName": record.parent,
        "services": {
            **(job_services.present(record.body) if record.kind == "command" else {}),
            "Tracking": {
                "jobServiceType": "Tracking",
                "endpoint": f"{services.settings.base_url}/mlflow/v1.0{workspace.arm_id}",
            },
            "Studio": {"jobServiceType": "Studio", "endpoint": run_link(services, workspace, record.name)},
        },
    }
    return {
        "id": f"{workspace.arm_id}/jobs/{record.name}",
        "name": record.name,
        "type": f"{PROVIDER}/workspaces/jobs",
        "properties": properties,
        "systemData": {
            "createdAt": record.created_at,
            "createdBy": "local user",
            "createdByType": "User",
            "lastModifiedAt": record.ended_at or record.started_at or record.created_at,
        },
    }


def _command(record: JobRecord) -> dict[str, Any]:
    """A command job as submitted, with the addresses of its outputs."""
    body = dict(record.body)
    return {**body, "inputs": body.get("inputs") or {}, "outputs": outputs.shown(record)}


def _sweep(services: Services, workspace: Workspace, record: JobRecord) -> dict[str, Any]:
    """Without a search space, a single trial is a grid of one model, as Azure's own sweep of one trial is."""
    body = record.body
    model = body.get("model_name") or record.properties.get("model_name", "")
    metric = body.get("primary_metric") or record.properties.get("primary_metric", "")
    policy, sampling = body.get("early_termination"), body.get("sampling")
    if not isinstance(sampling, dict):
        sampling = {"samplingAlgorithmType": str(sampling or "grid").capitalize()}
    return {
        "jobType": "Sweep",
        "searchSpace": body.get("search_space") or {"model_name": ["choice", [[model]]]},
        "samplingAlgorithm": sampling,
        **({"earlyTermination": policy} if policy else {}),
        "objective": {"goal": "Maximize", "primaryMetric": metric},
        "limits": {
            "jobLimitsType": "Sweep",
            "maxTotalTrials": body.get("max_trials", 1),
            "maxConcurrentTrials": body.get("max_concurrent", 1),
        },
        "trial": {
            "command": "python -m amlocal.trainers train spec.json",
            "environmentId": f"{workspace.arm_id}/environments/host/versions/1",
        },
        "inputs": {},
        "outputs": {},
    }


def create_blueprint(services: Services) -> Blueprint:
    """Routes of jobs."""
    blueprint = Blueprint("jobs", __name__)
    jobs = services.jobs

    def where(arguments: dict[str, str]) -> tuple[Workspace, str]:
        workspace = workspace_of(services, arguments)
        name = arguments["job"]
        if not NAME.match(name):
            raise bad_request(
                "InvalidResourceName",
                f"{name[:100]!r} is not a valid job name: letters, digits, '-' and '_', at most 255 "
                "characters, beginning with a letter or digit.",
                target="name",
            )
        return workspace, name

    @blueprint.put(f"{RULE}/<job>")
    def put(**arguments: str) -> Response:
        workspace, name = where(arguments)
        record, created = jobs.submit(workspace, name, properties_of(json_body()))
        response = jsonify(present(services, workspace, record))
        response.status_code = 201 if created else 200
        return response

    @blueprint.get(f"{RULE}/<job>")
    def get(**arguments: str) -> Response:
        workspace, name = where(arguments)
        return jsonify(present(services, workspace, jobs.get(workspace, name)))

    @blueprint.patch(f"{RULE}/<job>")
    def patch(**arguments: str) -> Response:
        workspace, name = where(arguments)
        properties = properties_of(json_body())
        updated = jobs.patch(
            workspace,
            name,
            tags=_texts(properties, "tags"),
            properties=_texts(properties, "properties"),
            display_name=properties.get("displayName"),
            description=properties.get("description"),
        )
        return jsonify(present(services, workspace, updated))

    @blueprint.get(RULE)
    def list_jobs(**arguments: str) -> Response:
        workspace = workspace_of(services, arguments)
        skip, top = paging.window()
        view = list_view()
        archived = {"ActiveOnly": False, "ArchivedOnly": True, "All": None}[view]
        if request.args.get("assetName"):
            raise not_there_yet("Listing the jobs that used an asset (assetName)")
        if request.args.get("scheduled", "").lower() == "true" or request.args.get("scheduleId"):
            raise not_there_yet("Listing the jobs of a schedule")
        found = jobs.list(
            workspace,
            archived=archived,
            job_type=request.args.get("jobType") or None,
            entries=filters.of_jobs(),
            skip=skip,
            limit=top + 1,
        )
        items = [present(services, workspace, record) for record in found]
        return jsonify(paging.page(services.settings.base_url, items, skip, top))

    @blueprint.post(f"{RULE}/<job>/cancel")
    def cancel(**arguments: str) -> Response:
        workspace, name = where(arguments)
        jobs.cancel(workspace, name)
        operation = services.operations.start(f"{workspace.arm_id}/jobs/{name}")
        # The request is on record; the state machine does the rest and `status` tells how far it is.
        services.operations.succeed(operation)
        return Response(status=202, headers=services.operations.headers(operation, location=True))

    @blueprint.delete(f"{RULE}/<job>")
    def delete(**arguments: str) -> Response:
        workspace, name = where(arguments)
        jobs.get(workspace, name)
        raise conflict(
            f"Job {name!r} cannot be deleted: its history would be lost. Archive it: jobs.archive({name!r}).",
            code="JobDeletionNotSupported",
        )

    return blueprint


def _texts(properties: dict[str, Any], name: str) -> dict[str, str | None]:
    """A map of texts; null takes an entry away (JSON merge patch, RFC 7396). Raises 400."""
    value = properties.get(name) or {}
    if not isinstance(value, dict) or not all(isinstance(text, str | None) for text in value.values()):
        raise bad_request(
            "InvalidRequestContent", f"`properties.{name}` must map texts to texts.", target=name
        )
    return value
