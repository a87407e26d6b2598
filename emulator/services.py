"""The parts of a running server, put together once and handed to the rooms that need them."""

from __future__ import annotations

from dataclasses import dataclass

from amlocal.compat.certificates import Certificates
from amlocal.emulator.endpoints.deployments import Deployments
from amlocal.emulator.history.mlflow_client import MlflowClient
from amlocal.emulator.http.auth import Authenticator
from amlocal.emulator.http.operations import Operations
from amlocal.emulator.jobs.inputs import Resolver
from amlocal.emulator.jobs.service import JobService
from amlocal.emulator.settings import Settings
from amlocal.emulator.storage.blobs import BlobStore
from amlocal.emulator.storage.mounts import Mounts
from amlocal.emulator.storage.sas import SasKey
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspaces import Workspaces


@dataclass(frozen=True)
class Services:
    """Everything a request handler may need; made by the worker, by tests, and by nobody else."""

    settings: Settings
    folder: DataFolder
    store: Store
    workspaces: Workspaces
    auth: Authenticator
    operations: Operations
    sas: SasKey
    blobs: BlobStore
    mounts: Mounts
    resolver: Resolver
    jobs: JobService
    mlflow: MlflowClient
    deployments: Deployments
    certificates: Certificates
