"""The server worker: the one process that writes the database, hosts the scheduler and answers requests.

    python -m amlocal.emulator.worker SETTINGS_JSON RUN_DIR

Started by `amlocal serve`; it ends when its parent does.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amlocal.compat import certificates, cloud
from amlocal.emulator import secrets
from amlocal.emulator import settings as settings_module
from amlocal.emulator.processes import FileLock, watch_leash
from amlocal.emulator.services import Services
from amlocal.emulator.settings import Settings
from amlocal.emulator.storage.blobs import BlobStore
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace

log = logging.getLogger("amlocal.worker")

# A client that stops in the middle of a body holds a thread until `http/stalled.py` ends that, so there are
# more than any number of such clients on one machine; idle threads end by themselves.
_THREADS = 512
_LOCK_PATIENCE = 15.0


def build_services(settings: Settings, run_dir: Path) -> Services:
    """Open the data folder and put the parts together; nothing runs yet but the database's writer."""
    from amlocal.emulator.endpoints.deployments import Deployments
    from amlocal.emulator.endpoints.scorers import ScorerSupervisor
    from amlocal.emulator.history.mlflow_client import MlflowClient
    from amlocal.emulator.http.auth import Authenticator
    from amlocal.emulator.http.operations import Operations
    from amlocal.emulator.jobs.engines.local import LocalEngine
    from amlocal.emulator.jobs.environments import JobEnvironments
    from amlocal.emulator.jobs.inputs import Resolver
    from amlocal.emulator.jobs.service import JobService
    from amlocal.emulator.jobs.warm import WarmParent
    from amlocal.emulator.storage.mounts import Mounts
    from amlocal.emulator.storage.sas import SasKey
    from amlocal.emulator.store import removal
    from amlocal.emulator.store.database import Store
    from amlocal.emulator.store.workspaces import Workspaces

    folder = DataFolder(settings.data_dir)
    folder.create()
    tls = certificates.ensure(folder.tls)
    store = Store(folder.database)
    workspaces = Workspaces(store)
    sas_secret = secrets.sas_secret(folder)
    auth = Authenticator(settings, secrets.token_issuer(folder), secrets.identity_header(folder), sas_secret)
    operations = Operations(store, settings.base_url)
    mounts = Mounts(store, settings.allow_paths, settings.data_dir)
    blobs = BlobStore(folder.blobs, folder.blob_meta, folder.tmp, mounts)
    blobs.clean()
    removal.sweep(folder, workspaces)
    workspaces.on_add(lambda workspace: create_containers(blobs, workspace))
    workspaces.add(cloud.SUBSCRIPTION_ID, cloud.RESOURCE_GROUP, cloud.WORKSPACE)
    for workspace in workspaces.all():  # those added while no server ran
        create_containers(blobs, workspace)
    resolver = Resolver(folder, store, mounts)
    mlflow = MlflowClient(run_dir / "mlflow.sock")
    jobs = JobService(
        store=store,
        folder=folder,
        settings=settings,
        engine=LocalEngine(),
        mlflow=mlflow,
        resolver=resolver,
        issue_job_token=auth.job_token,
        warm=WarmParent(run_dir, folder.logs / "warm.log", enabled=settings.warm_start == "auto"),
    )
    deployments = Deployments(
        store=store,
        folder=folder,
        resolver=resolver,
        workspaces=workspaces,
        operations=operations,
        scorers=ScorerSupervisor(run_dir),
        routes=run_dir / "routes.json",
        environments=JobEnvironments(store=store, folder=folder, settings=settings, python=sys.executable),
        trust_pickle=settings.trust_pickle,
        base_url=settings.base_url,
    )
    return Services(
        settings=settings,
        folder=folder,
        store=store,
        workspaces=workspaces,
        auth=auth,
        operations=operations,
        sas=SasKey(sas_secret),
        blobs=blobs,
        mounts=mounts,
        resolver=resolver,
        jobs=jobs,
        mlflow=mlflow,
        deployments=deployments,
        certificates=tls,
    )


def create_containers(blobs: BlobStore, workspace: Workspace) -> None:
    """The containers of the datastores that every workspace has."""
    from amlocal.emulator.jobs.inputs import containers

    for container in containers(workspace).values():
        blobs.create_container(workspace.account, container, exist_ok=True)


def serve(services: Services) -> None:
    """Answer requests until SIGTERM or SIGINT."""
    from granian.constants import Interfaces, SSLProtocols
    from granian.server.mt import MTServer

    from amlocal.emulator.app import create_app

    class OneProcessServer(MTServer):  # type: ignore[misc]
        """Granian with its worker in a thread of this process: no second process to outlive the first.

        Granian offers that for free-threaded Pythons, where several such workers pay; one worker is right
        under a GIL as well, so the check is left out.
        """

        def _check_gil(self) -> None:
            return

    app = create_app(services)
    server = OneProcessServer(
        "amlocal.emulator.app",
        address="127.0.0.1",
        port=services.settings.port,
        interface=Interfaces.WSGI,
        workers=1,
        blocking_threads=_THREADS,
        ssl_cert=services.certificates.certificate,
        ssl_key=services.certificates.key,
        ssl_protocol_min=SSLProtocols.tls12,
        websockets=False,
        log_enabled=False,
    )
    loader: Callable[..., Any] = lambda *_: app  # noqa: E731
    server.serve(target_loader=loader, wrap_loader=False)


def main() -> None:
    """Run the worker; exit code 3 when another process holds the data folder."""
    watch_leash()
    os.umask(0o077)
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    settings, run_dir = settings_module.from_json(sys.argv[1]), Path(sys.argv[2])
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(settings.data_dir / "writer.lock")
    if not lock.acquire(_LOCK_PATIENCE):
        log.error("another process writes %s: see writer.lock in it", settings.data_dir)
        sys.exit(3)
    lock.write(str(os.getpid()))
    services = build_services(settings, run_dir)
    try:
        services.operations.fail_interrupted()
        services.jobs.start()
        services.deployments.start()
        serve(services)
    finally:
        services.jobs.stop()
        services.deployments.stop()
        services.store.close()
        lock.release()


if __name__ == "__main__":
    main()
