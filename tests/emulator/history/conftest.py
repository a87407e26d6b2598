"""MLflow in its process behind the proxy, over TLS, with two workspaces; started once for all tests here."""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import requests
from flask import Flask, jsonify
from flask import request as flask_request
from werkzeug.serving import make_server

from amlocal.compat import certificates
from amlocal.emulator.history.mlflow_client import MlflowClient
from amlocal.emulator.history.mlflow_proxy import create_blueprint
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.processes import drop_leash, spawn_leashed

TOKEN = "throw-away-token"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
START_MS = 1_700_000_000_000


@dataclass(frozen=True)
class Place:
    """A workspace."""

    id: str
    account: str
    name: str

    def run_uri(self, run_id: str) -> str:
        return f"mlflow-artifacts:/{self.account}/azureml/ExperimentRun/dcid.{run_id}"


ONE = Place(str(uuid.uuid4()), "aml0123456789ab", "one")
TWO = Place(str(uuid.uuid4()), "amlba9876543210", "two")


@dataclass(frozen=True)
class Bench:
    base: str
    port: int
    socket: Path
    blobs: Path
    bundle: Path
    server: MlflowClient
    one: Place = ONE
    two: Place = TWO
    headers: ClassVar[dict[str, str]] = {"Authorization": f"Bearer {TOKEN}"}

    def ensure(self, place: Place, run_id: str, experiment: str = "digits", **changes) -> str:
        """The server's own call that makes a run; `changes` to its arguments."""
        values = {
            "run_name": "a trial",
            "parent": None,
            "start_ms": START_MS,
            "tags": {"amlocal.kind": "trial"},
        }
        values = {**values, "artifact_uri": place.run_uri(run_id), **changes}
        return self.server.ensure_run(place.id, experiment, run_id, **values)

    def client(self, place: Place):
        """The real mlflow client of a user of the workspace."""
        from mlflow import MlflowClient as UserClient

        return UserClient(tracking_uri=self.uri(place), registry_uri=self.uri(place))

    def uri(self, place: Place, version: str = "v1.0", groups: str = "resourceGroups") -> str:
        path = f"subscriptions/{SUBSCRIPTION}/{groups}/local/providers/Microsoft.MachineLearningServices"
        return f"{self.base}/mlflow/{version}/{path}/workspaces/{place.name}"

    def call(self, method: str, place: Place, route: str, **options) -> requests.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        url = f"{self.uri(place)}/{route}"
        return requests.request(
            method, url, headers=headers, verify=self.bundle, timeout=60, allow_redirects=False, **options
        )

    def raw(self, request_line: str, *, length: int = 1) -> int:
        """Send a request line as it is, which `requests` would tidy up; returns the status.

        With a `length` over 1 the connection is cut after the first byte of the body, and 0 is returned.
        """
        context = ssl.create_default_context(cafile=str(self.bundle))
        plain = socket.create_connection(("localhost", self.port), timeout=30)
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            head = f"{request_line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            connection.sendall(f"{head}Content-Length: {length}\r\nConnection: close\r\n\r\nx".encode())
            if length > 1:
                return 0
            answer = b""
            while b"\r\n" not in answer:
                answer += connection.recv(4096)
        return int(answer.split()[1])


def certificate(folder: Path) -> tuple[Path, Path]:
    """The server's own kind of certificate (its file holds the authority too) and its key."""
    files = certificates.ensure(folder)
    return files.certificate, files.key


def create_app(path: Path, blobs: Path) -> Flask:
    app = Flask("bench")

    def authorise(subscription: str, group: str, workspace: str) -> Place:
        if flask_request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise AzureError(401, "Unauthorized", "no token")
        found = {ONE.name: ONE, TWO.name: TWO}.get(workspace)
        if found is None or (subscription, group) != (SUBSCRIPTION, "local"):
            raise AzureError(404, "ResourceNotFound", "no such workspace")
        return found

    @app.errorhandler(AzureError)
    def render(error: AzureError):
        return jsonify(error.body()), error.status, error.headers

    app.register_blueprint(create_blueprint(path, authorise, blobs))
    return app


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory):
    data = tmp_path_factory.mktemp("mlf")
    blobs, path = data / "blobs", data / "run" / "mlflow.sock"
    module = "amlocal.emulator.history.mlflow_process"
    argv = [sys.executable, "-m", module, "--database", str(data / "mlflow" / "mlflow.db")]
    # What a user's shell may hold must not reach the process.
    ambient = {"MLFLOW_TRACKING_URI": "http://nowhere.invalid", "MLFLOW_WORKSPACE": "elsewhere"}
    child = spawn_leashed(
        [*argv, "--artifacts", str(blobs), "--socket", str(path)],
        env={**os.environ, **ambient},
        log=data / "mlflow.log",
    )
    server = MlflowClient(path)
    cert_file, key_file = certificate(data)
    web = make_server(
        "localhost", 0, create_app(path, blobs), threaded=True, ssl_context=(str(cert_file), str(key_file))
    )
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    try:
        server.wait_ready(90, alive=lambda: child.poll() is None)
        yield Bench(f"https://localhost:{web.port}", web.port, path, blobs, cert_file, server)
    finally:
        web.shutdown()
        thread.join()
        drop_leash(child)
        child.wait(timeout=20)


@pytest.fixture
def bench(mlflow_server, monkeypatch):
    """MLflow behind the proxy, and a user's environment for the mlflow client."""
    settings = {
        "MLFLOW_TRACKING_TOKEN": TOKEN,
        "REQUESTS_CA_BUNDLE": str(mlflow_server.bundle),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "NO_PROXY": "localhost",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return mlflow_server
