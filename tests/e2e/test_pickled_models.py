"""A server that trusts no pickle: such models are refused by name, others serve, also after a restart.

It takes any bearer first (`--auth loose`), and none but the right ones after its restart.
"""

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


def save_sklearn(folder: Path) -> None:
    """A model as `mlflow.sklearn` pickles it."""
    import mlflow.sklearn
    from sklearn.linear_model import LinearRegression

    fitted = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    mlflow.sklearn.save_model(
        fitted, str(folder), serialization_format="cloudpickle", pip_requirements=["scikit-learn"]
    )


def test_pickles_are_refused_and_the_rest_survives_a_restart(new_server: Callable[[], Any]) -> None:
    server = new_server()
    serve = ("serve", "--data-dir", str(server.root), "--port", str(server.port), "--detach")
    done = server.command(*serve, "--trust-pickle", "never", "--auth", "loose")
    assert done.returncode == 0, done.stdout + done.stderr
    store = next(server.folder.blobs.glob("*/azureml-blobstore-*"))
    for name in ("plain", "pickled"):
        (store / name / "code").mkdir(parents=True)
        (store / name / "MLmodel").write_text(MLMODEL)
        (store / name / "code" / "plain_model.py").write_text(CODE)
    (store / "pickled" / "weights.txt").write_bytes(pickle.dumps({"a": 1}))
    save_sklearn(store / "sklearned")

    def arm(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return server.call(method, f"{server.workspace_path}/{path}?api-version=2023-10-01", body)  # type: ignore[no-any-return]

    for name in ("plain", "pickled", "sklearned"):
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
    refused = arm("PUT", path, deployment("azureml:sklearned:1"))[1]["error"]
    assert refused["code"] == "PickledModel" and "model.pkl" in refused["message"]
    assert "--trust-pickle" in answer["error"]["message"]
    assert arm("GET", path)[0] == 404

    assert arm("PUT", path, deployment("azureml:plain:1"))[0] == 201

    def routed() -> bool:
        run = Path(json.loads(server.folder.server_file.read_text())["run_dir"])
        table = json.loads((run / "routes.json").read_text())
        # It holds the sockets of scorers, which answer whoever can open them.
        assert (run / "routes.json").stat().st_mode & 0o777 == 0o600
        return any(one["deployments"].get("blue", {}).get("instances") for one in table["endpoints"].values())

    def asked(credential: str | None) -> tuple[int, Any]:
        import requests

        headers = {"azureml-model-deployment": "blue"}
        uri = arm("GET", "onlineEndpoints/careful")[1]["properties"]["scoringUri"]
        answer = requests.post(
            uri,
            json={"input_data": [[1]]},
            headers={**headers, "Authorization": credential} if credential else headers,
            verify=str(server.folder.tls / "bundle.pem"),
            timeout=60,
        )
        return answer.status_code, answer.json() if answer.ok else None

    wait_for(routed, 40, "the deployment")
    wait_for(lambda: arm("GET", path)[1]["properties"]["provisioningState"] == "Succeeded", 10, "its state")
    # Any bearer will do with `--auth loose`, none will not.
    assert [asked("Bearer anything"), asked(None)] == [(200, [1]), (401, None)]
    server.stop()
    assert server.command(*serve).returncode == 0
    wait_for(routed, 40, "the deployment after a restart")
    assert arm("GET", path)[1]["properties"]["provisioningState"] == "Succeeded"
    key = arm("POST", "onlineEndpoints/careful/listKeys")[1]["primaryKey"]
    assert [asked("Bearer anything"), asked(f"Bearer {key}")] == [(401, None), (200, [1])]
    logs = arm("POST", f"{path}/getLogs", {"tail": 100})[1]["content"]
    assert logs.count("loaded plainly") == 2
    assert arm("POST", f"{path}/getLogs", {"containerType": "other"})[0] == 400
