"""The studio: plain pages, rendered here, with nothing from another host."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from urllib.parse import urlencode

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from sqlalchemy import Connection
from werkzeug.wrappers import Response as BaseResponse

from amlocal.emulator.history import logs
from amlocal.emulator.http.auth import SESSION_COOKIE, SESSION_LIFETIME
from amlocal.emulator.http.errors import bad_request, not_found
from amlocal.emulator.jobs import records
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.services import Services
from amlocal.emulator.store.workspace import Workspace
from amlocal.emulator.studio import board, metrics

_LOG_TAIL = 64 * 1024
_CSP = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'none'; frame-ancestors 'none'"
_CHOSEN = ("log_loss_train", "log_loss", "accuracy")


def create_blueprint(services: Services) -> Blueprint:
    """Routes under /studio."""
    blueprint = Blueprint(
        "studio", __name__, url_prefix="/studio", template_folder="templates", static_folder="static"
    )

    def workspace_in_query() -> Workspace:
        parts = request.args.get("wsid", "").strip("/").split("/")
        if len(parts) != 8:
            raise bad_request("InvalidWorkspace", "`wsid` must be the ARM id of a workspace.", target="wsid")
        return services.workspaces.get(parts[1], parts[3], parts[7])

    @blueprint.get("/runs/<run>")
    def page(run: str) -> BaseResponse:
        workspace = workspace_in_query()
        token = request.args.get("t")
        if token:
            services.auth.require_view(workspace, token)
            # Out of the address bar and the history, into a cookie that scripts cannot read.
            clean = f"{url_for('studio.page', run=run)}?{urlencode({'wsid': workspace.arm_id}, safe='/')}"
            answer = redirect(clean)
            answer.set_cookie(
                SESSION_COOKIE, token, max_age=SESSION_LIFETIME, secure=True, httponly=True, samesite="Lax"
            )
            return answer
        services.auth.require_view(workspace, request.cookies.get(SESSION_COOKIE, ""))
        answer = make_response(render_run(services, workspace, services.jobs.get(workspace, run)))
        answer.headers["Content-Security-Policy"] = _CSP
        answer.headers["Referrer-Policy"] = "no-referrer"
        return answer

    @blueprint.get("/")
    def index() -> Response:
        raise not_found(
            "Open a run's page by the link that jobs.stream prints or services.Studio.endpoint holds."
        )

    return blueprint


def render_run(services: Services, workspace: Workspace, record: JobRecord) -> str:
    """The page of a run: state, metrics, log, links."""

    def family(c: Connection) -> tuple[list[JobRecord], list[records.Transition]]:
        root = records.root_of(c, record)
        return (
            records.tree(c, workspace.id, root.name),
            records.history(c, workspace.id, record.name),
        )

    tree, history = services.store.read(family)
    teller, log_name = logs.teller(services, record)
    table = metrics.read(services.folder.job(workspace.id, teller.name))
    columns = [name for name in _CHOSEN if name in table.names] or table.names[:4]
    last = table.rows[max(table.rows)] if table.rows else {}
    log_file = services.folder.artifacts(workspace.account, teller.name) / log_name
    # MLflow's UI finds the experiment of a run by itself.
    mlflow = f"/mlflow/v1.0{workspace.arm_id}/#/runs/{teller.name}"
    return render_template(
        "run.html",
        workspace=workspace,
        record=record,
        tree=tree,
        sweep=board.read(services, workspace, tree, record),
        history=history,
        teller=teller,
        columns=columns,
        rows=sorted(table.rows.items()),
        last=sorted(last.items()),
        log=tail(log_file),
        mlflow=mlflow,
        wsid=workspace.arm_id,
        cell=board.cell,
        duration=duration(record),
        refresh=not record.state.terminal,
    )


def tail(file: Path) -> str:
    """The end of a log, from a whole line on."""
    if not file.is_file():
        return ""
    with file.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(0, size - _LOG_TAIL))
        text = log.read(_LOG_TAIL).decode("utf-8", "replace")
    return text if size <= _LOG_TAIL else text.partition("\n")[2]


def duration(record: JobRecord) -> str:
    """`1 min 05 s` from the start to the end, or to the last transition's clock while it runs."""
    if record.started_at is None:
        return ""
    end = datetime.fromisoformat(record.ended_at) if record.ended_at else datetime.now().astimezone()
    seconds = max(0, int((end - datetime.fromisoformat(record.started_at)).total_seconds()))
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
