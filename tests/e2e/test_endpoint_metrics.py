"""Metrics of online endpoints over HTTPS, in Azure Monitor's shape, and the router's own for Prometheus."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from conftest import wait_for
from endpoint_desk import BODY, deployment, scripted
from endpoint_desk import endpoint as make_endpoint


@pytest.fixture(scope="module")
def endpoint(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An endpoint that has answered four requests: 200, 200, 401 and 404."""
    make_endpoint(ml_client, "metered")
    made = deployment("metered", "blue", **scripted(tmp_path_factory.mktemp("echo"), "x"))
    ml_client.online_deployments.begin_create_or_update(made).result()
    found = ml_client.online_endpoints.get("metered")
    key = ml_client.online_endpoints.get_keys("metered").primary_key
    for name, bearer, status in (
        ("blue", key, 200),
        ("blue", key, 200),
        ("blue", "wrong", 401),
        ("green", key, 404),
    ):
        headers = {"Authorization": f"Bearer {bearer}", "azureml-model-deployment": name}
        assert requests.post(found.scoring_uri, json=BODY, headers=headers, timeout=30).status_code == status
    return found


def bearer(server: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.user_token()}"}


def ask(server: Any, identifier: str, provider: str = "Microsoft.Insights", **query: str) -> Any:
    url = f"{server.base_url}{identifier}/providers/{provider}/metrics"
    return requests.get(
        url, params={"api-version": "2018-01-01", **query}, headers=bearer(server), timeout=30
    )


def total(metric: Any) -> dict[tuple[str, ...], float]:
    """By the values of the dimensions the sum over the hour."""
    return {
        tuple(item["value"] for item in series["metadatavalues"]): sum(
            point.get("total", 0) for point in series["data"]
        )
        for series in metric["timeseries"]
    }


def test_requests_and_latencies(server: Any, endpoint: Any) -> None:
    def counted() -> Any:
        answer = ask(server, endpoint.id, metricnames="RequestsPerMinute", aggregation="Total")
        assert answer.status_code == 200, answer.text
        return answer.json() if total(answer.json()["value"][0]) == {(): 4} else None

    found = wait_for(counted, 20, "the counters' file")
    (metric,) = found["value"]
    assert metric["id"].endswith(
        "/onlineEndpoints/metered/providers/Microsoft.Insights/metrics/RequestsPerMinute"
    )
    assert (metric["unit"], metric["name"]["value"]) == ("Count", "RequestsPerMinute")
    assert (found["interval"], len(metric["timeseries"][0]["data"])) == ("PT1M", 60)
    split = ask(
        server,
        endpoint.id,
        provider="microsoft.insights",
        metricnames="RequestsPerMinute",
        aggregation="total",
        interval="FULL",
        **{"$filter": "deployment eq '*' and statusCode eq '*'"},
    ).json()
    assert total(split["value"][0]) == {("blue", "200"): 2, ("None", "401"): 1, ("None", "404"): 1}
    latency = ask(
        server,
        endpoint.id,
        metricnames="RequestLatency,RequestLatency_P99",
        aggregation="Average,Count,Maximum",
        interval="FULL",
        **{"$filter": "deployment eq 'blue'"},
    ).json()
    mean, p99 = (metric["timeseries"][0]["data"][0] for metric in latency["value"])
    assert mean["count"] == 2 and 0 < mean["average"] <= mean["maximum"]
    assert 0 < p99["average"] <= mean["maximum"]
    assert "average" not in split["value"][0]["timeseries"][0]["data"][0]


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({"metricnames": "Nonsense"}, "RequestLatency_P95"),
        ({"aggregation": "Median"}, "average, count"),
        ({"interval": "PT2M"}, "PT1M, PT5M"),
        ({"timespan": "yesterday"}, "not of the form"),
        ({"timespan": "2026-01-02T00:00:00Z/2026-01-01T00:00:00Z"}, "must end"),
        ({"timespan": "2020-01-01T00:00:00Z/2026-01-01T00:00:00Z"}, "more than 1500 points"),
        ({"metricnames": "RequestsPerMinute", "$filter": "colour eq 'blue'"}, "statusCodeClass"),
        ({"metricnames": "RequestLatency", "$filter": "statusCode eq '200'"}, "it has: deployment"),
        ({"$filter": "deployment is blue"}, "dimension eq 'value'"),
        ({"metricnamespace": "Microsoft.Storage"}, "onlineEndpoints"),
        ({"resultType": "Metadata"}, "only Data"),
    ],
)
def test_queries_that_are_not_understood(
    server: Any, endpoint: Any, query: dict[str, str], word: str
) -> None:
    answer = ask(server, endpoint.id, **query)
    assert answer.status_code == 400, answer.text
    assert word in answer.json()["error"]["message"]


def test_who_may_ask(ml_client: Any, server: Any, endpoint: Any) -> None:
    assert ask(server, endpoint.id.replace("metered", "unmetered")).status_code == 404
    plane = endpoint.scoring_uri.rsplit("/", 3)[0]
    key = ml_client.online_endpoints.get_keys("metered").primary_key
    url = f"{server.base_url}{endpoint.id}/providers/Microsoft.Insights/metrics?api-version=2018-01-01"
    for headers in ({}, {"Authorization": f"Bearer {key}"}):
        assert requests.get(f"{plane}/metrics", headers=headers, timeout=30).status_code == 401
        assert requests.get(url, headers=headers, timeout=30).status_code == 401
    text = requests.get(f"{plane}/metrics", headers=bearer(server), timeout=30).text
    assert 'endpoint="metered",deployment="blue",status="200"} 2' in text
