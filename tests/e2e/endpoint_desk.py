"""What the tests of endpoints share: scripts, endpoints, deployments, traffic, plain calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SCORE = """
import json, os


def init():
    pass


def run(raw):
    return [os.environ["ANSWER"]] * len(json.loads(raw)["input_data"]["data"])
"""
BODY = {"input_data": {"columns": ["x"], "index": [0], "data": [[1]]}}


def scripted(folder: Path, answer: str) -> dict[str, Any]:
    """What a deployment needs to answer every row with `answer`, by a script.

    Its scorer starts in a tenth of a second, one of MLflow in some: for tests that are not about models.
    """
    from azure.ai.ml.entities import CodeConfiguration

    folder.mkdir(exist_ok=True)
    (folder / "score.py").write_text(SCORE)
    return {
        "code_configuration": CodeConfiguration(code=str(folder), scoring_script="score.py"),
        "environment_variables": {"ANSWER": answer},
    }


def endpoint(ml_client: Any, name: str, **more: Any) -> Any:
    """A managed online endpoint, created or updated."""
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    return ml_client.online_endpoints.begin_create_or_update(
        ManagedOnlineEndpoint(**{"name": name, "auth_mode": "key", **more})
    ).result()


def deployment(endpoint_name: str, name: str, model: str | None = None, **more: Any) -> Any:
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
