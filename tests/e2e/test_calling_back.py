"""A scoring script that calls the server that runs it, with the endpoint's identity, while it is asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from endpoint_desk import deployment, endpoint, route, score

NAME = "calling-back"
SCORE = """
import json, os
import requests
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential

NAME = "calling-back"

def workspace():
    return [os.environ[name] for name in
            ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME")]

def init():
    global credential, client
    credential = DefaultAzureCredential()
    client = MLClient(credential, *workspace())
    # The server waits for this very process.
    print("init saw", client.online_endpoints.get(NAME).name, flush=True)

def by_sdk(asked):
    found = client.online_endpoints.get(NAME)
    keys = client.online_endpoints.get_keys(NAME)
    inner = requests.post(found.scoring_uri, json={"how": "inner", "number": asked["number"]},
                          headers={"Authorization": "Bearer " + keys.primary_key}, timeout=60)
    return [found.traffic, [d.name for d in client.online_deployments.list(NAME)], inner.json()]

def by_mlflow(asked):
    token = credential.get_token("https://management.azure.com/.default").token
    subscription, group, name = workspace()
    uri = client.workspaces.get(name).mlflow_tracking_uri.replace("azureml://", "https://")
    answer = requests.post(uri + "/api/2.0/mlflow/experiments/create",
                           json={"name": "called-back-%d" % asked["number"]},
                           headers={"Authorization": "Bearer " + token}, timeout=60)
    return [answer.status_code, sorted(answer.json())]

def by_hand(asked):
    # As Azure's own example asks for a token without any package.
    answer = requests.get(os.environ["MSI_ENDPOINT"] + "?resource=https://ml.azure.com",
                          headers={"secret": os.environ["MSI_SECRET"], "Metadata": "true"}, timeout=60)
    return [answer.status_code, answer.json()["token_type"], "MLFLOW_TRACKING_TOKEN" in os.environ]

def run(raw):
    asked = json.loads(raw)
    if asked["how"] == "inner":
        return {"inner": asked["number"]}
    return globals()["by_" + asked["how"]](asked)
"""


@pytest.fixture(scope="module")
def uri(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    from azure.ai.ml.entities import CodeConfiguration, OnlineRequestSettings

    code: Path = tmp_path_factory.mktemp("calling")
    (code / "score.py").write_text(SCORE)
    endpoint(ml_client, NAME)
    made = deployment(
        NAME,
        "blue",
        code_configuration=CodeConfiguration(code=str(code), scoring_script="score.py"),
        request_settings=OnlineRequestSettings(
            max_concurrent_requests_per_instance=10, request_timeout_ms=90_000
        ),
    )
    ml_client.online_deployments.begin_create_or_update(made).result()
    route(ml_client, NAME, {"blue": 100})
    return str(ml_client.online_endpoints.get(NAME).scoring_uri)


def test_a_script_that_calls_the_server_is_answered(ml_client: Any, uri: str) -> None:
    assert f"init saw {NAME}" in ml_client.online_deployments.get_logs("blue", NAME, lines=100)
    key = ml_client.online_endpoints.get_keys(NAME).primary_key
    asked = [{"how": how, "number": number} for number in range(3) for how in ("sdk", "mlflow", "hand")]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda body: score(uri, key, json=body, timeout=120), asked))
    for body, answer in zip(asked, answers, strict=True):
        assert answer.status_code == 200, answer.text
        assert (
            answer.json()
            == {
                "sdk": [{"blue": 100}, ["blue"], {"inner": body["number"]}],
                "mlflow": [200, ["experiment_id"]],
                "hand": [200, "Bearer", False],
            }[str(body["how"])]
        )


def test_an_endpoint_without_identity_gives_none(server: Any, ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import CodeConfiguration

    (tmp_path / "score.py").write_text(
        "import os\ndef init(): ...\ndef run(raw):\n"
        "    return [n for n in os.environ if n.startswith(('IDENTITY', 'MSI', 'AZURE_', 'MLFLOW'))]"
    )
    path = f"{server.workspace_path}/onlineEndpoints/nobody?api-version=2024-10-01"
    body = {"location": "local", "properties": {"authMode": "Key"}, "identity": {"type": "None"}}
    assert server.call("PUT", path, body)[0] == 201
    made = deployment(
        "nobody", "blue", code_configuration=CodeConfiguration(code=str(tmp_path), scoring_script="score.py")
    )
    ml_client.online_deployments.begin_create_or_update(made).result()
    uri = ml_client.online_endpoints.get("nobody").scoring_uri
    key = ml_client.online_endpoints.get_keys("nobody").primary_key
    headers = {"Authorization": f"Bearer {key}", "azureml-model-deployment": "blue"}
    assert score(uri, key, headers=headers).json() == []
