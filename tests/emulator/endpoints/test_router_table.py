"""The route table's file."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from amlocal.emulator.endpoints.route_table import (
    DeploymentRoute,
    EndpointRoute,
    Instance,
    RouteTable,
    RouteTableFile,
)


def test_route_table_round_trip(tmp_path: Path) -> None:
    file = RouteTableFile(tmp_path / "routes.json")
    assert file.read() == RouteTable()
    route = EndpointRoute(
        created="2026-01-02",
        key_hashes=("ab",),
        traffic={"blue": 100},
        mirror={"green": 10},
        deployments={"blue": DeploymentRoute((Instance("/s"),), request_timeout_ms=7, max_concurrent=2)},
    )
    file.put("W", "Digits", route)
    assert json.loads(file.path.read_text()) == {
        "version": 1,
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
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.read().endpoints["w/digits"] == route
    assert file.remove("w", "digits") == RouteTable(version=2)


def test_concurrent_updates_lose_nothing(tmp_path: Path) -> None:
    file = RouteTableFile(tmp_path / "routes.json")
    threads = [
        threading.Thread(target=file.put, args=("w", f"endpoint-{number}", EndpointRoute()))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read().version == 20 and len(file.read().endpoints) == 20


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
