"""`local=True` of the SDK without a Docker engine: nothing of it works, and every call says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from endpoint_desk import deployment

DOCKER = "Docker Engine is installed and running"


@pytest.fixture
def alone(ml_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The SDK with a home of its own, where it keeps local endpoints, and an engine that nobody runs."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    return MLClient(
        DefaultAzureCredential(),
        ml_client.subscription_id,
        ml_client.resource_group_name,
        ml_client.workspace_name,
    )


def made(name: str) -> Any:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    return ManagedOnlineEndpoint(name=name, auth_mode="key")


LOCAL: dict[str, Callable[[Any, Any], Any]] = {
    "endpoint-create": lambda c, f: c.online_endpoints.begin_create_or_update(made("on-my-desk"), local=True),
    "endpoint-get": lambda c, f: c.online_endpoints.get("on-my-desk", local=True),
    "endpoint-list": lambda c, f: list(c.online_endpoints.list(local=True)),
    "invoke": lambda c, f: c.online_endpoints.invoke("on-my-desk", request_file=str(f), local=True),
    "deployment-create": lambda c, f: c.online_deployments.begin_create_or_update(
        deployment("on-my-desk", "blue", "azureml:none:1"), local=True
    ),
    "deployment-get": lambda c, f: c.online_deployments.get("blue", "on-my-desk", local=True),
    "deployment-list": lambda c, f: list(c.online_deployments.list("on-my-desk", local=True)),
    "deployment-delete": lambda c, f: c.online_deployments.begin_delete("blue", "on-my-desk", local=True),
    "logs": lambda c, f: c.online_deployments.get_logs("blue", "on-my-desk", lines=5, local=True),
}


@pytest.mark.parametrize("act", LOCAL.values(), ids=LOCAL.keys())
def test_local_needs_docker_and_says_so(
    alone: Any, server: Any, tmp_path: Path, act: Callable[[Any, Any], Any]
) -> None:
    from azure.ai.ml.exceptions import DockerEngineNotAvailableError

    request = tmp_path / "request.json"
    request.write_text("{}")
    with pytest.raises(DockerEngineNotAvailableError, match=DOCKER):
        act(alone, request)
    # Nothing half-made: the SDK's own folder has no record of it, and the server never heard of it.
    assert not list((tmp_path / ".azureml").rglob("*.json"))
    path = f"{server.workspace_path}/onlineEndpoints/on-my-desk?api-version=2024-10-01"
    assert server.call("GET", path)[0] == 404
