"""The files of registered models for MLflow's clients: `mlflow-artifacts:/models/NAME/VERSION`, read only.

A model need not lie among the artifacts of a run: what azure-ai-ml uploads lies in workspaceblobstore or in a
folder that the user mounted. A single file is shown as a folder that holds it. Links are neither listed nor
followed.
"""

from __future__ import annotations

import mimetypes
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from flask import Response, jsonify

from amlocal.compat.azureml_uri import UriError, clean_path
from amlocal.emulator.arm import documents
from amlocal.emulator.history import mlflow_paths
from amlocal.emulator.history.mlflow_views import FILES
from amlocal.emulator.http.errors import bad_request, not_found
from amlocal.emulator.storage import files
from amlocal.emulator.store.workspace import Workspace

if TYPE_CHECKING:
    from amlocal.emulator.services import Services


def is_ours(path: str) -> bool:
    """Whether an artifact path is below a registered model."""
    return mlflow_paths.decode(path).split("/")[0] == FILES


def listed(services: Services, workspace: Workspace, path: str) -> Response:
    """The files and folders directly in a folder of a model. Raises AzureError 400, 404."""
    root, parts = _place(services, workspace, path)
    if root.is_file():
        entries = [] if parts else [{"path": root.name, "is_dir": False, "file_size": root.stat().st_size}]
        return jsonify({"files": entries})
    found = []
    try:
        with files.folder(root, parts) as here:
            for name in sorted(entry.name for entry in os.scandir(here)):
                status = files.status_of(name, here)
                if status is not None and stat.S_ISDIR(status.st_mode):
                    found.append({"path": name, "is_dir": True})
                elif status is not None and stat.S_ISREG(status.st_mode):
                    found.append({"path": name, "is_dir": False, "file_size": status.st_size})
    except (FileNotFoundError, NotADirectoryError):
        found = []  # as MLflow answers for what is no folder
    return jsonify({"files": found})


def sent(services: Services, workspace: Workspace, path: str) -> Response:
    """One file of a model. Raises AzureError 400, 404."""
    root, parts = _place(services, workspace, path)
    return _sent(root, parts, path)


def sent_of_version(services: Services, workspace: Workspace, name: str, version: str, path: str) -> Response:
    """As `sent`, for the page of a version: `path` below the model. Raises AzureError 400, 404."""
    return sent(services, workspace, f"{FILES}/{name}/{version}/{path}")


def _place(services: Services, workspace: Workspace, path: str) -> tuple[Path, list[str]]:
    """The root of the model's files and the clean parts below it."""
    try:
        parts = clean_path(mlflow_paths.decode(path).rstrip("/")).split("/")
    except UriError as error:
        raise bad_request("InvalidPath", f"{error}", target="path") from error
    if len(parts) < 3 or parts[0] != FILES:
        raise bad_request(
            "InvalidPath", f"The files of a model are below {FILES}/NAME/VERSION/.", target="path"
        )
    document = services.store.read(lambda c: documents.get(c, workspace.id, "models", parts[1], parts[2]))
    if document is None:
        raise not_found(
            f"Model {parts[1][:200]}:{parts[2][:100]} does not exist in this workspace.", target="path"
        )
    return services.resolver.resolve(workspace, str(document.properties["modelUri"])), parts[3:]


def _sent(root: Path, parts: list[str], path: str) -> Response:
    if root.is_file():
        root, parts = (root.parent, parts) if parts == [root.name] else (root, [])
    try:
        if not parts:
            raise IsADirectoryError
        with files.folder(root, parts[:-1]) as here:
            stream = files.open_regular(parts[-1], here)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise not_found(f"The model has no file at {path[:300]!r}.", target="path") from error
    response = Response(
        _chunks(stream), mimetype=mimetypes.guess_type(parts[-1])[0] or "application/octet-stream"
    )
    response.content_length = os.fstat(stream.fileno()).st_size
    # A page of the user's own files must not run in the name of this server.
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Disposition"] = "attachment"
    response.call_on_close(stream.close)
    return response


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(files.CHUNK):
        yield chunk
