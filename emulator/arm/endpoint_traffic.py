"""Which share of an endpoint's requests goes to which deployment, live and as copies.

Rules: Azure's "Safe rollout for online endpoints" and its online endpoint YAML reference. Traffic sums up to
100 or to 0. Mirror traffic goes to one deployment, at most 50 % of the requests, and not to one with traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from amlocal.emulator.arm import documents
from amlocal.emulator.endpoints.deployment_records import DEPLOYMENTS, ENDPOINTS
from amlocal.emulator.http.errors import AzureError, bad_request, conflict

MOST_MIRRORED = 50


def weights(value: Any, field: str) -> dict[str, int]:
    """A field that maps deployments to percentages, as it was sent. Raises 400 naming the entry."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _refusal(field, f"`{field}` must map deployments to percentages.")
    for name, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= 100:
            raise _refusal(
                field, f"{field} of {name[:60]!r} is {str(weight)[:20]!r}: use a whole number from 0 to 100."
            )
    return dict(value)


def settled(
    c: Connection, workspace_id: str, endpoint: str, traffic: Mapping[str, int], mirror: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Both in the deployments' own spelling and without zeroes of a mirror.

    Raises 400 for what Azure would refuse. In the transaction that stores them: else a deployment could be
    deleted between the look and the write.
    """
    known = _deployments(c, workspace_id, endpoint)
    live = _spelled(traffic, known, endpoint, "traffic")
    if sum(live.values()) not in (0, 100):
        raise _refusal(
            "traffic",
            f"traffic sums up to {sum(live.values())}: the percentages of all deployments must sum "
            "up to 100, or to 0.",
        )
    copies = {name: w for name, w in _spelled(mirror, known, endpoint, "mirrorTraffic").items() if w}
    if len(copies) > 1:
        raise _refusal(
            "mirrorTraffic",
            f"mirror traffic goes to one deployment only, not to {' and '.join(sorted(copies))}.",
        )
    for name, weight in copies.items():
        if weight > MOST_MIRRORED:
            raise _refusal(
                "mirrorTraffic",
                f"mirror traffic of {name!r} is {weight} %: at most {MOST_MIRRORED} % can be mirrored.",
            )
        if live.get(name):
            raise _refusal(
                "mirrorTraffic",
                f"deployment {name!r} has {live[name]} % of the traffic and {weight} % mirror traffic: it "
                "can have only one of them. Set its traffic or its mirror traffic to 0.",
            )
    return live, copies


def release(c: Connection, workspace_id: str, name: str) -> None:
    """Take a deployment `endpoint/deployment` that will be deleted out of the endpoint's rules.

    Raises 409 while it has live traffic. Its mirror traffic ends with it: no client waits for those answers.
    """
    endpoint_name, _, deployment = name.partition("/")
    endpoint = documents.get(c, workspace_id, ENDPOINTS, endpoint_name)
    if endpoint is None:
        return
    properties = dict(endpoint.properties)
    for field in ("traffic", "mirrorTraffic"):
        rules: Mapping[str, int] = properties.get(field) or {}
        for known, weight in rules.items():
            if field == "traffic" and weight and known.lower() == deployment.lower():
                raise conflict(
                    f"Deployment {known!r} has {weight} % of the traffic of endpoint {endpoint.name!r}. "
                    "Set its traffic to 0 first.",
                    code="DeploymentHasTraffic",
                    target="traffic",
                )
        properties[field] = {key: w for key, w in rules.items() if key.lower() != deployment.lower()}
    if properties != endpoint.properties:
        body = {**endpoint.body, "properties": properties}
        documents.put(c, workspace_id, ENDPOINTS, endpoint.name, "", body)


def _deployments(c: Connection, workspace_id: str, endpoint: str) -> dict[str, str]:
    """By lower-cased name the spelling of each deployment of the endpoint."""
    found = documents.listing(c, workspace_id, DEPLOYMENTS, prefix=f"{endpoint}/")
    names = [document.name.partition("/")[2] for document in found]
    return {name.lower(): name for name in names}


def _spelled(
    wanted: Mapping[str, int], known: Mapping[str, str], endpoint: str, field: str
) -> dict[str, int]:
    """azure-ai-ml sends the names in lower case, however the deployments are spelled."""
    spelled: dict[str, int] = {}
    for name, weight in wanted.items():
        own = known.get(name.lower())
        if own is None and weight:
            has = f"It has {', '.join(known.values())}." if known else "It has none yet."
            raise _refusal(
                field,
                f"{field} names deployment {name[:60]!r}, which endpoint {endpoint!r} does not have. {has} "
                "Create the deployment first, then set this.",
            )
        if own in spelled:
            raise _refusal(field, f"{field} names deployment {own!r} twice.")
        if own is not None:
            spelled[own] = weight
    return spelled


def _refusal(field: str, message: str) -> AzureError:
    return bad_request(
        "InvalidTraffic" if field == "traffic" else "InvalidMirrorTraffic", message, target=field
    )
