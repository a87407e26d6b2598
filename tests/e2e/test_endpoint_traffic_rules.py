"""Which traffic and mirror traffic an endpoint takes, and what it says to what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from endpoint_desk import deployment, endpoint, route, scripted

NAME = "ruled"
PATH = f"onlineEndpoints/{NAME}?api-version=2024-10-01"


@pytest.fixture(scope="module")
def ruled(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An endpoint with deployments blue and green, not awaited: rules look at what was submitted."""
    script = scripted(tmp_path_factory.mktemp("ruled"), "x")
    endpoint(ml_client, NAME)
    for name in ("blue", "green"):
        ml_client.online_deployments.begin_create_or_update(deployment(NAME, name, **script))
    return NAME


def shown(server: Any) -> tuple[Any, Any]:
    properties = server.call("GET", f"{server.workspace_path}/{PATH}")[1]["properties"]
    return properties["traffic"], properties["mirrorTraffic"]


@pytest.mark.parametrize(
    ("traffic", "mirror", "code", "words"),
    [
        ({"blue": 50}, {}, "InvalidTraffic", ["50", "sum up to 100"]),
        ({"blue": 90, "green": 20}, {}, "InvalidTraffic", ["110", "sum up to 100"]),
        ({"red": 100}, {}, "InvalidTraffic", ["red", "blue, green", "Create the deployment first"]),
        ({"blue": 99.5, "green": 0.5}, {}, "InvalidTraffic", ["99.5", "whole number"]),
        ({"blue": "100"}, {}, "InvalidTraffic", ["whole number"]),
        ({"blue": True}, {}, "InvalidTraffic", ["whole number"]),
        ({"blue": 101, "green": -1}, {}, "InvalidTraffic", ["0 to 100"]),
        ({"blue": 50, "BLUE": 50}, {}, "InvalidTraffic", ["twice"]),
        ([], {}, "InvalidTraffic", ["must map"]),
        ({"blue": 100}, {"green": 51}, "InvalidMirrorTraffic", ["51", "at most 50 %"]),
        ({}, {"blue": 10, "green": 10}, "InvalidMirrorTraffic", ["one deployment only"]),
        ({"blue": 90, "green": 10}, {"green": 10}, "InvalidMirrorTraffic", ["green", "only one of them"]),
        ({"blue": 100}, {"red": 10}, "InvalidMirrorTraffic", ["red", "blue, green"]),
        ({"blue": 100}, {"green": 1.5}, "InvalidMirrorTraffic", ["1.5", "whole number"]),
    ],
)
def test_rules_that_are_refused(
    server: Any, ruled: str, traffic: Any, mirror: Any, code: str, words: list[str]
) -> None:
    before = shown(server)
    body = {"properties": {"authMode": "Key", "traffic": traffic, "mirrorTraffic": mirror}}
    status, answer = server.call("PUT", f"{server.workspace_path}/{PATH}", body)
    assert (status, answer["error"]["code"]) == (400, code), answer
    assert [word for word in words if word not in answer["error"]["message"]] == []
    assert shown(server) == before


def test_traffic_by_the_sdk(server: Any, ml_client: Any, ruled: str) -> None:
    from azure.core.exceptions import HttpResponseError

    made = route(ml_client, NAME, {"blue": 90, "green": 10})
    assert made.traffic == {"blue": 90, "green": 10}
    # Names have no case; they come back as the deployments are spelled.
    body = {"properties": {"authMode": "Key", "traffic": {"Blue": 100}, "mirrorTraffic": {"GREEN": 5}}}
    assert server.call("PUT", f"{server.workspace_path}/{PATH}", body)[0] == 200
    assert shown(server) == ({"blue": 100}, {"green": 5})
    made = route(ml_client, NAME, {"blue": 100, "green": 0}, {"green": 10})
    assert (made.traffic, made.mirror_traffic) == ({"blue": 100}, {"green": 10})
    assert ml_client.online_endpoints.get(NAME).mirror_traffic == {"green": 10}
    with pytest.raises(HttpResponseError, match="only one of them"):
        route(ml_client, NAME, {"blue": 90, "green": 10})
    # As `--mirror-traffic "green=0"` of the CLI ends it.
    assert route(ml_client, NAME, {"blue": 100}, {"green": 0}).mirror_traffic == {}
    assert route(ml_client, NAME, {"blue": 0, "green": 0}).traffic == {}
    assert ml_client.online_endpoints.get(NAME).traffic == {"blue": 0, "green": 0}


def test_a_deployment_takes_its_mirror_traffic_with_it(
    server: Any, ml_client: Any, ruled: str, tmp_path: Path
) -> None:
    from azure.core.exceptions import HttpResponseError

    route(ml_client, NAME, {"blue": 100}, {"green": 20})
    with pytest.raises(HttpResponseError, match="100 % of the traffic") as caught:
        ml_client.online_deployments.begin_delete("blue", NAME).result()
    assert (caught.value.status_code, caught.value.error.code) == (409, "DeploymentHasTraffic")
    ml_client.online_deployments.begin_delete("green", NAME).result()
    assert shown(server) == ({"blue": 100}, {})
    with pytest.raises(HttpResponseError, match="does not have"):
        route(ml_client, NAME, {"blue": 0, "green": 100})
