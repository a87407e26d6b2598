"""MLflow's own server in a process of its own, on a unix socket that only the server reaches.

    python -m amlocal.emulator.history.mlflow_process --database FILE --artifacts DIR --socket PATH

Apart from the server because importing MLflow costs seconds and hundreds of megabytes. Ready when
`GET /health` answers 200. Exit codes: 0 parent gone, 2 wrong arguments, 3 not the pinned MLflow version.
"""

from __future__ import annotations

import argparse
import os
import socket
import sqlite3
import sys
from importlib import metadata
from pathlib import Path

from amlocal.emulator.history.mlflow_client import MAX_SOCKET_PATH
from amlocal.emulator.history.mlflow_paths import BLOB_SCHEME
from amlocal.emulator.processes import watch_leash

# The process works on classes inside MLflow, so only this version will do; a contract test guards it.
MLFLOW_VERSION = "3.17.2"
WRONG_VERSION = 3
# MLflow's settings that an operator may hand down; every other MLflow variable of the environment is dropped.
KEPT = ("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "MLFLOW_LOGGING_LEVEL")


def wrong_version() -> str | None:
    """What is wrong with the installed MLflow; None if nothing is."""
    try:
        found = metadata.version("mlflow")
    except metadata.PackageNotFoundError:
        found = "none"
    if found == MLFLOW_VERSION:
        return None
    return (
        f"amlocal needs exactly mlflow {MLFLOW_VERSION} and found {found}. "
        f"Install it with: python -m pip install mlflow=={MLFLOW_VERSION}"
    )


def prepare_database(path: Path) -> str:
    """Create the SQLite file (owner only, write-ahead log) if absent; returns its SQLAlchemy address."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
    path.chmod(0o600)
    return f"sqlite:///{path.resolve()}"


def configure(database: str, destination: str) -> None:
    """Set MLflow's environment. Must come before the first import of `mlflow.server`, which reads it."""
    for name in list(os.environ):
        if name.lstrip("_").startswith("MLFLOW_") and name not in KEPT:
            del os.environ[name]
    os.environ.setdefault("MLFLOW_SERVER_ALLOWED_HOSTS", "localhost")
    os.environ.update(
        {
            "_MLFLOW_SERVER_FILE_STORE": database,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": destination,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "MLFLOW_ENABLE_WORKSPACES": "true",
            "MLFLOW_WORKSPACE_STORE_URI": database,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            # These open connections to the outside or run commands; the proxy blocks their routes as well.
            "MLFLOW_ENABLE_AI_GATEWAY": "false",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
        }
    )


def listen(path: Path) -> socket.socket:
    """A listening unix socket for the owner alone; a stale file of a process that died is replaced."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise SystemExit(
            f"{path}: a socket's path has at most {MAX_SOCKET_PATH} bytes; use a shorter data folder"
        )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(128)
    return listener


def serve(database: Path, artifacts: Path, temporary: Path, path: Path) -> None:
    """Serve until SIGTERM."""
    import uvicorn

    for folder in (artifacts, temporary):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    configure(prepare_database(database), f"{BLOB_SCHEME}:/")

    from amlocal.emulator.history import mlflow_app, mlflow_artifacts, mlflow_store

    workspaces = mlflow_store.Workspaces()
    mlflow_artifacts.install(artifacts.resolve(), temporary.resolve(), workspaces.account)
    mlflow_store.install()
    # Opened now: readiness means that the database is there in the schema of this version.
    mlflow_store.store()
    config = uvicorn.Config(
        mlflow_app.create_app(workspaces),
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )
    uvicorn.Server(config).run(sockets=[listen(path)])


def main() -> int:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="mlflow_process")
    parser.add_argument("--database", type=Path, required=True, help="SQLite file of MLflow")
    parser.add_argument("--artifacts", type=Path, required=True, help="folder of the blob trees")
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to listen on")
    parser.add_argument(
        "--temporary", type=Path, help="folder of unfinished uploads (default: ARTIFACTS/../tmp)"
    )
    options = parser.parse_args()
    watch_leash()
    os.umask(0o077)
    if (problem := wrong_version()) is not None:
        print(problem, file=sys.stderr)
        return WRONG_VERSION
    temporary = options.temporary or options.artifacts.parent / "tmp"
    serve(options.database, options.artifacts, temporary, options.socket)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
