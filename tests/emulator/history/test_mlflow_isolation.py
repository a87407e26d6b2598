"""A workspace neither sees nor changes what another one tracks in MLflow."""

from __future__ import annotations

import json

import pytest

from amlocal.emulator.history.mlflow_client import MlflowConflict, MlflowError

FOREIGN_READS = [
    ("GET", "api/2.0/mlflow/runs/get?run_id={run}", None),
    ("GET", "api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss", None),
    ("GET", "api/2.0/mlflow/artifacts/list?run_id={run}", None),
    ("GET", "get-artifact?run_id={run}&path=secret.txt", None),
    ("GET", "api/2.0/mlflow/experiments/get?experiment_id={experiment}", None),
    ("GET", "api/2.0/mlflow/experiments/get-by-name?experiment_name=isolated", None),
    ("GET", "api/2.0/mlflow/registered-models/get?name=isolated-model", None),
    ("GET", "api/2.0/mlflow/model-versions/get?name=isolated-model&version=1", None),
    ("GET", "model-versions/get-artifact?name=isolated-model&version=1&path=MLmodel", None),
    ("POST", "api/2.0/mlflow/runs/log-metric", {"run_id": "{run}", "key": "k", "value": 1, "timestamp": 1}),
    ("POST", "api/2.0/mlflow/runs/log-parameter", {"run_id": "{run}", "key": "k", "value": "v"}),
    ("POST", "api/2.0/mlflow/runs/log-batch", {"run_id": "{run}", "tags": [{"key": "k", "value": "v"}]}),
    ("POST", "api/2.0/mlflow/runs/set-tag", {"run_id": "{run}", "key": "k", "value": "v"}),
    ("POST", "api/2.0/mlflow/runs/delete-tag", {"run_id": "{run}", "key": "amlocal.kind"}),
    ("POST", "api/2.0/mlflow/runs/update", {"run_id": "{run}", "status": "KILLED"}),
    ("POST", "api/2.0/mlflow/runs/delete", {"run_id": "{run}"}),
    ("POST", "api/2.0/mlflow/runs/create", {"experiment_id": "{experiment}"}),
    ("POST", "api/2.0/mlflow/experiments/delete", {"experiment_id": "{experiment}"}),
    ("POST", "api/2.0/mlflow/experiments/update", {"experiment_id": "{experiment}", "new_name": "x"}),
    (
        "POST",
        "api/2.0/mlflow/experiments/set-experiment-tag",
        {"experiment_id": "{experiment}", "key": "k", "value": "v"},
    ),
    ("POST", "api/2.0/mlflow/logged-models", {"experiment_id": "{experiment}", "name": "x"}),
    ("DELETE", "api/2.0/mlflow/registered-models/delete", {"name": "isolated-model"}),
]


@pytest.fixture
def foreign(bench):
    """A run, an artifact and a model of the first workspace, which the second must not see."""
    experiment = bench.ensure(bench.one, "isolated_job", "isolated")
    own = bench.client(bench.one)
    if not own.search_registered_models("name='isolated-model'"):
        own.log_text("isolated_job", "private", "secret.txt")
        own.log_text("isolated_job", "flavors: {}", "model/MLmodel")
        own.create_registered_model("isolated-model")
        source = f"{bench.one.run_uri('isolated_job')}/model"
        own.create_model_version("isolated-model", source, "isolated_job")
    return {"run": "isolated_job", "experiment": experiment}


@pytest.mark.parametrize(("method", "route", "body"), FOREIGN_READS, ids=lambda value: str(value)[:60])
def test_another_workspace_sees_and_changes_nothing(bench, foreign, method, route, body):
    route = route.format(**foreign)
    body = body and json.loads(
        json.dumps(body).replace("{run}", foreign["run"]).replace("{experiment}", foreign["experiment"])
    )
    # The header of a client that names the other workspace itself must not help it.
    answer = bench.call(method, bench.two, route, json=body, headers={"X-MLFLOW-WORKSPACE": bench.one.id})
    assert 400 <= answer.status_code < 500, answer.text
    assert "private" not in answer.text
    run = bench.client(bench.one).get_run(foreign["run"])
    assert (run.info.status, run.info.lifecycle_stage) == ("RUNNING", "active")
    assert (run.data.metrics, run.data.params, run.data.tags["amlocal.kind"]) == ({}, {}, "trial")
    # The same read is fine for the owner, else the refusal above would prove nothing.
    if method == "GET" and "metrics" not in route:
        assert bench.call(method, bench.one, route).status_code == 200


def test_another_workspace_lists_and_takes_nothing(bench, foreign):
    stranger = bench.client(bench.two)
    assert [found.name for found in stranger.search_experiments()] == ["Default"]
    assert stranger.search_runs([foreign["experiment"]]) == []
    assert list(stranger.search_registered_models()) == []
    assert list(stranger.search_model_versions("run_id='isolated_job'")) == []
    query = f'query {{ mlflowGetRun(input: {{runId: "{foreign["run"]}"}}) {{ run {{ info {{ runId }} }} }} }}'
    asked = {"query": query}
    own, other = (bench.call("POST", place, "graphql", json=asked).json() for place in (bench.one, bench.two))
    assert own["data"]["mlflowGetRun"]["run"] == {"info": {"runId": foreign["run"]}}
    assert foreign["run"] not in json.dumps(other["data"])
    with pytest.raises(MlflowConflict):
        bench.ensure(bench.two, foreign["run"])
    with pytest.raises(MlflowError, match="has the account"):
        bench.ensure(bench.one, "other", artifact_uri=bench.two.run_uri("other"))


def test_spans_go_to_the_own_experiments_only(bench, foreign):
    span = {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "x"}
    span = {**span, "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661000000000"}
    body = {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [span]}]}]}
    headers = {"x-mlflow-experiment-id": foreign["experiment"]}
    assert 400 <= bench.call("POST", bench.two, "v1/traces", json=body, headers=headers).status_code < 500
    assert bench.call("POST", bench.one, "v1/traces", json=body, headers=headers).status_code == 200
