"""The route table's text."""

from __future__ import annotations

import json

import pytest

from amlocal.emulator.endpoints.route_table import (
    DeploymentRoute,
    EndpointRoute,
    Instance,
    RouteTable,
    endpoint_key,
)


def test_a_table_is_read_as_it_was_written() -> None:
    route = EndpointRoute(
        created="2026-01-02",
        key_hashes=("ab",),
        traffic={"blue": 100},
        mirror={"green": 10},
        deployments={"blue": DeploymentRoute((Instance("/s"),), request_timeout_ms=7, max_concurrent=2)},
    )
    table = RouteTable(3, {endpoint_key("W", "Digits"): route})
    text = table.to_json()
    assert json.loads(text) == {
        "version": 3,
        "endpoints": {
            "w/digits": {
                "auth_mode": "Key",
                "created": "2026-01-02",
                "key_hashes": ["ab"],
                "traffic": {"blue": 100},
                "mirror": {"green": 10},
                "deployments": {
                    "blue": {
                        "instances": [{"socket": "/s"}],
                        "request_timeout_ms": 7,
                        "max_concurrent": 2,
                        "max_queue_wait_ms": 500,
                        "state": "Succeeded",
                    }
                },
            }
        },
    }
    assert RouteTable.parse(text) == table
    assert RouteTable.parse("{}") == RouteTable()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "must be an object"),
        ('{"endpoints": {"w/e": {"traffic": {"blue": "x"}}}}', "w/e: traffic: blue must be a whole number"),
        ('{"endpoints": {"w/e": {"mirror": [1]}}}', "w/e: mirror must be an object"),
        (
            '{"endpoints": {"w/e": {"deployments": {"b": {"instances": 3}}}}}',
            "w/e: b: instances must be a list",
        ),
    ],
)
def test_damaged_tables_name_the_field(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RouteTable.parse(text)
