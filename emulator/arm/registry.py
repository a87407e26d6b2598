"""The declared resources of this server. A new one is a file beside this one and a line here."""

from __future__ import annotations

from flask import Blueprint, Response, request

from amlocal.emulator.arm import elsewhere as calls
from amlocal.emulator.arm import indexes, insights_metrics, routes
from amlocal.emulator.arm.codes import CODES
from amlocal.emulator.arm.components import COMPONENTS
from amlocal.emulator.arm.computes import COMPUTES
from amlocal.emulator.arm.connections import CONNECTIONS
from amlocal.emulator.arm.data import DATA
from amlocal.emulator.arm.datastores import DATASTORES
from amlocal.emulator.arm.environments import ENVIRONMENTS
from amlocal.emulator.arm.models import MODELS
from amlocal.emulator.arm.online_deployments import ONLINE_DEPLOYMENTS
from amlocal.emulator.arm.online_endpoints import ONLINE_ENDPOINTS
from amlocal.emulator.arm.resource import Resource
from amlocal.emulator.http.errors import AzureError, not_found, not_there_yet
from amlocal.emulator.services import Services

RESOURCES: tuple[Resource, ...] = (
    CODES,
    ENVIRONMENTS,
    DATASTORES,
    DATA,
    COMPUTES,
    MODELS,
    COMPONENTS,
    CONNECTIONS,
    ONLINE_ENDPOINTS,
    ONLINE_DEPLOYMENTS,
)

# What Azure Machine Learning has below a workspace and amlocal does not have yet, by its path there.
KNOWN_ELSEWHERE = {
    "batchEndpoints": "Batch endpoints",
    "capabilityHosts": "Capability hosts",
    "featuresets": "Feature sets",
    "featurestoreEntities": "Feature store entities",
    "inferencePools": "Inference pools",
    "marketplaceSubscriptions": "Marketplace subscriptions",
    "outboundRules": "Managed networks",
    "provisionManagedNetwork": "Managed networks",
    "schedules": "Schedules",
    "serverlessEndpoints": "Serverless endpoints",
}


def create_blueprint(services: Services) -> Blueprint:
    """ARM: every declared resource, and a named refusal for those that are known but not there yet."""
    blueprint = Blueprint("arm", __name__)
    for resource in RESOURCES:
        routes.register(blueprint, resource, services)
    calls.add_routes(blueprint, services)
    insights_metrics.add_routes(blueprint, services)
    blueprint.register_blueprint(indexes.create_blueprint(services))

    ours = {"jobs", *(resource.path.partition("/")[0].lower() for resource in RESOURCES)}

    def elsewhere(kind: str, **arguments: str) -> Response:
        routes.workspace_of(services, arguments)
        title = {name.lower(): text for name, text in KNOWN_ELSEWHERE.items()}.get(kind.lower())
        if title is not None:
            raise not_there_yet(title)
        if kind.lower() in ours:
            raise AzureError(
                405, "MethodNotAllowed", f"{kind} has nothing at {request.method} {request.path[:300]}."
            )
        raise not_found(
            f"There is no resource type {kind[:100]!r} in a workspace.", code="NoRegisteredProviderFound"
        )

    methods = ["GET", "PUT", "POST", "PATCH", "DELETE"]
    for rule in ("/<kind>", "/<kind>/<path:rest>"):
        blueprint.add_url_rule(
            f"{routes.WORKSPACE_RULE}{rule}",
            f"elsewhere_{rule.count('/')}",
            elsewhere,
            methods=methods,
        )
    return blueprint
