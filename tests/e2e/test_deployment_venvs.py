"""Deployments in virtual environments of their environment's pip part (`environments.mode` venv)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from environment_desk import IMAGE, configure, own_wheel, put

SCORE = """
import json, shutil, sys
import tinything
def init():
    try:
        import yaml
    except ImportError:
        global absent
        absent = True
def run(raw):
    return [tinything.VERSION, absent, sys.executable, shutil.which("python")]
"""
QUERY = "?api-version=2024-04-01"


@pytest.mark.slow
def test_a_script_runs_in_its_own_virtual_environment(
    new_server: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    server = new_server()
    configure(server, mode="venv")
    server.start()

    def arm(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return server.call(method, f"{server.workspace_path}/{path}{QUERY}", body)  # type: ignore[no-any-return]

    account = next(server.folder.blobs.glob("*/azureml-blobstore-*")).parent
    container = account / f"azureml-code-{uuid.uuid4()}"
    container.mkdir()
    (container / "score.py").write_text(SCORE)
    uri = f"{server.base_url}/{account.name}/{container.name}"
    assert arm("PUT", "codes/venv-code/versions/1", {"properties": {"codeUri": uri}})[0] in (200, 201)
    for name, pip in (("tiny", "tinything==1.0"), ("absent", "absent-thing==9")):
        text = json.dumps({"dependencies": ["python=3.11", {"pip": [pip]}]})
        assert put(server, name, {"image": IMAGE, "condaFile": text})[0] == 201
    endpoint = "onlineEndpoints/in-venvs"
    assert arm("PUT", endpoint, {"location": "local", "properties": {"authMode": "Key"}})[0] in (200, 201)
    code = f"{server.workspace_path}/codes/venv-code/versions/1"

    def deploy(name: str, environment: str) -> Any:
        """The deployment, once it is settled."""
        properties = {
            "endpointComputeType": "Managed",
            "codeConfiguration": {"codeId": code, "scoringScript": "score.py"},
            "environmentId": f"{server.workspace_path}/environments/{environment}/versions/1",
        }
        path = f"{endpoint}/deployments/{name}"
        status, answer = arm("PUT", path, {"location": "local", "properties": properties})
        assert status == 201, answer

        def settled() -> Any:
            found = arm("GET", path)[1]["properties"]
            return found["provisioningState"] in ("Succeeded", "Failed") and found

        return wait_for(settled, 120, name)

    def log(name: str, container: str = "StorageInitializer") -> str:
        body = {"tail": 500, "containerType": container}
        return str(arm("POST", f"{endpoint}/deployments/{name}/getLogs", body)[1]["content"])

    found = deploy("blue", "tiny")
    assert found["provisioningState"] == "Succeeded", log("blue")
    assert found["properties"]["amlocal.python"].startswith("virtual environment of Python 3.11")
    assert "Successfully installed tinything-1.0" in log("blue")
    key = arm("POST", f"{endpoint}/listKeys")[1]["primaryKey"]
    assert ask(server, arm("GET", endpoint)[1]["properties"]["scoringUri"], key) == [
        "1.0", True, *[str(python(server))] * 2
    ]  # fmt: skip

    # What pip says of a package that is nowhere is the deployment's error, and nothing serves.
    found = deploy("green", "absent")
    assert found["provisioningState"] == "Failed"
    assert "No matching distribution found for absent-thing==9" in found["properties"]["amlocal.error"]
    assert "No matching distribution found for absent-thing==9" in log("green")
    assert "failed" in log("green", "InferenceServer")


def ask(server: Any, uri: str, key: str) -> Any:
    import requests

    headers = {"Authorization": f"Bearer {key}", "azureml-model-deployment": "blue"}
    bundle = str(server.folder.tls / "bundle.pem")
    answer = requests.post(uri, json={}, headers=headers, verify=bundle, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def python(server: Any) -> Path:
    """The interpreter of the one environment that could be built."""
    (place,) = (server.folder.cache / "venvs").glob("*/ready.json")
    return Path(place.parent / json.loads(place.read_text())["attempt"] / "bin" / "python")
