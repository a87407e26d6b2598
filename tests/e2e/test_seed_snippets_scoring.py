"""The documents' own snippets for endpoint, deployment, traffic and scoring, on a tiny image model."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

ENDPOINT = "name: od-fridge-items-endpoint\nauth_mode: key\n"
# Both probes with the initial delay of the documents, which is a grace and not a wait.
DEPLOYMENT = """name: od-fridge-items-mlflow-deploy
endpoint_name: od-fridge-items-endpoint
model: azureml:od-fridge-items-mlflow-model@latest
instance_type: Standard_DS3_v2
instance_count: 1
liveness_probe:
    failure_threshold: 30
    success_threshold: 1
    timeout: 2
    period: 10
    initial_delay: 2000
readiness_probe:
    failure_threshold: 10
    success_threshold: 1
    timeout: 10
    period: 10
    initial_delay: 2000
"""
LABELS = ["can", "carton", "milk_bottle", "water_bottle"]
READY_WITHIN = 10.0


def read_image(image_path: str) -> bytes:
    with open(image_path, "rb") as f:
        return f.read()


@pytest.fixture(scope="module")
def sample_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    import numpy as np
    from PIL import Image

    file = tmp_path_factory.mktemp("images") / "1.jpg"
    pixels = np.random.default_rng(1).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return str(file)


@pytest.fixture(scope="module")
def deployment(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Model, endpoint, deployment and traffic, from the documents' YAML files."""
    import torch
    from azure.ai.ml import load_online_deployment, load_online_endpoint
    from azure.ai.ml.entities import Model

    from amlocal.trainers.checkpoints import plain
    from amlocal.trainers.export import mlflow_model
    from amlocal.trainers.models.network import rebuild

    folder = tmp_path_factory.mktemp("seed")
    torch.manual_seed(4)
    network = rebuild("image-classification", "mobilenetv2", len(LABELS), 32, None)
    mlflow_model.write(
        folder / "mlflow-model",
        plain(network.module),
        task="image-classification",
        model_name="mobilenetv2",
        architecture="mobilenetv2_100",
        builder="timm",
        labels=LABELS,
        settings={"valid_resize_size": 36, "valid_crop_size": 32, "train_crop_size": 32},
        run_id="tiny",
    )
    ml_client.models.create_or_update(
        Model(name="od-fridge-items-mlflow-model", path=str(folder / "mlflow-model"), type="mlflow_model")
    )
    for name, text in (("create_endpoint.yml", ENDPOINT), ("create_deployment.yml", DEPLOYMENT)):
        (folder / name).write_text(text)
    ml_client.online_endpoints.begin_create_or_update(
        load_online_endpoint(str(folder / "create_endpoint.yml"))
    ).result()
    made = load_online_deployment(str(folder / "create_deployment.yml"))
    ml_client.online_deployments.begin_create_or_update(made).result()
    endpoint = ml_client.online_endpoints.get("od-fridge-items-endpoint")
    endpoint.traffic = {"od-fridge-items-mlflow-deploy": 100}
    ml_client.online_endpoints.begin_create_or_update(endpoint).result()
    return made


def invoke(ml_client: Any, deployment: Any, folder: Path, data: list[Any]) -> Any:
    request_file_name = str(folder / "sample_request_data.json")
    request_json = {"input_data": {"columns": ["image"], "data": data}}
    with open(request_file_name, "w") as request_file:
        json.dump(request_json, request_file)
    resp = ml_client.online_endpoints.invoke(
        endpoint_name="od-fridge-items-endpoint",
        deployment_name=deployment.name,
        request_file=request_file_name,
    )
    return json.loads(resp)


def test_the_forms_of_a_request_agree(
    ml_client: Any, deployment: Any, sample_image: str, tmp_path: Path
) -> None:
    broken = base64.encodebytes(read_image(sample_image)).decode("utf-8")
    whole = base64.b64encode(read_image(sample_image)).decode("utf-8")
    assert "\n" in broken.strip()
    plain_json = json.dumps({"image_base64": broken, "model_explainability": False})
    (first,) = invoke(ml_client, deployment, tmp_path, [broken])
    assert first["labels"] == LABELS and sum(first["probs"]) == pytest.approx(1.0, abs=1e-4)
    for data in ([whole], [[broken]], [[whole]], [plain_json]):
        (answer,) = invoke(ml_client, deployment, tmp_path, data)
        assert answer["labels"] == LABELS
        assert answer["probs"] == pytest.approx(first["probs"], abs=1e-2)
    assert len(invoke(ml_client, deployment, tmp_path, [[broken], [whole], [broken]])) == 3


def test_what_is_no_image_is_told_by_row(
    ml_client: Any, deployment: Any, sample_image: str, tmp_path: Path
) -> None:
    from azure.core.exceptions import HttpResponseError

    whole = base64.b64encode(read_image(sample_image)).decode("utf-8")
    for cell in ("@@@", base64.b64encode(b"no image").decode(), whole[: len(whole) // 2], ""):
        with pytest.raises(HttpResponseError, match="row 1, column 'image': "):
            invoke(ml_client, deployment, tmp_path, [whole, cell])


def test_explanations_are_refused_by_name(
    ml_client: Any, deployment: Any, sample_image: str, tmp_path: Path
) -> None:
    from azure.core.exceptions import HttpResponseError

    row = {
        "image_base64": base64.encodebytes(read_image(sample_image)).decode("utf-8"),
        "model_explainability": True,
        "xai_parameters": {"xai_algorithm": "xrai", "visualizations": True, "attributions": False},
    }
    with pytest.raises(HttpResponseError, match="model_explainability") as caught:
        invoke(ml_client, deployment, tmp_path, [json.dumps(row)])
    # As Azure shows every answer of a model other than 200; the header has the model's own status.
    assert caught.value.status_code == 424
    assert caught.value.response.headers["ms-azureml-model-error-statuscode"] == "400"


def test_initial_delay_is_no_wait(ml_client: Any, deployment: Any) -> None:
    found = ml_client.online_deployments.get(deployment.name, "od-fridge-items-endpoint")
    assert found.readiness_probe.initial_delay == found.liveness_probe.initial_delay == 2000
    assert found.provisioning_state == "Succeeded"
    # Requests were taken as soon as the model was loaded, at its first start: not 2,000 s later, and not one
    # period of the probe (10 s) either.
    lines = ml_client.online_deployments.get_logs(
        deployment.name, "od-fridge-items-endpoint", lines=1000
    ).splitlines()
    (loaded,) = [line for line in lines if re.match(r"\S+ ready after ", line)]
    (taken,) = [line for line in lines if "ready: requests are taken" in line]
    begin, end = (datetime.fromisoformat(line.partition(" ")[0]) for line in (loaded, taken))
    assert 0 <= (end - begin).total_seconds() < READY_WITHIN
