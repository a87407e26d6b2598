"""Lists of jobs by type, tags, properties and page; tags that come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

VERSION = "api-version=2024-01-01-preview"


@pytest.fixture
def place(server: Any, other_client: Callable[[str, str, str], Any]) -> str:
    """A workspace of its own, so that the lists hold what the test put there."""
    client = other_client("11111111-0000-0000-0000-000000000000", "lists", "lists")
    scope = f"/subscriptions/{client.subscription_id}/resourceGroups/lists/providers"
    return f"{scope}/Microsoft.MachineLearningServices/workspaces/lists"


def submit(server: Any, place: str, name: str, **properties: Any) -> None:
    body = {
        "jobType": "Command",
        "command": "true",
        "environmentId": "azureml:host:1",
        "experimentName": "lists",
        **properties,
    }
    code, answer = server.call("PUT", f"{place}/jobs/{name}?{VERSION}", {"properties": body})
    assert code == 201, answer


def listed(server: Any, place: str, query: str) -> list[str]:
    """The names on all pages."""
    names: list[str] = []
    path = f"{place}/jobs?{VERSION}&{query}"
    while path:
        code, body = server.call("GET", path)
        assert code == 200, body
        names += [item["name"] for item in body["value"]]
        path = body.get("nextLink", "").removeprefix(server.base_url)
    return names


def test_filters_and_pages(server: Any, place: str) -> None:
    for number in range(5):
        tags = {"team": "red" if number % 2 else "blue", "number": str(number)}
        submit(server, place, f"listed-{number}", tags=tags, properties={"origin": "test"} if number else {})
    assert listed(server, place, "") == [f"listed-{n}" for n in (4, 3, 2, 1, 0)]
    assert listed(server, place, "$top=2") == [f"listed-{n}" for n in (4, 3, 2, 1, 0)]
    assert listed(server, place, "tag=team=red&$top=1") == ["listed-3", "listed-1"]
    assert listed(server, place, "tag=team=blue,number=2") == ["listed-2"]
    assert listed(server, place, "tag=number") == [f"listed-{n}" for n in (4, 3, 2, 1, 0)]
    assert listed(server, place, "properties=origin=test&tag=team=blue") == ["listed-4", "listed-2"]
    assert listed(server, place, "jobType=command&$top=3") == [f"listed-{n}" for n in (4, 3, 2, 1, 0)]
    assert listed(server, place, "jobType=Sweep") == []
    for query in ("scheduled=true", "scheduleId=x", "assetName=x"):
        code, body = server.call("GET", f"{place}/jobs?{VERSION}&{query}")
        assert code == 501 and body["error"]["code"] == "NotImplemented", body
    code, body = server.call("GET", f"{place}/jobs?{VERSION}&tag=,")
    assert code == 400 and body["error"]["code"] == "InvalidQueryParameter"


def test_null_takes_a_tag_away(server: Any, place: str) -> None:
    submit(server, place, "tagged", tags={"keep": "1", "drop": "2"}, properties={"mine": "x"})
    change = {"properties": {"tags": {"drop": None, "new": "3"}, "properties": {"mine": None}}}
    code, body = server.call("PATCH", f"{place}/jobs/tagged?{VERSION}", change)
    assert code == 200
    code, body = server.call("GET", f"{place}/jobs/tagged?{VERSION}")
    assert body["properties"]["tags"] == {"keep": "1", "new": "3"}
    assert "mine" not in body["properties"]["properties"]
    code, body = server.call("PATCH", f"{place}/jobs/tagged?{VERSION}", {"properties": {"tags": {"a": 1}}})
    assert code == 400 and body["error"]["target"] == "tags"
