"""What the tests of endpoints share: models by hand, endpoints, deployments, traffic, plain calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MLMODEL = "flavors:\n  python_function:\n    loader_module: {module}\n    code: code\n"
CODE = """
class Fixed:
    def predict(self, frame, params=None):
        return [{answer!r}] * len(frame)


def _load_pyfunc(path):
    return Fixed()
"""
BODY = {"input_data": {"columns": ["x"], "index": [0], "data": [[1]]}}


def register(ml_client: Any, folder: Path, name: str, answer: str) -> Any:
    """An MLflow model, written by hand, whose every row is answered with `answer`."""
    from azure.ai.ml.entities import Model

    module = f"fixed_{name.replace('-', '_')}"
    (folder / "code").mkdir(parents=True)
    (folder / "MLmodel").write_text(MLMODEL.format(module=module))
    (folder / "code" / f"{module}.py").write_text(CODE.format(answer=answer))
    return ml_client.models.create_or_update(Model(name=name, path=str(folder), type="mlflow_model"))


def endpoint(ml_client: Any, name: str, **more: Any) -> Any:
    """A managed online endpoint, created or updated."""
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    return ml_client.online_endpoints.begin_create_or_update(
        ManagedOnlineEndpoint(**{"name": name, "auth_mode": "key", **more})
    ).result()


def deployment(endpoint_name: str, name: str, model: str, **more: Any) -> Any:
    """A deployment, not submitted yet."""
    from azure.ai.ml.entities import ManagedOnlineDeployment

    values = {"name": name, "endpoint_name": endpoint_name, "model": model, "instance_count": 1}
    return ManagedOnlineDeployment(**{**values, "instance_type": "Standard_DS3_v2", **more})


def route(ml_client: Any, name: str, traffic: dict[str, int], mirror: dict[str, int] | None = None) -> Any:
    """Set the traffic of an endpoint in the way of the documentation: get, change, update."""
    found = ml_client.online_endpoints.get(name)
    found.traffic = traffic
    if mirror is not None:
        found.mirror_traffic = mirror
    return ml_client.online_endpoints.begin_create_or_update(found).result()


def score(uri: str, key: str | None, **more: Any) -> Any:
    """One plain HTTPS request as a client without the SDK makes it."""
    import requests

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return requests.post(uri, **{"json": BODY, "headers": headers, "timeout": 60, **more})
