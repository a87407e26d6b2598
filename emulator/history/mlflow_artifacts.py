"""MLflow's artifact repository over the blob folder, each workspace confined to its own account.

Runs inside the MLflow process. Every handler of MLflow reaches files through this class: it is the only
repository that is registered there, so that a `file:`, `s3:` or `http:` address that some client stored can
never make the server open it.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.workspace_context import get_request_workspace

from amlocal.emulator.history import mlflow_paths

# A whole container or area of it must not vanish by one call: account/azureml/<area>/<run>.
DELETE_DEPTH = 4
FILE_DEPTH = 3


class BlobArtifactRepository(LocalArtifactRepository):  # type: ignore[misc]
    """Artifacts as plain files below `<blobs>/<account>/azureml`; uploads are staged, synced and renamed."""

    blobs: Path
    staging: Path | None
    account_of: Callable[[str], str]

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        below = artifact_uri.removeprefix(f"{mlflow_paths.BLOB_SCHEME}:").strip("/")
        self._below = below
        super().__init__(str(self.blobs / below), tracking_uri, registry_uri)
        # The parent class percent-decodes what it takes for a URI; a data folder may have a '%' in its name.
        self._artifact_dir = str(self.blobs / below)

    def _own(self, path: str | None, depth: int) -> str:
        """Check `path` for the workspace of the request; return it relative to this repository's folder."""
        workspace = get_request_workspace()
        if not workspace:
            raise MlflowException("the request names no workspace", PERMISSION_DENIED)
        # MLflow puts its own folder per workspace in front; here the account in the path does that work.
        below = (path or "").removeprefix(f"workspaces/{workspace}").strip("/")
        full = f"{self._below}/{below}".strip("/")
        try:
            found = mlflow_paths.resolve(self.blobs, self.account_of(workspace), full, depth=depth)
        except mlflow_paths.ArtifactPathError as error:
            raise MlflowException(f"Invalid artifact path: {error}", PERMISSION_DENIED) from error
        return os.path.relpath(found, self.artifact_dir)

    def get_local_path(self, artifact_path: str) -> str:
        own = self._own(artifact_path, FILE_DEPTH)
        self._check_ordinary(own)
        return str(super().get_local_path(own))

    def _check_ordinary(self, own: str) -> None:
        """A pipe or device that a job left would be opened and waited for."""
        target = Path(self.artifact_dir, own)
        if target.exists() and not (target.is_file() or target.is_dir()):
            raise MlflowException(f"'{own}' is neither a file nor a folder", RESOURCE_DOES_NOT_EXIST)

    def _get_or_create_artifact_dir(self, artifact_path: str | None = None) -> str:
        own = self._own(artifact_path, FILE_DEPTH)
        target = Path(self.artifact_dir, own)
        try:
            target.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise MlflowException.invalid_parameter_value(
                f"a part of '{own}' is a file, not a folder"
            ) from error
        return str(target)

    def _is_directory(self, artifact_path: str | None) -> bool:
        return bool(super()._is_directory(self._own(artifact_path, 2)))

    def list_artifacts(self, path: str | None = None) -> list[Any]:
        folder = Path(self.artifact_dir, self._own(path, 2))
        if not folder.is_dir():
            return []
        found = []
        for entry in sorted(folder.iterdir()):
            try:
                status = entry.lstat()
            except FileNotFoundError:  # gone meanwhile
                continue
            # Links are left out: one to a folder above would never come to an end for whoever follows lists.
            relative = entry.relative_to(self.artifact_dir).as_posix()
            if stat.S_ISDIR(status.st_mode):
                found.append(FileInfo(relative, True, None))
            elif stat.S_ISREG(status.st_mode):
                found.append(FileInfo(relative, False, status.st_size))
        return found

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        own = self._own(remote_file_path, FILE_DEPTH)
        self._check_ordinary(own)
        super()._download_file(own, local_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        target = Path(self.artifact_dir, self._own(artifact_path, DELETE_DEPTH))
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def download_trace_data(self) -> dict[str, Any]:
        self._own(None, FILE_DEPTH)
        found: dict[str, Any] = super().download_trace_data()
        return found

    def _create_staging_artifact(
        self, artifact_file_name: str, artifact_path: str | None = None
    ) -> tuple[int, str, str]:
        folder, destination = self._get_destination_artifact_path(artifact_file_name, artifact_path)
        if Path(destination).is_dir():
            raise MlflowException.invalid_parameter_value(f"'{artifact_file_name}' is a folder of artifacts")
        descriptor, name = tempfile.mkstemp(dir=self.staging or folder, prefix=".artifact.uploading.")
        return descriptor, name, destination

    def _publish_staged_artifact(
        self,
        temp_file_path: str,
        destination_file_path: str,
        finalize_temp_path: Callable[[str], None] | None = None,
    ) -> None:
        # Files keep mkstemp's mode (the owner alone), hence no finalize_temp_path.
        sync(temp_file_path)
        Path(temp_file_path).replace(destination_file_path)
        sync(str(Path(destination_file_path).parent))


def sync(path: str) -> None:
    """Force a file's or folder's content onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def install(blobs: Path, staging: Path, account_of: Callable[[str], str]) -> None:
    """Make the blob folder the only place that this MLflow process reads and writes.

    `staging` takes unfinished uploads if a rename from there into `blobs` is possible (same device);
    else they are staged beside their target. `account_of` gives a workspace's account.
    """
    same_device = staging.stat().st_dev == blobs.stat().st_dev
    BlobArtifactRepository.blobs = blobs
    BlobArtifactRepository.staging = staging if same_device else None
    BlobArtifactRepository.account_of = staticmethod(account_of)
    schemes = artifact_repository_registry._artifact_repository_registry._registry
    schemes.clear()
    schemes[mlflow_paths.BLOB_SCHEME] = BlobArtifactRepository
