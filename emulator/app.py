"""The app, put together in the order in which a request meets the parts."""

from __future__ import annotations

from flask import Flask

from amlocal.emulator.arm import arm_deployments, datastore_mounts, jobs, registries, registry, workspaces
from amlocal.emulator.history import data, mlflow_proxy, mlflow_registry, runs
from amlocal.emulator.http import casing, guard, identity, operations
from amlocal.emulator.http.stalled import StalledBodies
from amlocal.emulator.services import Services
from amlocal.emulator.storage import routes as storage
from amlocal.emulator.store.workspace import Workspace
from amlocal.emulator.studio import pages


def create_app(services: Services) -> Flask:
    """A Flask app over `services`; it owns nothing and can be made again."""
    # Given, because Flask cannot find them in a namespace package; neither folder is used.
    root = str(services.settings.data_dir)
    app = Flask(__name__, static_folder=None, template_folder=None, root_path=root, instance_path=root)
    app.url_map.merge_slashes = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    guard.install(app, services.settings.port)

    def tracked(subscription: str, group: str, name: str) -> Workspace:
        """For MLflow: the workspace, if the request's token or session opens it."""
        workspace = services.workspaces.get(subscription, group, name)
        services.auth.require_tracking(workspace)
        return workspace

    def opened(account: str) -> bool:
        """For storage: whether the request's token opens the account, which must be a workspace's."""
        allowed = services.auth.allows_storage()
        services.workspaces.by_account(account)
        return allowed

    app.register_blueprint(identity.create_blueprint(services))
    app.register_blueprint(operations.create_blueprint(services.operations, services.auth))
    app.register_blueprint(workspaces.create_blueprint(services))
    app.register_blueprint(arm_deployments.create_blueprint(services))
    app.register_blueprint(jobs.create_blueprint(services))
    app.register_blueprint(registry.create_blueprint(services))
    app.register_blueprint(registries.create_blueprint(services))
    app.register_blueprint(datastore_mounts.create_blueprint(services))
    app.register_blueprint(runs.create_blueprint(services))
    app.register_blueprint(data.create_blueprint(services))
    app.register_blueprint(
        mlflow_proxy.create_blueprint(
            services.mlflow.socket, tracked, services.folder.blobs, mlflow_registry.Registry(services).answer
        )
    )
    app.register_blueprint(
        storage.create_blueprint(
            services.blobs,
            services.sas,
            opened,
            services.settings.max_body,
        )
    )
    app.register_blueprint(pages.create_blueprint(services))
    app.wsgi_app = casing.CanonicalPaths(app.wsgi_app)  # type: ignore[method-assign]
    app.wsgi_app = StalledBodies(app.wsgi_app, services.settings.port)  # type: ignore[method-assign]
    return app
