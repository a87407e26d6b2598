"""What the router counts: percentiles, the file beside the route table, Prometheus' format."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amlocal.emulator.endpoints import counters, prometheus
from amlocal.emulator.endpoints.counters import BUCKETS_MS, Counters, Latency

if TYPE_CHECKING:
    from conftest import Stage


def test_percentiles_are_within_their_bucket() -> None:
    rng = random.Random(3)
    values = sorted(rng.lognormvariate(3, 1) for _ in range(2000))
    latency = Latency()
    for value in values:
        latency.add(value)
    assert (latency.min, latency.max, latency.count) == (values[0], values[-1], 2000)
    assert latency.sum == pytest.approx(sum(values))
    for share in (0.5, 0.9, 0.95, 0.99):
        exact = values[int(share * 2000) - 1]
        end = next(end for end in BUCKETS_MS if exact <= end)
        begin = max((b for b in BUCKETS_MS if b < exact), default=0)
        assert begin <= latency.percentile(share) <= end


def test_percentiles_of_few_and_none() -> None:
    latency = Latency()
    assert latency.percentile(0.5) == 0
    latency.add(7.0)
    assert latency.percentile(0.5) == latency.percentile(0.99) == 7.0
    latency.add(1_000_000.0)
    assert latency.percentile(0.99) <= 1_000_000.0 and latency.buckets[-1] == 1


def test_counting(tmp_path: Path) -> None:
    now = [6000.0]
    counted = Counters(lambda: now[0])
    counted.finished("w/e", "blue", 200, 3.0, 200)
    counted.finished("w/e", "blue", 424, 30.0, 500)
    counted.finished("w/e", "", 401, 0.5)
    counted.of("w/e", "blue").in_flight += 1
    path = counters.counters_file(tmp_path / "routes.json")
    assert path.name == "routes.json.counters.json"
    assert counters.read(path) == {"since": 0.0, "endpoints": {}}
    counted.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    read = counters.read(path)
    assert read["since"] == 6000.0
    blue = read["endpoints"]["w/e"]["blue"]
    assert blue["requests"] == {"200": 1, "424": 1} and blue["model_status"] == {"200": 1, "500": 1}
    assert (blue["errors"], blue["in_flight"], blue["mirrored"]) == (1, 1, 0)
    latency = blue["latency_ms"]
    assert (latency["count"], latency["sum"], latency["min"], latency["max"]) == (2, 33.0, 3.0, 30.0)
    assert blue["minutes"]["100"]["requests"] == {"200/200": 1, "424/500": 1}
    assert read["endpoints"]["w/e"][""]["requests"] == {"401": 1}
    path.unlink()
    counted.write(path)  # nothing has changed
    assert not path.exists()


def test_past_minutes_and_past_deployments_are_forgotten() -> None:
    now = [6000.0]
    counted = Counters(lambda: now[0])
    for minute in range(200):
        now[0] = minute * 60.0
        counted.finished("w/e", "blue", 200, 1.0)
    assert sorted(counted.of("w/e", "blue").minutes) == list(range(140, 200))
    counted.finished("w/e", "", 401, 1.0)
    counted.finished("w/gone", "", 401, 1.0)
    counted.finished("w/e", "gone", 200, 1.0)
    counted.keep_only([("w/e", "blue")])
    assert [(endpoint, name) for endpoint, name, _ in counted.all()] == [("w/e", ""), ("w/e", "blue")]


def test_prometheus_format() -> None:
    counted = Counters(lambda: 0.0)
    counted.finished('w/e"\n', "blue", 200, 3.0, 200)
    counted.finished('w/e"\n', "blue", 200, 900_000.0, 200)
    lines = prometheus.render(counted).splitlines()
    labels = r'workspace="w",endpoint="e\"\n",deployment="blue"'
    assert f'amlocal_requests_total{{{labels},status="200"}} 2' in lines
    assert f'amlocal_request_duration_seconds_bucket{{{labels},le="0.002"}} 0' in lines
    assert f'amlocal_request_duration_seconds_bucket{{{labels},le="0.005"}} 1' in lines
    assert f'amlocal_request_duration_seconds_bucket{{{labels},le="180"}} 1' in lines
    assert f'amlocal_request_duration_seconds_bucket{{{labels},le="+Inf"}} 2' in lines
    assert f"amlocal_request_duration_seconds_sum{{{labels}}} 900.003000" in lines
    assert f"amlocal_request_duration_seconds_count{{{labels}}} 2" in lines
    assert lines.count("# TYPE amlocal_requests_total counter") == 1


def test_a_router_counts_what_it_answers(stage: Stage) -> None:
    # Counters end with their deployment: the ones of this test begin at nothing.
    stage.put(deployments={})
    stage.until(lambda: "deployment=" not in "".join(stage.metrics()))
    stage.reset()
    for _ in range(3):
        stage.post()
    stage.behave("blue", lambda seen: stage.answer(418))
    stage.post()
    stage.post(Authorization="Bearer wrong")
    stage.post(azureml_model_deployment="unknown")
    path = counters.counters_file(stage.routes.path)

    def written() -> dict[str, dict[str, object]]:
        found = counters.read(path)["endpoints"].get(f"{stage.workspace}/digits", {})
        return found if "" in found and sum(found[""]["requests"].values()) == 2 else {}

    found = stage.until(written)
    assert found["blue"]["requests"] == {"200": 3, "424": 1}
    assert found["blue"]["model_status"] == {"200": 3, "418": 1}
    assert found["blue"]["errors"] == 1 and found["blue"]["in_flight"] == 0
    assert found["blue"]["latency_ms"]["count"] == 4
    assert 0 < found["blue"]["latency_ms"]["min"] <= found["blue"]["latency_ms"]["p50"]
    assert found[""]["requests"] == {"401": 1, "404": 1}
    # Names that do not exist are not counted, so nobody can fill the memory with them.
    stage.client.post(f"{stage.url}/{stage.workspace}/nobody/score")
    assert "nobody" not in "".join(stage.metrics())
