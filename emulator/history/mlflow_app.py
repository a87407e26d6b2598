"""The application of the MLflow process: MLflow's own, behind two things that MLflow lacks.

Every request must name its workspace (`X-MLFLOW-WORKSPACE`), so that none falls into MLflow's common one, and
`POST /amlocal/...` lets the server write runs directly. The socket is reachable by the server alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.server import handlers
from mlflow.server.fastapi_app import app as mlflow_app
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from amlocal.emulator.history import mlflow_paths, mlflow_store
from amlocal.emulator.history.mlflow_client import ACCOUNT_HEADER, WORKSPACE_HEADER

Body = dict[str, Any]


def _refusal(error: MlflowException) -> Response:
    body = {"error_code": error.error_code, "message": str(error.message)}
    return JSONResponse(body, status_code=error.get_http_status_code())


class WorkspaceGate:
    """Lets requests through that name a workspace, which is made known to MLflow first."""

    def __init__(self, app: ASGIApp, workspaces: mlflow_store.Workspaces) -> None:
        self.app = app
        self.workspaces = workspaces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        workspace, account = request.headers.get(WORKSPACE_HEADER), request.headers.get(ACCOUNT_HEADER)
        answer: ASGIApp = self.app
        if scope["path"] != "/health":
            if not workspace:
                answer = PlainTextResponse(f"{WORKSPACE_HEADER} is missing", status_code=400)
            elif account:
                try:
                    await run_in_threadpool(self.workspaces.ensure, workspace, account)
                except MlflowException as error:
                    answer = _refusal(error)
                except mlflow_paths.ArtifactPathError as error:
                    answer = PlainTextResponse(f"{ACCOUNT_HEADER}: {error}", status_code=400)
        await answer(scope, receive, send)


def _ensure_run(workspace: str, body: Body) -> Any:
    return mlflow_store.ensure_run(workspace, body)


def _log_metrics(workspace: str, body: Body) -> Any:
    return mlflow_store.log_metrics(workspace, body["run_id"], body["rows"])


def _set_tags(workspace: str, body: Body) -> Any:
    return mlflow_store.set_tags(workspace, body["run_id"], body["tags"])


def _finish_run(workspace: str, body: Body) -> Any:
    return mlflow_store.finish_run(workspace, body["run_id"], body["status"], body["end_ms"], body["tags"])


def _metric_history(workspace: str, body: Body) -> Any:
    return mlflow_store.metric_history(workspace, body["run_id"])


def _route(path: str, work: Callable[[str, Body], Any]) -> Route:
    async def endpoint(request: Request) -> Response:
        body = await request.json()
        try:
            result = await run_in_threadpool(work, request.headers[WORKSPACE_HEADER], body)
        except MlflowException as error:
            return _refusal(error)
        except (KeyError, TypeError, ValueError) as error:
            return JSONResponse({"error_code": "BAD_REQUEST", "message": repr(error)}, status_code=400)
        return JSONResponse({"result": result})

    return Route(f"/amlocal/{path}", endpoint, methods=["POST"], name=path)


async def _server_info(request: Request) -> Response:
    """MLflow's own answer, except that one URL is one workspace here: its UI must not offer to switch."""
    found = await run_in_threadpool(handlers.build_server_info_payload)
    features = {**found["features_enabled"], "gateway": False}
    return JSONResponse({**found, "workspaces_enabled": False, "features_enabled": features})


def create_app(workspaces: mlflow_store.Workspaces) -> ASGIApp:
    """Put the application together; MLflow's settings must be in the environment by now."""
    routes = [
        _route("runs", _ensure_run),
        _route("metrics", _log_metrics),
        _route("tags", _set_tags),
        _route("finish", _finish_run),
        _route("history", _metric_history),
        Route("/api/3.0/mlflow/server-info", _server_info),
        Route("/ajax-api/3.0/mlflow/server-info", _server_info),
        Mount("/", mlflow_app),
    ]
    return WorkspaceGate(Starlette(routes=routes), workspaces)
