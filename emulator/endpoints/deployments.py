"""Online deployments: scorer processes brought up, switched, and taken down behind stored documents.

The documents say what is wanted; this room makes it so and publishes the route table that the router reads.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amlocal.emulator import crash_points
from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.endpoints.route_table import DeploymentRoute, EndpointRoute, Instance, RouteTable
from amlocal.emulator.endpoints.scorers import ScorerConfig, ScorerError, ScorerSupervisor, tail_file
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.http.operations import Operations
from amlocal.emulator.jobs.inputs import Resolver
from amlocal.emulator.processes import clean_environment
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder, write_atomic
from amlocal.emulator.store.workspace import Workspace
from amlocal.emulator.store.workspaces import Workspaces

log = logging.getLogger("amlocal.deployments")

ENDPOINTS = "onlineEndpoints"
DEPLOYMENTS = "onlineEndpoints/deployments"
KEYS = "onlineEndpoints/keys"
READY_TIMEOUT = 600.0
SERVER_LOG = "inference-server.log"


@dataclass
class _Live:
    """The scorers that answer for one deployment now."""

    keys: list[str] = field(default_factory=list)
    sockets: list[Path] = field(default_factory=list)


class Deployments:
    """Brings deployments up and down. Public calls return at once; work runs in a few threads."""

    def __init__(
        self,
        *,
        store: Store,
        folder: DataFolder,
        resolver: Resolver,
        workspaces: Workspaces,
        operations: Operations,
        scorers: ScorerSupervisor,
        routes: Path,
    ) -> None:
        self._store = store
        self._folder = folder
        self._resolver = resolver
        self._workspaces = workspaces
        self._operations = operations
        self._scorers = scorers
        self._routes = routes
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="deployments")
        self._live: dict[tuple[str, str], _Live] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._guard = threading.Lock()
        self._generations = itertools.count(1)
        self._table = RouteTable()

    def start(self) -> None:
        """Bring up every stored deployment, as after a restart of the server."""
        self.publish()
        for workspace in self._workspaces.all():
            for document in self._store.read(
                lambda c, w=workspace: documents.listing(c, w.id, DEPLOYMENTS)  # type: ignore[misc]
            ):
                if document.properties.get("provisioningState") != "Failed":
                    self._submit(lambda w=workspace, d=document: self._bring_up(w, d.name, None))  # type: ignore[misc]

    def stop(self) -> None:
        """Take all scorers down; the documents stay."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._scorers.stop_all(grace=5.0)

    def provision(self, workspace: Workspace, name: str, operation: str) -> None:
        """Make the stored deployment `endpoint/deployment` real; `operation` tells how that ends."""
        self._submit(lambda: self._bring_up(workspace, name, operation), operation)

    def withdraw(self, workspace: Workspace, name: str, operation: str) -> None:
        """Take a deployment whose document is gone out of the routes, then stop its scorers."""
        self._submit(lambda: self._take_down(workspace, name, operation), operation)

    def tail(self, workspace: Workspace, name: str, lines: int) -> str:
        """The last lines of what the deployment's scorers printed."""
        return tail_file(self.log_file(workspace, name), lines)

    def log_file(self, workspace: Workspace, name: str) -> Path:
        return self._folder.deployments / workspace.id / name.replace("/", "_") / SERVER_LOG

    def publish(self) -> None:
        """Write the route table from the documents and the live scorers."""
        with self._guard:
            endpoints: dict[str, EndpointRoute] = {}
            for workspace in self._workspaces.all():
                endpoints.update(self._routes_of(workspace))
            if endpoints != self._table.endpoints or not self._routes.exists():
                self._table = RouteTable(self._table.version + 1, endpoints)
                write_atomic(self._routes, self._table.to_json().encode())

    def _routes_of(self, workspace: Workspace) -> dict[str, EndpointRoute]:
        def read(c: Any) -> tuple[list[Document], list[Document], list[Document]]:
            return tuple(documents.listing(c, workspace.id, kind) for kind in (ENDPOINTS, DEPLOYMENTS, KEYS))  # type: ignore[return-value]

        endpoints, deployments, keys = self._store.read(read)
        hashes = {document.name: tuple(document.body["hashes"]) for document in keys}
        routes = {}
        for endpoint in endpoints:
            below = {
                document.name.partition("/")[2]: self._route(workspace, document)
                for document in deployments
                if document.name.partition("/")[0] == endpoint.name
            }
            traffic = {
                name: int(weight)
                for name, weight in (endpoint.properties.get("traffic") or {}).items()
                if name in below
            }
            routes[route_key(workspace, endpoint.name)] = EndpointRoute(
                auth_mode="Key",
                key_hashes=hashes.get(endpoint.name, ()),
                traffic=traffic,
                deployments=below,
            )
        return routes

    def _route(self, workspace: Workspace, document: Document) -> DeploymentRoute:
        live = self._live.get((workspace.id, document.name), _Live())
        settings = document.body.get("amlocal", {})
        return DeploymentRoute(
            instances=tuple(Instance(str(socket)) for socket in live.sockets),
            request_timeout_ms=int(settings["request_timeout_ms"]),
            max_concurrent=int(settings["max_concurrent"]),
            state="Succeeded" if live.sockets else "Creating",
        )

    def _submit(self, work: Callable[[], None], operation: str | None = None) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception as error:
                log.exception("a deployment's work failed")
                if operation:  # or its client would poll for ever
                    self._operations.fail(
                        operation,
                        "InternalServerError",
                        f"amlocal failed on this deployment ({type(error).__name__}); server.log says more.",
                    )

        self._pool.submit(guarded)

    def _lock(self, workspace: Workspace, name: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault((workspace.id, name), threading.Lock())

    def _document(self, workspace: Workspace, name: str) -> Document | None:
        return self._store.read(lambda c: documents.get(c, workspace.id, DEPLOYMENTS, name))

    def _bring_up(self, workspace: Workspace, name: str, operation: str | None) -> None:
        with self._lock(workspace, name):
            document = self._document(workspace, name)
            if document is None:
                if operation:
                    self._operations.fail(operation, "ResourceNotFound", f"Deployment {name} was deleted.")
                return
            crash_points.reach("deployment.found")
            fresh = _Live()
            try:
                self._start_scorers(workspace, document, fresh)
            except (ScorerError, AzureError, OSError, ValueError) as error:
                for key in fresh.keys:
                    self._scorers.stop(key, grace=0.0)
                self._set_state(workspace, name, "Failed", str(error))
                if operation:
                    self._operations.fail(operation, "ResourceNotReady", f"Deployment {name}: {error}")
                log.error("deployment %s failed: %s", name, error)
                return
            crash_points.reach("deployment.ready")
            old = self._live.get((workspace.id, name), _Live())
            self._live[workspace.id, name] = fresh
            self._set_state(workspace, name, "Succeeded", None)
            crash_points.reach("deployment.settled")
            self.publish()
            crash_points.reach("deployment.published")
            for key in old.keys:
                self._scorers.stop(key)
            if operation:
                self._operations.succeed(operation)

    def _start_scorers(self, workspace: Workspace, document: Document, fresh: _Live) -> None:
        settings = document.body["amlocal"]
        log_file = self.log_file(workspace, document.name)
        log_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = ScorerConfig(
            kind="mlflow",
            model_dir=self._resolver.resolve(workspace, settings["model_uri"]),
            log=log_file,
            env={
                str(key): str(value)
                for key, value in (document.properties.get("environmentVariables") or {}).items()
            },
            # Idle OpenMP threads would spin beside the server and the other scorers and halve their speed.
            base_env={"GOMP_SPINCOUNT": "1000", **clean_environment()},
            max_concurrent=int(settings["max_concurrent"]),
        )
        generation = next(self._generations)
        for number in range(int(settings["instances"])):
            key = f"{workspace.id}/{document.name}#{generation}.{number}"
            fresh.keys.append(key)
            fresh.sockets.append(self._scorers.start(key, config))
        for key in fresh.keys:
            self._scorers.wait_ready(key, READY_TIMEOUT)

    def _take_down(self, workspace: Workspace, name: str, operation: str) -> None:
        with self._lock(workspace, name):
            live = self._live.pop((workspace.id, name), _Live())
            self.publish()
            crash_points.reach("deployment.unpublished")
            for key in live.keys:
                self._scorers.stop(key)
            self._operations.succeed(operation)

    def _set_state(self, workspace: Workspace, name: str, state: str, error: str | None) -> None:
        def write(c: Any) -> None:
            present = documents.get(c, workspace.id, DEPLOYMENTS, name)
            if present is None:
                return
            properties = {**present.properties, "provisioningState": state}
            body = {**present.body, "properties": properties, "error": error}
            documents.put(c, workspace.id, DEPLOYMENTS, name, "", body)

        self._store.write(write)


def route_key(workspace: Workspace, endpoint: str) -> str:
    """How the route table and the scoring address name an endpoint."""
    return f"{workspace.id}/{endpoint}"
