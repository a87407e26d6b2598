"""Paths, addresses, routes and bodies that a client of MLflow has no business to send."""

from __future__ import annotations

import json
import time
import uuid

import pytest

ONE, TWO = "aml0123456789ab", "amlba9876543210"
ARTIFACTS = "mlflow-artifacts/artifacts"
HOSTILE = [
    f"{TWO}/azureml/ExperimentRun/dcid.theirs/secret.txt",
    f"{ONE}/azureml/../../{TWO}/azureml/ExperimentRun/dcid.theirs/secret.txt",
    f"{ONE}/azureml/%2e%2e/%2e%2e/{TWO}/azureml/ExperimentRun/dcid.theirs/secret.txt",
    f"{ONE}/azureml/%252e%252e/%252e%252e/{TWO}/azureml/ExperimentRun/dcid.theirs/secret.txt",
    f"{ONE}/azureml%2f..%2f..%2f{TWO}/azureml/ExperimentRun/dcid.theirs/secret.txt",
    f"{ONE}/azureml/..%5c..%5c{TWO}%5cazureml%5csecret.txt",
    f"{ONE}/azureml/ExperimentRun/dcid.mine/out/secret.txt",
    f"{ONE}/azureml/ExperimentRun/dcid.mine/x%00.txt",
    f"{ONE}/azureml-blobstore-0123/data.csv",
    f"workspaces/0123/{TWO}/azureml/ExperimentRun/dcid.theirs/secret.txt",
    "%2fetc/passwd",
    "file:///etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    f"{ONE}/azureml",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_artifact_paths_are_refused(bench, path):
    theirs = bench.blobs / bench.two.account / "azureml" / "ExperimentRun" / "dcid.theirs"
    theirs.mkdir(parents=True, exist_ok=True)
    (theirs / "secret.txt").write_text("private")
    mine = bench.blobs / bench.one.account / "azureml" / "ExperimentRun" / "dcid.mine"
    mine.mkdir(parents=True, exist_ok=True)
    if not (mine / "out").is_symlink():
        (mine / "out").symlink_to(theirs)
    prefix = bench.uri(bench.one).removeprefix(bench.base)
    for method in ("GET", "PUT", "DELETE"):
        for api in ("api/2.0", "ajax-api/2.0"):
            status = bench.raw(f"{method} {prefix}/{api}/{ARTIFACTS}/{path}")
            assert 400 <= status < 500, (method, status)
    status = bench.raw(f"GET {prefix}/api/2.0/{ARTIFACTS}?path={path}/..")
    assert 400 <= status < 500
    assert (theirs / "secret.txt").read_text() == "private"
    bench.ensure(bench.one, "mine")
    assert [item.path for item in bench.client(bench.one).list_artifacts("mine")] == []


LOCATIONS = [
    "file:///etc",
    "/etc",
    "../..",
    "http://169.254.169.254/latest",
    "s3://bucket/key",
    f"mlflow-artifacts:/{TWO}/azureml/x/y",
    f"mlflow-artifacts:/{ONE}/azureml/../../{TWO}/azureml/x",
    f"mlflow-artifacts:/{ONE}/azureml/%2e%2e/%2e%2e/{TWO}",
    f"mlflow-artifacts://other.host/{ONE}/azureml/x/y",
    "runs:/../../etc",
]


@pytest.mark.parametrize("location", LOCATIONS)
def test_foreign_addresses_are_not_stored(bench, location):
    bench.call("POST", bench.one, "api/2.0/mlflow/registered-models/create", json={"name": "guarded"})
    name = f"guarded-{uuid.uuid4().hex}"
    body = {"name": name, "artifact_location": location}
    camel = {"name": name, "artifactLocation": location}
    for sent in (body, camel, json.dumps(body)):
        answer = bench.call("POST", bench.one, "api/2.0/mlflow/experiments/create", json=sent)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "InvalidArtifactLocation"
    source = {"name": "guarded", "source": location}
    answer = bench.call("POST", bench.one, "api/2.0/mlflow/model-versions/create", json=source)
    assert answer.status_code == 400
    tag = {"tags": [{"key": "mlflow.artifactLocation", "value": location}]}
    answer = bench.call("POST", bench.one, "api/2.0/mlflow/traces", json=tag)
    assert answer.status_code == 400
    assert bench.client(bench.one).search_model_versions("name='guarded'") == []


@pytest.mark.parametrize(
    "route",
    [
        "amlocal/runs",
        "api/3.0/mlflow/workspaces",
        "ajax-api/2.0/mlflow/webhooks",
        "ajax-api/3.0/mlflow/assistant/status",
        "ajax-api/2.0/mlflow/gateway-proxy",
        "gateway/x/mlflow/invocations",
        "ajax-api/3.0/jobs/",
        "ajax-api/2.0/mlflow/upload-artifact?run_uuid=x&path=y",
        "api/2.0/mlflow-artifacts/mpu/create/x",
        "static-files/%2e%2e/handlers.py",
    ],
)
def test_routes_that_are_not_the_users_are_shut(bench, route):
    prefix = bench.uri(bench.one).removeprefix(bench.base)
    for method in ("GET", "POST"):
        assert bench.raw(f"{method} {prefix}/{route}") in (400, 404)


def test_a_call_too_long_or_not_json_is_refused(bench):
    long = bench.call("POST", bench.one, "api/2.0/mlflow/runs/log-batch", data=b"x" * (8 * 1024 * 1024 + 1))
    assert (long.status_code, long.json()["error"]["code"]) == (413, "RequestBodyTooLarge")
    bad = bench.call("POST", bench.one, "api/2.0/mlflow/runs/log-batch", data=b"[" * 100_000)
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "InvalidJson")


def test_an_upload_cut_off_leaves_nothing(bench):
    folder = f"{ONE}/azureml/ExperimentRun/dcid.cut"
    prefix = bench.uri(bench.one).removeprefix(bench.base)
    assert bench.raw(f"PUT {prefix}/api/2.0/{ARTIFACTS}/{folder}/half.bin", length=100_000) == 0
    staging, target = bench.blobs.parent / "tmp", bench.blobs / folder
    # The folder shows that the upload was under way; its staged bytes have to go.
    deadline = time.monotonic() + 20
    while not target.is_dir() or list(staging.iterdir()):
        assert time.monotonic() < deadline, list(staging.iterdir())
        time.sleep(0.02)
    assert list(target.iterdir()) == []
