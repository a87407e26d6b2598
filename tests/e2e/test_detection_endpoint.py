"""The documents' scoring snippet for detectors: boxes and outlines from an endpoint, on a tiny model."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import endpoint_desk as desk
import pytest

ENDPOINT, DEPLOYMENT, MODEL = "is-fridge-items", "is-fridge-mlflow", "is-fridge-items-mlflow-model"
LABELS = ["can", "carton", "milk_bottle", "water_bottle"]
TASK, NETWORK = "image-instance-segmentation", "maskrcnn_resnet18_fpn"
PARAMETERS = {
    "min_size": 64,
    "max_size": 96,
    "box_score_threshold": 0.05,
    "nms_iou_threshold": 0.5,
    "box_detections_per_image": 5,
}
POINTS = 12


def picture(width: int, height: int) -> bytes:
    import numpy as np
    from PIL import Image

    spots = np.random.default_rng(width).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def deployment(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random Mask R-CNN, registered and deployed as the documents do it, with settings.json edited."""
    import torch
    from azure.ai.ml.entities import Model

    from amlocal.compat import names
    from amlocal.trainers.checkpoints import plain
    from amlocal.trainers.export import mlflow_model
    from amlocal.trainers.models.network import rebuild

    torch.manual_seed(4)
    network = rebuild(TASK, NETWORK, len(LABELS), PARAMETERS, None)
    # Untrained masks are even; these have spots.
    logits = network.module.roi_heads.mask_predictor.mask_fcn_logits
    torch.nn.init.normal_(logits.weight)
    folder = tmp_path_factory.mktemp("detector") / "mlflow-model"
    rows = names.hyperparameters(TASK)
    mlflow_model.write(
        folder,
        plain(network.module),
        task=TASK,
        model_name=NETWORK,
        architecture=NETWORK,
        builder="torchvision",
        labels=LABELS,
        settings={rows[name].trainer: value for name, value in PARAMETERS.items()},
        run_id="tiny",
    )
    settings = folder / "artifacts" / "settings.json"
    edited = json.loads(settings.read_text()) | {"max_number_of_polygon_points": POINTS}
    settings.write_text(json.dumps(edited))
    ml_client.models.create_or_update(Model(name=MODEL, path=str(folder), type="mlflow_model"))
    desk.endpoint(ml_client, ENDPOINT)
    made = desk.deployment(ENDPOINT, DEPLOYMENT, f"azureml:{MODEL}@latest")
    ml_client.online_deployments.begin_create_or_update(made).result()
    desk.route(ml_client, ENDPOINT, {DEPLOYMENT: 100})
    return made


def invoke(ml_client: Any, folder: Path, data: list[Any]) -> Any:
    request_file_name = str(folder / "sample_request_data.json")
    request_json = {"input_data": {"columns": ["image"], "data": data}}
    with open(request_file_name, "w") as request_file:
        json.dump(request_json, request_file)
    resp = ml_client.online_endpoints.invoke(
        endpoint_name=ENDPOINT, deployment_name=DEPLOYMENT, request_file=request_file_name
    )
    return json.loads(resp)


def test_boxes_and_outlines_are_answered_in_the_documented_form(
    ml_client: Any, deployment: Any, tmp_path: Path
) -> None:
    pictures = [picture(120, 80), picture(60, 90)]
    encoded = [base64.encodebytes(one).decode("utf-8") for one in pictures]
    found = invoke(ml_client, tmp_path, encoded)
    assert [list(one) for one in found] == [["boxes"]] * 2
    assert all(0 < len(one["boxes"]) <= PARAMETERS["box_detections_per_image"] for one in found)
    points = []
    for box in (box for one in found for box in one["boxes"]):
        assert list(box) == ["box", "label", "score", "polygon"]
        assert box["label"] in LABELS
        assert PARAMETERS["box_score_threshold"] < box["score"] <= 1
        place = box["box"]
        assert list(place) == ["topX", "topY", "bottomX", "bottomY"]
        assert 0 <= place["topX"] < place["bottomX"] <= 1
        assert 0 <= place["topY"] < place["bottomY"] <= 1
        for part in box["polygon"]:
            assert len(part) % 2 == 0
            assert all(0 <= number <= 1 for number in part)
            points.append(len(part) // 2)
    assert 3 <= max(points) <= POINTS
    # One image gets the same answer alone, and as Azure's samples nest it.
    (alone,) = invoke(ml_client, tmp_path, [[encoded[1]]])
    assert [box["label"] for box in alone["boxes"]] == [box["label"] for box in found[1]["boxes"]]
    for one, other in zip(alone["boxes"], found[1]["boxes"], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)


def test_what_is_no_image_is_named_by_its_row(ml_client: Any, deployment: Any, tmp_path: Path) -> None:
    from azure.core.exceptions import HttpResponseError

    good = base64.b64encode(picture(64, 64)).decode()
    with pytest.raises(HttpResponseError, match="row 1") as caught:
        invoke(ml_client, tmp_path, [good, base64.b64encode(b"nothing").decode()])
    assert caught.value.response.headers["ms-azureml-model-error-statuscode"] == "400"
    assert len(invoke(ml_client, tmp_path, [good])) == 1


def test_swagger_says_what_a_box_is(ml_client: Any, deployment: Any) -> None:
    import requests

    uri = ml_client.online_endpoints.get(ENDPOINT).scoring_uri
    key = ml_client.online_endpoints.get_keys(ENDPOINT).primary_key
    answer = requests.get(
        uri.replace("/score", "/swagger.json"), headers={"Authorization": f"Bearer {key}"}, timeout=60
    )
    assert answer.status_code == 200
    text = json.dumps(answer.json())
    assert all(f'"{name}"' in text for name in ("boxes", "topX", "bottomY", "label", "score", "polygon"))
