"""The server's side of the MLflow process: HTTP over its unix socket, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from amlocal.emulator.history import mlflow_paths

WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"
ACCOUNT_HEADER = "X-AMLOCAL-ACCOUNT"
# sun_path has 108 bytes on Linux and 104 on macOS, the ending zero included.
MAX_SOCKET_PATH = 103
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 120.0
POLL_SECONDS = 0.05


class MlflowError(Exception):
    """The MLflow process refused a call; `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class MlflowUnavailable(MlflowError):
    """The MLflow process is not there (starting, restarting or dead); the call may be repeated."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message)


class MlflowConflict(MlflowError):
    """The run id is already a run of another workspace."""


class SocketConnection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self.path = path

    def connect(self) -> None:
        """Connect; raises OSError when nobody listens."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_SECONDS)
        self.sock.connect(str(self.path))
        self.sock.settimeout(self.timeout)


class MlflowClient:
    """Calls of the server worker. All are idempotent; all raise MlflowError or MlflowUnavailable."""

    def __init__(self, socket_path: Path) -> None:
        self.socket = socket_path

    def wait_ready(self, deadline: float, *, alive: Callable[[], bool] = lambda: True) -> None:
        """Wait up to `deadline` seconds for an answer; MlflowUnavailable if none comes, or if not `alive`."""
        end = time.monotonic() + deadline
        while True:
            try:
                status, _ = self._exchange("GET", "/health", {}, None)
            except MlflowUnavailable as error:
                if not alive():
                    raise MlflowUnavailable(
                        "the MLflow process ended while it started: see its log"
                    ) from error
                if time.monotonic() > end:
                    raise MlflowUnavailable(
                        f"the MLflow process is not ready after {deadline:g} s"
                    ) from error
                time.sleep(POLL_SECONDS)
            else:
                if status == 200:
                    return

    def ensure_run(
        self,
        workspace_id: str,
        experiment: str,
        run_id: str,
        *,
        run_name: str,
        parent: str | None,
        start_ms: int,
        tags: Mapping[str, str],
        artifact_uri: str,
        user: str = "local",
    ) -> str:
        """Make sure of the experiment and the run with exactly this id; returns the experiment's id.

        `artifact_uri` is `mlflow-artifacts:/<account>/azureml/...` and tells the workspace's account.
        Raises MlflowConflict if another workspace has a run of this id: MLflow's ids are unique per database.
        """
        body = {
            "experiment": experiment,
            "run_id": run_id,
            "run_name": run_name,
            "parent": parent,
            "user": user,
            "start_ms": start_ms,
            "tags": dict(tags),
            "artifact_uri": artifact_uri,
        }
        result = self._post("runs", workspace_id, body, account=mlflow_paths.account_of(artifact_uri))
        return str(result["experiment_id"])

    def log_metrics(self, workspace_id: str, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows `{key, value, step, timestamp (ms)}`; what is there already stays single."""
        self._post("metrics", workspace_id, {"run_id": run_id, "rows": [dict(row) for row in rows]})

    def set_tags(self, workspace_id: str, run_id: str, tags: Mapping[str, str]) -> None:
        """Merge tags into a run."""
        self._post("tags", workspace_id, {"run_id": run_id, "tags": dict(tags)})

    def finish_run(
        self, workspace_id: str, run_id: str, status: str, end_ms: int, tags: Mapping[str, str] | None = None
    ) -> None:
        """Set the terminal status (MLflow's FINISHED, FAILED or KILLED), the end and tags of a run."""
        body = {"run_id": run_id, "status": status, "end_ms": end_ms, "tags": dict(tags or {})}
        self._post("finish", workspace_id, body)

    def metric_history(self, workspace_id: str, run_id: str) -> list[dict[str, Any]]:
        """All rows `{key, value (None for NaN), step, timestamp}` by key, step and time."""
        result: list[dict[str, Any]] = self._post("history", workspace_id, {"run_id": run_id})
        return result

    def ask(self, workspace_id: str, account: str, call: str, query: Mapping[str, str]) -> dict[str, Any]:
        """What MLflow's own interface answers to a GET of `call`, for example `runs/get`.

        Raises MlflowError with MLflow's status (404 for what the workspace does not have), MlflowUnavailable.
        """
        headers = {WORKSPACE_HEADER: workspace_id, ACCOUNT_HEADER: account}
        target = f"/api/2.0/mlflow/{call}?{urlencode(query)}"
        status, answer = self._exchange("GET", target, headers, None)
        if status == 200:
            found: dict[str, Any] = json.loads(answer)
            return found
        message = f"MLflow refused '{call}' with {status}: {answer.decode(errors='replace')[:2000]}"
        raise MlflowError(status, message)

    def _post(
        self, path: str, workspace_id: str, body: Mapping[str, Any], *, account: str | None = None
    ) -> Any:
        headers = {WORKSPACE_HEADER: workspace_id, "Content-Type": "application/json"}
        if account is not None:
            headers[ACCOUNT_HEADER] = account
        status, answer = self._exchange("POST", f"/amlocal/{path}", headers, json.dumps(body).encode())
        if status == 200:
            return json.loads(answer)["result"]
        message = f"MLflow refused '{path}' with {status}: {answer.decode(errors='replace')[:2000]}"
        if status == 409:
            raise MlflowConflict(status, message)
        raise MlflowError(status, message)

    def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        connection = SocketConnection(self.socket)
        try:
            connection.request(method, path, body=body, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise MlflowUnavailable(
                f"no answer from the MLflow process at {self.socket}: {error!r}"
            ) from error
        finally:
            connection.close()
