"""Calls of Azure Machine Learning's clients that amlocal does not answer yet, each refused by name.

They lie below resources that are there, or on planes beside ARM: batch jobs and assets that are not ARM's.
Found by making the calls with azure-ai-ml 1.35.2.
"""

from __future__ import annotations

from flask import Blueprint, Response

from amlocal.emulator.arm.routes import WORKSPACE_RULE, workspace_of
from amlocal.emulator.http import versions
from amlocal.emulator.http.errors import not_there_yet
from amlocal.emulator.services import Services
from amlocal.emulator.store.workspace import PROVIDER

_METHODS = ["GET", "PUT", "POST", "PATCH", "DELETE"]
_BATCH = f"/mferp/managementfrontend{WORKSPACE_RULE}/batchEndpoints"
# Clients put the primaryRegion of a registry's discovery document in front of the asset service's paths.
_REGISTRY_ASSETS = (
    "/<path:region>/genericasset/v2.0/subscriptions/<subscription>/resourceGroups/<group>"
    f"/providers/{PROVIDER}/registries/<registry>"
)

# Rule -> feature. Those with a workspace in their path are answered for a workspace that is known only.
CALLS = {
    f"{WORKSPACE_RULE}/connections/<name>/deployments": "Azure OpenAI deployments",
    f"{WORKSPACE_RULE}/computes/<name>/updateDataMounts": "Mounting data on compute instances",
    f"{WORKSPACE_RULE}/models/<name>/versions/<version>/package": "Packaging models",
    f"{_BATCH}/<path:rest>": "Batch endpoints",
    f"{_REGISTRY_ASSETS}/deploymenttemplates": "Deployment templates",
    f"{_REGISTRY_ASSETS}/deploymenttemplates/<path:rest>": "Deployment templates",
}


def add_routes(blueprint: Blueprint, services: Services) -> None:
    """Refuse every one of `CALLS` with 501 naming its feature."""
    for number, (rule, feature) in enumerate(CALLS.items()):

        def refuse(feature: str = feature, **arguments: str) -> Response:
            if "workspace" in arguments:
                workspace_of(services, arguments)
            else:
                services.auth.require_user()
                versions.check()
            raise not_there_yet(feature)

        blueprint.add_url_rule(rule, f"not_yet_{number}", refuse, methods=_METHODS)
