"""The data folder: where bytes live. Everything in it is the user's own and readable by nobody else."""

from __future__ import annotations

import os
from pathlib import Path

from amlocal.emulator import crash_points

ARTIFACT_CONTAINER = "azureml"


class DataFolder:
    """Paths below one data folder; makes them (mode 0700) on `create`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.secrets = root / "secrets"
        self.tls = root / "tls"
        self.tmp = root / "tmp"
        self.logs = root / "logs"
        self.cache = root / "cache"
        self.mlflow = root / "mlflow"
        self.blobs = root / "blobs"
        self.blob_meta = root / "blob-meta"
        self.jobs = root / "jobs"
        self.deployments = root / "deployments"
        self.database = root / "amlocal.db"
        self.server_file = root / "server.json"

    def create(self) -> None:
        """Make the folders. Raises OSError (for example on a read-only disk)."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)
        for path in (
            self.secrets, self.tls, self.tmp, self.logs, self.cache, self.mlflow,
            self.blobs, self.blob_meta, self.jobs, self.deployments,
        ):  # fmt: skip
            path.mkdir(exist_ok=True, mode=0o700)

    def container(self, account: str, container: str) -> Path:
        """The folder of one blob container."""
        return self.blobs / account / container

    def artifacts(self, account: str, run_id: str) -> Path:
        """The folder of one run's artifacts: a prefix in the container of workspaceartifactstore."""
        return self.container(account, ARTIFACT_CONTAINER) / "ExperimentRun" / f"dcid.{run_id}"

    def job(self, workspace_id: str, job_name: str) -> Path:
        """The folder of one job: shim files, spec, metrics, checkpoints."""
        return self.jobs / workspace_id / job_name


def fsync_folder(path: Path) -> None:
    """Make a rename or a new entry in `path` survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, staging: Path | None = None) -> None:
    """Replace `path` with `data`, whole or not at all, and durable when this returns.

    `staging`: a folder of the same file system for the unfinished file, which a killed process leaves behind;
    for files in folders whose content clients are shown. Without it that is the folder of `path`.
    """
    temporary = (staging or path.parent) / f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        crash_points.reach("file.staged")
        temporary.replace(path)
        crash_points.reach("file.renamed")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
