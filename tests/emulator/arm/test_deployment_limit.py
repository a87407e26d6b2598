"""An endpoint has at most 20 deployments, however many are asked for; those that it has can be updated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Blueprint, Flask

from amlocal.compat import cloud
from amlocal.emulator import settings, worker
from amlocal.emulator.arm import documents, routes
from amlocal.emulator.arm.models import MODELS
from amlocal.emulator.arm.online_deployments import MOST_DEPLOYMENTS, ONLINE_DEPLOYMENTS
from amlocal.emulator.arm.online_endpoints import ONLINE_ENDPOINTS
from amlocal.emulator.endpoints.deployment_records import DEPLOYMENTS
from amlocal.emulator.http import guard

MLMODEL = "flavors:\n  python_function:\n    loader_module: never_loaded\n"


def test_the_twenty_first_deployment_is_refused(tmp_path: Path) -> None:
    services = worker.build_services(settings.load({"data_dir": str(tmp_path)}, {}), tmp_path)
    app = Flask("limit")
    guard.install(app, services.settings.port)
    blueprint = Blueprint("arm", "limit")
    for resource in (MODELS, ONLINE_ENDPOINTS, ONLINE_DEPLOYMENTS):
        routes.register(blueprint, resource, services)
    app.register_blueprint(blueprint)
    token = services.auth.user_token(cloud.audiences(services.settings.base_url)[0], 600)
    workspace = services.workspaces.all()[0]

    def call(method: str, path: str, properties: Any = None) -> tuple[int, Any]:
        answer = app.test_client().open(
            f"{workspace.arm_id}/{path}?api-version=2024-10-01",
            method=method,
            json={"location": "local", "properties": properties} if properties is not None else None,
            headers={"Authorization": f"Bearer {token}"},
            base_url=services.settings.base_url,
        )
        return answer.status_code, answer.get_json(silent=True)

    try:
        model = next(services.folder.blobs.glob("*/azureml-blobstore-*")) / "model"
        model.mkdir()
        (model / "MLmodel").write_text(MLMODEL)
        uri = "azureml://datastores/workspaceblobstore/paths/model"
        given = {"modelType": "mlflow_model", "modelUri": uri}
        assert call("PUT", "models/limited/versions/1", given)[0] == 201
        for name in ("full", "full-not"):
            assert call("PUT", f"onlineEndpoints/{name}", {"authMode": "Key"})[0] == 201
        body = {"properties": {"provisioningState": "Succeeded"}, "amlocal": {}}
        names = [f"d-{number}" for number in range(MOST_DEPLOYMENTS)]
        for name in names:
            services.store.write(
                lambda c, n=name: documents.put(c, workspace.id, DEPLOYMENTS, f"full/{n}", "", body)  # type: ignore[misc]
            )
        wanted = {"endpointComputeType": "Managed", "model": "azureml:limited:1"}
        status, answer = call("PUT", "onlineEndpoints/full/deployments/d-20", wanted)
        assert (status, answer["error"]["code"]) == (409, "TooManyDeployments")
        assert "20 deployments" in answer["error"]["message"]
        assert call("GET", "onlineEndpoints/full/deployments/d-20")[0] == 404
        listed = call("GET", "onlineEndpoints/full/deployments")[1]["value"]
        assert [one["name"] for one in listed] == names
        # One of the twenty, in another spelling; and the first of an endpoint with a similar name.
        services.deployments.stop()
        assert call("PUT", "onlineEndpoints/full/deployments/D-19", wanted)[0] == 200
        assert call("PUT", "onlineEndpoints/full-not/deployments/d-20", wanted)[0] == 201
        assert services.store.read(
            lambda c: len(documents.listing(c, workspace.id, DEPLOYMENTS, prefix="full/"))
        ) == (MOST_DEPLOYMENTS)
    finally:
        services.deployments.stop()
        services.store.close()
