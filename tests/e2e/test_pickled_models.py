"""A server that trusts no pickle: such models are refused by name, others serve, also after a restart."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import wait_for

MLMODEL = "flavors:\n  python_function:\n    loader_module: plain_model\n    code: code\n"
CODE = """
class Plain:
    def predict(self, frame, params=None):
        return [len(frame)]


def _load_pyfunc(path):
    print("loaded plainly", flush=True)
    return Plain()
"""


def test_pickles_are_refused_and_the_rest_survives_a_restart(new_server: Callable[[], Any]) -> None:
    server = new_server()
    serve = ("serve", "--data-dir", str(server.root), "--port", str(server.port), "--detach")
    done = server.command(*serve, "--trust-pickle", "never")
    assert done.returncode == 0, done.stdout + done.stderr
    store = next(server.folder.blobs.glob("*/azureml-blobstore-*"))
    for name in ("plain", "pickled"):
        (store / name / "code").mkdir(parents=True)
        (store / name / "MLmodel").write_text(MLMODEL)
        (store / name / "code" / "plain_model.py").write_text(CODE)
    (store / "pickled" / "weights.txt").write_bytes(pickle.dumps({"a": 1}))

    def arm(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return server.call(method, f"{server.workspace_path}/{path}?api-version=2023-10-01", body)  # type: ignore[no-any-return]

    for name in ("plain", "pickled"):
        uri = f"azureml://datastores/workspaceblobstore/paths/{name}"
        model = {"properties": {"modelType": "mlflow_model", "modelUri": uri}}
        assert arm("PUT", f"models/{name}/versions/1", model)[0] == 201
    endpoint = {"location": "local", "properties": {"authMode": "Key"}}
    assert arm("PUT", "onlineEndpoints/careful", endpoint)[0] in (200, 201)
    path = "onlineEndpoints/careful/deployments/blue"

    def deployment(model: str) -> dict[str, Any]:
        return {"location": "local", "properties": {"endpointComputeType": "Managed", "model": model}}

    status, answer = arm("PUT", path, deployment("azureml:pickled:1"))
    assert (status, answer["error"]["code"]) == (400, "PickledModel")
    assert "weights.txt: a pickle" in answer["error"]["message"]
    assert "--trust-pickle" in answer["error"]["message"]
    assert arm("GET", path)[0] == 404

    assert arm("PUT", path, deployment("azureml:plain:1"))[0] == 201

    def routed() -> bool:
        run = Path(json.loads(server.folder.server_file.read_text())["run_dir"])
        table = json.loads((run / "routes.json").read_text())
        return any(one["deployments"].get("blue", {}).get("instances") for one in table["endpoints"].values())

    wait_for(routed, 40, "the deployment")
    wait_for(lambda: arm("GET", path)[1]["properties"]["provisioningState"] == "Succeeded", 10, "its state")
    server.stop()
    assert server.command(*serve).returncode == 0
    wait_for(routed, 40, "the deployment after a restart")
    assert arm("GET", path)[1]["properties"]["provisioningState"] == "Succeeded"
    logs = arm("POST", f"{path}/getLogs", {"tail": 100})[1]["content"]
    assert logs.count("loaded plainly") == 2
    assert arm("POST", f"{path}/getLogs", {"containerType": "other"})[0] == 400
