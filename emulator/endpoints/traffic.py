"""Where a request of an endpoint goes, and which deployment gets a copy of it.

Source: Azure's "Perform safe rollout of new deployments for real-time inference".
"""

from __future__ import annotations

import random

from amlocal.emulator.endpoints.answers import DEPLOYMENT_HEADER, unavailable
from amlocal.emulator.endpoints.route_table import EndpointRoute
from amlocal.emulator.http.errors import not_found

FAILED = "Failed"


def choose(endpoint: EndpointRoute, wanted: str | None, rng: random.Random) -> str:
    """The deployment for a request that names `wanted`, or none.

    Raises 404 when there is no such deployment, or none with a share of the traffic; 503 when there is one
    that does not serve at present.
    """
    if wanted is not None:
        return _named(endpoint, wanted)
    weighted = {
        name: endpoint.traffic[name] for name in endpoint.deployments if endpoint.traffic.get(name, 0) > 0
    }
    serving = {name: weight for name, weight in weighted.items() if endpoint.deployments[name].serving}
    if serving:
        return rng.choices(list(serving), weights=list(serving.values()))[0]
    coming = [name for name in weighted if endpoint.deployments[name].state != FAILED]
    if coming:
        states = ", ".join(f"{name!r} ({endpoint.deployments[name].state})" for name in sorted(coming))
        raise unavailable(f"No deployment with traffic serves yet: {states}.")
    raise not_found(
        "There is no valid deployment with positive weight: give a deployment traffic, for example "
        "endpoint.traffic = {'blue': 100}.",
        target="traffic",
    )


def mirrored(endpoint: EndpointRoute, chosen: str, rng: random.Random) -> str | None:
    """The deployment that gets a copy of a request which went to `chosen` by its weight, or None."""
    point = rng.random() * 100
    for name, share in endpoint.mirror.items():
        if point < share:
            deployment = endpoint.deployments.get(name)
            return name if deployment is not None and deployment.serving and name != chosen else None
        point -= share
    return None


def _named(endpoint: EndpointRoute, wanted: str) -> str:
    deployment = endpoint.deployments.get(wanted)
    if deployment is None:
        known = ", ".join(sorted(endpoint.deployments)) or "none"
        raise not_found(
            f"The header {DEPLOYMENT_HEADER} names {wanted[:64]!r}; this endpoint has: {known}. "
            "(After an invoke with deployment_name the SDK goes on sending it: use a new MLClient.)",
            target=DEPLOYMENT_HEADER,
        )
    if not deployment.serving:
        raise unavailable(f"Deployment {wanted!r} does not serve (state {deployment.state}).")
    return wanted
