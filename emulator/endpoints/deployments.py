"""Online deployments: scorer processes brought up, switched, and taken down behind stored documents.

The documents say what is wanted; this room makes it so and publishes the route table that the router reads.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from amlocal.emulator import crash_points
from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.endpoints import container_logs, counters, deployment_records
from amlocal.emulator.endpoints.deployment_records import DEPLOYMENTS, ENDPOINTS, KEYS, SERVED
from amlocal.emulator.endpoints.lanes import Lanes, Superseded
from amlocal.emulator.endpoints.route_table import (
    DeploymentRoute,
    EndpointRoute,
    Instance,
    RouteTable,
    endpoint_key,
)
from amlocal.emulator.endpoints.scorers import ScorerError, ScorerSupervisor
from amlocal.emulator.endpoints.versions import Version, Versions, same_but_count
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.http.operations import Operations
from amlocal.emulator.jobs.environments import JobEnvironments
from amlocal.emulator.jobs.inputs import Resolver
from amlocal.emulator.jobs.runners.base import Abandoned, JobFailure
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder, write_atomic
from amlocal.emulator.store.workspace import Workspace
from amlocal.emulator.store.workspaces import Workspaces

log = logging.getLogger("amlocal.deployments")

_Key = tuple[str, str]
# What can be wrong with a user's deployment; all else is a fault of amlocal's.
_FAILURES = (ScorerError, AzureError, JobFailure, OSError, ValueError)


class Deployments:
    """Brings deployments up and down. Public calls return at once; one deployment's works are in order."""

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
        environments: JobEnvironments | None = None,
        trust_pickle: Literal["always", "never"] = "always",
        base_url: str | None = None,
    ) -> None:
        self._store = store
        self._folder = folder
        self._workspaces = workspaces
        self._operations = operations
        self._scorers = scorers
        self._routes = routes
        self._lanes = Lanes("deployment")
        self._live: dict[_Key, Version] = {}
        self._guard = threading.Lock()
        self._table = RouteTable()
        self.versions = Versions(
            folder=folder,
            resolver=resolver,
            scorers=scorers,
            environments=environments,
            trust_pickle=trust_pickle,
            base_url=base_url,
        )

    def start(self) -> None:
        """Bring up every stored deployment, as after a restart of the server."""
        self._scorers.on_change = self._publish_again
        self.publish()
        for workspace in self._workspaces.all():
            found = self._listing(workspace, DEPLOYMENTS)
            self._sweep(workspace, {document.name.lower() for document in found})
            for document in found:
                name = document.name
                self._submit(
                    workspace,
                    name,
                    lambda gone, w=workspace, n=name: self._restore(w, n, gone),  # type: ignore[misc]
                )

    def stop(self) -> None:
        """Take all scorers down; the documents stay, and what was under way goes on at the next start."""
        self._lanes.stop(patience=0.0)
        self._scorers.stop_all(grace=5.0)

    def provision(self, workspace: Workspace, name: str, operation: str) -> None:
        """Make the stored deployment `endpoint/deployment` real; `operation` tells how that ends."""
        self._submit(
            workspace, name, lambda gone: self._bring_up(workspace, name, operation, gone), operation
        )

    def withdraw(self, workspace: Workspace, name: str, operation: str) -> None:
        """Take a deployment whose document is gone out of the routes, then stop its scorers."""
        self._submit(workspace, name, lambda _: self._take_down(workspace, name, operation), operation)

    def tail(
        self, workspace: Workspace, name: str, lines: int, container: str = container_logs.INFERENCE_SERVER
    ) -> str:
        """The last lines of the log of one of the deployment's containers."""
        return container_logs.tail(self.versions.home(workspace, name) / container, lines)

    def counters(self) -> dict[str, Any]:
        """What the router has counted; see `endpoints/counters.py`."""
        return counters.read(counters.counters_file(self._routes))

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
                if document.name.partition("/")[0].lower() == endpoint.name.lower()
            }
            mode = str(endpoint.properties.get("authMode") or "Key")
            routes[route_key(workspace, endpoint.name)] = EndpointRoute(
                auth_mode=mode,
                created=endpoint.created_at,
                # Keys are kept while an endpoint takes tokens, but open nothing.
                key_hashes=hashes.get(endpoint.name, ()) if mode == "Key" else (),
                traffic=_weights(endpoint, "traffic", below),
                mirror=_weights(endpoint, "mirrorTraffic", below),
                deployments=below,
            )
        return routes

    def _route(self, workspace: Workspace, document: Document) -> DeploymentRoute:
        version = self._live.get(_key(workspace, document.name))
        settings = version.settings if version is not None else document.body.get("amlocal", {})
        sockets = self.versions.taking(version) if version is not None else ()
        state = str(document.properties.get("provisioningState"))
        if version is not None:
            state = "Succeeded" if sockets else "Restarting"
        elif state == "Succeeded":
            state = "Creating"
        return DeploymentRoute(
            instances=tuple(Instance(str(socket)) for socket in sockets),
            request_timeout_ms=int(settings["request_timeout_ms"]),
            max_concurrent=int(settings["max_concurrent"]),
            max_queue_wait_ms=int(settings.get("max_queue_wait_ms", 500)),
            state=state,
        )

    def _publish_again(self) -> None:
        """A scorer has begun or ceased to take requests."""
        try:
            self.publish()
        except Exception:  # a thread of a scorer must live on; the next change publishes all of it
            log.exception("the route table could not be written")

    def _submit(
        self,
        workspace: Workspace,
        name: str,
        work: Callable[[Superseded], None],
        operation: str | None = None,
    ) -> None:
        def guarded(superseded: Superseded) -> None:
            try:
                work(superseded)
            except Exception as error:
                log.exception("a deployment's work failed")
                message = f"amlocal failed on this deployment ({type(error).__name__}); server.log says more."
                if operation:  # or its client would poll for ever
                    self._operations.fail(operation, "InternalServerError", message)
                if not superseded():
                    deployment_records.set_failed(self._store, workspace, name, message)

        self._lanes.submit(_key(workspace, name), guarded)

    def _listing(self, workspace: Workspace, kind: str) -> list[Document]:
        return self._store.read(lambda c: documents.listing(c, workspace.id, kind))

    def _get(self, workspace: Workspace, kind: str, name: str) -> Document | None:
        return self._store.read(lambda c: documents.get(c, workspace.id, kind, name))

    def _sweep(self, workspace: Workspace, names: set[str]) -> None:
        """Remove what deployments left that are gone, and the files of versions of an earlier server."""
        for document in self._listing(workspace, SERVED):
            if document.name.lower() not in names:
                self._store.write(
                    lambda c, d=document: documents.remove(c, workspace.id, SERVED, d.name)  # type: ignore[misc]
                )
        homes = {self.versions.home(workspace, name).name for name in names}
        root = self._folder.deployments / workspace.id
        for home in list(root.iterdir()) if root.is_dir() else []:
            if home.is_symlink() or not home.is_dir():
                continue
            shutil.rmtree(home / "versions" if home.name in homes else home, ignore_errors=True)

    def _restore(self, workspace: Workspace, name: str, superseded: Superseded) -> None:
        """After a restart: first what was served before, then what is wanted, unless that has failed."""
        document, served = self._get(workspace, DEPLOYMENTS, name), self._get(workspace, SERVED, name)
        if document is None:
            return
        failed = document.properties.get("provisioningState") == "Failed"
        if served is not None and (failed or served.body["amlocal"] != document.body["amlocal"]):
            try:
                self._replace(workspace, name, served.body["amlocal"], superseded)
                self.publish()
            except Abandoned:
                return
            except _FAILURES as error:
                log.error("deployment %s: what it served before cannot be brought up: %s", name, error)
        if not failed:
            self._bring_up(workspace, name, None, superseded)

    def _bring_up(
        self, workspace: Workspace, name: str, operation: str | None, superseded: Superseded
    ) -> None:
        document = self._get(workspace, DEPLOYMENTS, name)
        if document is None:
            if operation:
                self._operations.fail(operation, "ResourceNotFound", f"Deployment {name} was deleted.")
            return
        crash_points.reach("deployment.found")
        settings = document.body["amlocal"]
        live = self._live.get(_key(workspace, name))
        try:
            if live is not None and same_but_count(live.settings, settings):
                retire = self._scale(workspace, name, live, settings, superseded)
            else:
                retire = self._replace(workspace, name, settings, superseded)
        except Abandoned:
            # The state is left as it is: later work for this deployment, or the next start, settles it.
            if operation:
                text = (
                    f"Deployment {name}: a later request, or the end of the server, has put an end to this."
                )
                self._operations.fail(operation, "OperationCanceled", text)
            return
        except _FAILURES as error:
            self._fail(workspace, name, settings, operation, error, serving=live is not None)
            return
        crash_points.reach("deployment.ready")
        deployment_records.settle(self._store, workspace, name, settings)
        crash_points.reach("deployment.settled")
        self.publish()
        crash_points.reach("deployment.published")
        if operation:
            self._operations.succeed(operation)
        # Not in this thread: an old request may take its time, and must not hold up the next update.
        threading.Thread(target=retire, name=f"retire-{name}", daemon=True).start()

    def _replace(
        self, workspace: Workspace, name: str, settings: Mapping[str, Any], superseded: Superseded
    ) -> Callable[[], None]:
        """Bring up a new version beside the present one; returns what ends the old one once it is unused."""
        version = self.versions.prepare(workspace, name, settings, superseded)
        try:
            count = int(settings["instances"])
            version.instances = self.versions.grow(workspace, name, version, count, count)
            self.versions.wait(version, version.instances, superseded)
        except BaseException:
            self.versions.drop(version.instances, version)
            raise
        old = self._live.get(_key(workspace, name))
        self._live[_key(workspace, name)] = version
        if old is None:
            return lambda: None
        return lambda: self.versions.retire(old.instances, old.settings, old)

    def _scale(
        self,
        workspace: Workspace,
        name: str,
        version: Version,
        settings: Mapping[str, Any],
        superseded: Superseded,
    ) -> Callable[[], None]:
        """Change the number of instances; those that run and stay are not touched."""
        wanted = int(settings["instances"])
        missing = max(0, wanted - len(version.instances))
        added = self.versions.grow(workspace, name, version, missing, wanted)
        try:
            self.versions.wait(version, [*version.instances[:wanted], *added], superseded)
        except BaseException:
            self.versions.drop(added)
            raise
        gone = version.instances[wanted:]
        version.instances = [*version.instances[:wanted], *added]
        version.settings = settings
        return lambda: self.versions.retire(gone, settings)

    def _fail(
        self,
        workspace: Workspace,
        name: str,
        settings: Mapping[str, Any],
        operation: str | None,
        error: Exception,
        *,
        serving: bool,
    ) -> None:
        text = str(error)
        if serving:
            text = f"The update failed, and the version before it goes on serving. {text}"
        container_logs.write(
            self.versions.home(workspace, name) / container_logs.INFERENCE_SERVER,
            f"deployment {name} failed: {text.splitlines()[0] if text else type(error).__name__}",
        )
        deployment_records.set_failed(self._store, workspace, name, text, settings)
        self.publish()
        if operation:
            code = error.code if isinstance(error, AzureError) else "ResourceNotReady"
            self._operations.fail(operation, code, f"Deployment {name}: {text}")
        log.error("deployment %s failed: %s", name, text)

    def _take_down(self, workspace: Workspace, name: str, operation: str) -> None:
        if self._get(workspace, DEPLOYMENTS, name) is None:
            self._store.write(lambda c: documents.remove(c, workspace.id, SERVED, name))
        version = self._live.pop(_key(workspace, name), None)
        self.publish()
        crash_points.reach("deployment.unpublished")
        if version is not None:
            self.versions.retire(version.instances, version.settings, version)
        shutil.rmtree(self.versions.home(workspace, name), ignore_errors=True)
        self._operations.succeed(operation)


def _key(workspace: Workspace, name: str) -> _Key:
    return workspace.id, name.lower()


def route_key(workspace: Workspace, endpoint: str) -> str:
    """How the route table and the scoring address name an endpoint."""
    return endpoint_key(workspace.id, endpoint)


def _weights(endpoint: Document, field: str, known: Mapping[str, DeploymentRoute]) -> dict[str, int]:
    """Percentages of the deployments that are there."""
    rules: Mapping[str, Any] = endpoint.properties.get(field) or {}
    return {name: int(weight) for name, weight in rules.items() if name in known}
