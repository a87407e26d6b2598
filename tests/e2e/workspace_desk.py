"""What the tests of workspaces share: paths, clients, and the template that the SDK sends."""

from __future__ import annotations

from typing import Any

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
PROVIDER = "providers/Microsoft.MachineLearningServices"


def path_of(name: str, group: str = "local", subscription: str = SUBSCRIPTION) -> str:
    return f"/subscriptions/{subscription}/resourceGroups/{group}/{PROVIDER}/workspaces/{name}"


def client_of(name: str, group: str = "local", subscription: str = SUBSCRIPTION) -> Any:
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    return MLClient(DefaultAzureCredential(), subscription, group, name)


def made(server: Any, name: str, **more: Any) -> dict[str, Any]:
    """A workspace made by a raw PUT, for tests of what follows."""
    code, body = server.call("PUT", path_of(name), {"location": "local", "properties": {}, **more})
    assert code == 200, body
    found: dict[str, Any] = body
    return found


def template(**parameters: Any) -> dict[str, Any]:
    """A deployment of the SDK's own template."""
    from azure.ai.ml._arm_deployments.arm_helper import get_template

    values = get_template("workspace_param")
    wanted = {
        "workspaceName": "from-template",
        "location": "local",
        "keyVaultName": "kv",
        "storageAccountName": "st",
        "applicationInsightsName": "ai",
        **parameters,
    }
    for name, value in wanted.items():
        values[name] = {"value": value}
    deployment = {"mode": "Incremental", "template": get_template("workspace_base"), "parameters": values}
    return {"properties": deployment}


def deploy(server: Any, body: Any, name: str = "d-1") -> tuple[int, Any]:
    path = (
        f"/subscriptions/{SUBSCRIPTION}/resourcegroups/local/providers/Microsoft.Resources/deployments/{name}"
    )
    code, answer = server.call("PUT", path, body)
    return code, answer
