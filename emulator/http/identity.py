"""What a client asks before it knows anything: is the server there, which cloud is this, who am I."""

from __future__ import annotations

import os
import sys
from importlib import metadata as packages
from typing import Any

from flask import Blueprint, Response, jsonify, request

from amlocal.compat import cloud
from amlocal.emulator.arm.resource import json_body
from amlocal.emulator.http.errors import bad_request
from amlocal.emulator.services import Services
from amlocal.emulator.store.workspaces import parse_triple


def create_blueprint(services: Services) -> Blueprint:
    """`/health`, cloud metadata, the managed-identity endpoint, and our own administration."""
    blueprint = Blueprint("identity", __name__)
    # Read once: clients ask for the metadata some nine times for each MLClient.
    record = cloud.metadata(services.settings.base_url)
    version = packages.version("amlocal")

    @blueprint.get("/health")
    def health() -> Response:
        return jsonify({"status": "ok", "pid": os.getpid(), "version": version})

    @blueprint.get("/metadata/endpoints")
    def metadata() -> Response:
        # azure-cli needs one object for the newer version and a list for the older one.
        newer = request.args.get("api-version", "") >= "2022-09-01"
        return jsonify(record if newer else [record])

    @blueprint.get("/msi/token")
    def managed_identity() -> Response:
        # The second is what scripts of online deployments send with MSI_SECRET.
        secret = request.headers.get("X-IDENTITY-HEADER") or request.headers.get("secret")
        token = services.auth.managed_identity_token(request.args.get("resource", ""), secret)
        response = jsonify(token)
        response.headers["Cache-Control"] = "no-store"
        return response

    @blueprint.get("/_amlocal/modules")
    def modules() -> Response:
        # What this process has imported: a heavy library here would slow every start.
        services.auth.require_user()
        return jsonify({"value": sorted({name.partition(".")[0] for name in sys.modules})})

    @blueprint.post("/_amlocal/workspaces")
    def add_workspace() -> tuple[Response, int]:
        services.auth.require_user()
        text = json_body().get("workspace")
        if not isinstance(text, str):
            raise bad_request("InvalidRequestContent", "`workspace` must be SUBSCRIPTION/GROUP/NAME.")
        workspace = services.workspaces.add(*parse_triple(text))
        return jsonify(_shown(workspace.arm_id, workspace.id)), 201

    @blueprint.get("/_amlocal/workspaces")
    def list_workspaces() -> Response:
        services.auth.require_user()
        return jsonify({"value": [_shown(w.arm_id, w.id) for w in services.workspaces.all()]})

    return blueprint


def _shown(arm_id: str, identity: str) -> dict[str, Any]:
    parts = arm_id.strip("/").split("/")
    return {"id": arm_id, "workspaceId": identity, "workspace": f"{parts[1]}/{parts[3]}/{parts[7]}"}
