"""The rules for artifact paths and routes, and the proxy in front of something that is not MLflow."""

from __future__ import annotations

import io
import json
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import pytest
from flask import Flask, jsonify

from amlocal.emulator.history import mlflow_paths, mlflow_routes
from amlocal.emulator.history.mlflow_client import MlflowClient, MlflowUnavailable
from amlocal.emulator.history.mlflow_proxy import create_blueprint
from amlocal.emulator.http.errors import AzureError

OWN = "aml0123456789ab"
PREFIX = (
    "/mlflow/v1.0/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
)
UPLOAD = f"{PREFIX}/api/2.0/mlflow-artifacts/artifacts/{OWN}/azureml/ExperimentRun/dcid.r/file.bin"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{OWN}/azureml/ExperimentRun/dcid.r/a b.txt", f"{OWN}/azureml/ExperimentRun/dcid.r/a b.txt"),
        (f"{OWN}/azureml/ExperimentRun/dcid.r/", f"{OWN}/azureml/ExperimentRun/dcid.r"),
        (f"{OWN}/azureml/x/a%2520b", f"{OWN}/azureml/x/a b"),
        (f"{OWN}/azureml/x/..hidden", f"{OWN}/azureml/x/..hidden"),
    ],
)
def test_own_paths_pass(path, expected):
    assert mlflow_paths.check_path(OWN, path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        OWN,
        f"{OWN}/other/x",
        f"/{OWN}/azureml/x",
        f"{OWN}x/azureml/x",
        f"other/azureml/{OWN}/azureml/x",
        f"{OWN}/azureml/./x",
        f"{OWN}/azureml//x",
        f"{OWN}/azureml/../azureml/x",
        f"{OWN}/azureml/%252e%252e/x",
        f"{OWN}/azureml/a\\b",
        f"{OWN}/azureml/a\nb",
        f"{OWN}/azureml/a\ufffdb",
        f"{OWN}/azureml/{'ü' * 128}",
        f"{OWN}/azureml/{'a/' * 1024}",
    ],
)
def test_other_paths_do_not(path):
    with pytest.raises(mlflow_paths.ArtifactPathError):
        mlflow_paths.check_path(OWN, path)


def test_a_link_may_stay_inside_and_not_lead_out(tmp_path):
    run = tmp_path / OWN / "azureml" / "ExperimentRun" / "dcid.r"
    run.mkdir(parents=True)
    (run / "inside").symlink_to(run)
    (run / "outside").symlink_to(tmp_path)
    base = f"{OWN}/azureml/ExperimentRun/dcid.r"
    assert mlflow_paths.resolve(tmp_path, OWN, f"{base}/inside/new.txt") == run / "inside" / "new.txt"
    with pytest.raises(mlflow_paths.ArtifactPathError, match="link"):
        mlflow_paths.resolve(tmp_path, OWN, f"{base}/outside/new.txt")


def test_the_account_of_an_address():
    assert mlflow_paths.account_of(f"mlflow-artifacts:/{OWN}/azureml/ExperimentRun/dcid.r") == OWN
    for address in ("file:/x/azureml/y", f"mlflow-artifacts:/{OWN}/other/y", f"mlflow-artifacts:{OWN}"):
        with pytest.raises(mlflow_paths.ArtifactPathError):
            mlflow_paths.account_of(address)


def test_bodies_that_name_no_address_pass():
    create = "api/2.0/mlflow/model-versions/create"
    for source in (
        f"mlflow-artifacts:/{OWN}/azureml/x/y",
        "runs:/job/model",
        "models:/m/1",
        "prompt-template",
    ):
        mlflow_routes.check_body(OWN, create, json.dumps({"name": "m", "source": source}).encode())
    tag = {"tags": [{"key": "mlflow.artifactLocation", "value": f"mlflow-artifacts:/{OWN}/azureml/x/y"}]}
    mlflow_routes.check_body(OWN, "api/2.0/mlflow/traces", json.dumps(tag).encode())
    mlflow_routes.check_body(OWN, "api/2.0/mlflow/runs/create", b'{"artifact_location": ""}')
    with pytest.raises(AzureError) as refused:
        nested = {"a": [{"b": {"artifactLocation": "/etc"}}]}
        mlflow_routes.check_body(OWN, "api/3.0/mlflow/traces", json.dumps(nested).encode())
    assert (refused.value.status, refused.value.target) == (400, "artifactLocation")


class Echo(BaseHTTPRequestHandler):
    """Answers with what arrived; `/cut` promises more bytes than it sends. A PUT waits for all its bytes."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))

    def address_string(self) -> str:
        return "socket"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        body = json.dumps({"path": self.path, "headers": self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (5 if "cut" in self.path else 0)))
        self.send_header("Connection", "close")
        self.send_header("Location", "http://localhost/elsewhere")
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def echo(tmp_path):
    path = tmp_path / "echo.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def web(path, blobs):
    app = Flask("proxy")
    place = SimpleNamespace(id="ABCDEF00-0000-0000-0000-000000000000", account=OWN)
    app.register_blueprint(create_blueprint(path, lambda *names: place, blobs))

    @app.errorhandler(AzureError)
    def render(error: AzureError):
        return jsonify(error.body()), error.status, error.headers

    return app.test_client()


def test_secrets_and_a_clients_own_workspace_stay_behind(echo, tmp_path):
    sent = {
        "Authorization": "Bearer x",
        "Cookie": "session=1",
        "X-MLFLOW-WORKSPACE": "theirs",
        "X-Amlocal-Account": "theirs",
        "X-Forwarded-Host": "evil",
        "Connection": "X-Kept",
        "X-Kept": "ü".encode().decode("latin-1"),
    }
    answer = web(echo, tmp_path).get(f"{PREFIX}/static-files/a%20b.js?q=%2F", headers=sent, buffered=True)
    assert answer.headers["Location"] == f"{PREFIX}/elsewhere"
    seen = json.loads(answer.text)
    assert seen["path"] == "/static-files/a%20b.js?q=%2F"
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert headers["x-mlflow-workspace"] == "abcdef00-0000-0000-0000-000000000000"
    assert headers["x-amlocal-account"] == OWN
    assert headers["host"] == "localhost"
    assert headers["x-kept"] == sent["X-Kept"]
    assert {"authorization", "cookie", "x-forwarded-host", "connection"}.isdisjoint(headers)
    assert len(headers) == len(seen["headers"])


def test_an_answer_cut_short_breaks_the_connection(echo, tmp_path):
    with pytest.raises(ConnectionError, match="5 bytes early"):
        web(echo, tmp_path).get(f"{PREFIX}/static-files/cut.js", buffered=True)


def test_an_upload_cut_short_is_refused(echo, tmp_path):
    announced = {"CONTENT_LENGTH": "10"}
    answer = web(echo, tmp_path).put(UPLOAD, input_stream=io.BytesIO(b"abc"), environ_overrides=announced)
    assert answer.status_code == 400
    endless = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": False}
    answer = web(echo, tmp_path).put(UPLOAD, input_stream=io.BytesIO(b"abc"), environ_overrides=endless)
    assert answer.status_code == 411


def test_no_process_is_a_503_that_says_when_to_retry(tmp_path):
    answer = web(tmp_path / "nobody.sock", tmp_path).get(f"{PREFIX}/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert json.loads(answer.text)["error"]["code"] == "ServiceUnavailable"
    server = MlflowClient(tmp_path / "nobody.sock")
    with pytest.raises(MlflowUnavailable):
        server.metric_history("w", "r")
    with pytest.raises(MlflowUnavailable, match="not ready after"):
        server.wait_ready(0.01)
    with pytest.raises(MlflowUnavailable, match="ended while it started"):
        server.wait_ready(30, alive=lambda: False)


def test_the_proxy_and_the_client_do_not_import_mlflow():
    import subprocess

    code = (
        "import sys, amlocal.emulator.history.mlflow_proxy, amlocal.emulator.history.mlflow_client\n"
        "print('mlflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
