"""Online endpoints and deployments by the SDK: lists, keys, invoke, logs and deletion, and how each fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

# An MLflow model that counts what it has been told, written by hand: nothing is trained.
MLMODEL = "flavors:\n  python_function:\n    loader_module: counting_model\n    code: code\n"
CODE = """
class Counting:
    def predict(self, frame, params=None):
        print("counted", len(frame), flush=True)
        return [len(frame)]


def _load_pyfunc(path):
    return Counting()
"""


@pytest.fixture(scope="module")
def model(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from azure.ai.ml.entities import Model

    folder = tmp_path_factory.mktemp("counting")
    (folder / "code").mkdir()
    (folder / "MLmodel").write_text(MLMODEL)
    (folder / "code" / "counting_model.py").write_text(CODE)
    return ml_client.models.create_or_update(Model(name="counting", path=str(folder), type="mlflow_model"))


def deployment(model: str, **more: Any) -> Any:
    from azure.ai.ml.entities import ManagedOnlineDeployment

    values = {
        "name": "blue",
        "endpoint_name": "counts",
        "instance_type": "Standard_DS3_v2",
        "instance_count": 1,
    }
    return ManagedOnlineDeployment(model=model, **{**values, **more})


def test_an_endpoint_and_its_deployment(
    ml_client: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint
    from azure.ai.ml.exceptions import ValidationException
    from azure.core.exceptions import ResourceNotFoundError
    from azure.core.pipeline.transport import HttpTransport

    ml_client.online_endpoints.begin_create_or_update(
        ManagedOnlineEndpoint(name="counts", auth_mode="key", tags={"a": "b"})
    ).result()
    assert ml_client.online_endpoints.get("counts").tags == {"a": "b"}
    assert "counts" in [e.name for e in ml_client.online_endpoints.list()]
    assert list(ml_client.online_deployments.list("counts")) == []
    with monkeypatch.context() as patch:
        waits: list[float] = []
        sleep = HttpTransport.sleep
        patch.setattr(HttpTransport, "sleep", lambda self, s: (waits.append(s), sleep(self, s)))
        ml_client.online_deployments.begin_create_or_update(deployment(model.id)).result()
    # MLflow takes seconds to load a model; the SDK asks five times in each.
    assert waits and set(waits) == {0.2}
    assert [d.name for d in ml_client.online_deployments.list("counts")] == ["blue"]
    assert ml_client.online_deployments.get("blue", "counts").model == model.id

    request = tmp_path / "request.json"
    request.write_text(json.dumps({"input_data": {"columns": ["x"], "index": [0, 1], "data": [[1], [2]]}}))

    def count(**more: Any) -> Any:
        return json.loads(
            ml_client.online_endpoints.invoke(endpoint_name="counts", request_file=str(request), **more)
        )

    assert count(deployment_name="blue") == [2]
    assert "counted 2" in ml_client.online_deployments.get_logs("blue", "counts", lines=100)
    with pytest.raises(ValidationException, match="Deployment name green not found"):
        count(deployment_name="green")
    with pytest.raises(ResourceNotFoundError, match="no-endpoint"):
        ml_client.online_endpoints.invoke(endpoint_name="no-endpoint", request_file=str(request))

    before = ml_client.online_endpoints.get_keys("counts")
    ml_client.online_endpoints.begin_regenerate_keys("counts", key_type="secondary").result()
    after = ml_client.online_endpoints.get_keys("counts")
    assert after.primary_key == before.primary_key and after.secondary_key != before.secondary_key

    ml_client.online_deployments.begin_delete("blue", "counts").result()
    assert list(ml_client.online_deployments.list("counts")) == []
    with pytest.raises(ResourceNotFoundError, match="blue"):
        ml_client.online_deployments.get("blue", "counts")
    with pytest.raises(ResourceNotFoundError, match="blue"):
        ml_client.online_deployments.get_logs("blue", "counts", lines=10)
    ml_client.online_endpoints.begin_delete("counts").result()
    assert "counts" not in [e.name for e in ml_client.online_endpoints.list()]


def test_endpoints_that_are_refused(ml_client: Any) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    with pytest.raises(HttpResponseError, match="red") as caught:
        ml_client.online_endpoints.begin_create_or_update(
            ManagedOnlineEndpoint(name="refused-by-token", auth_mode="aml_token", traffic={"red": 100})
        ).result()
    assert (caught.value.status_code, caught.value.error.code) == (400, "InvalidTraffic")
    for read in (
        lambda: ml_client.online_endpoints.get("refused-by-token"),
        lambda: ml_client.online_endpoints.get_keys("refused-by-token"),
        lambda: ml_client.online_endpoints.begin_regenerate_keys("refused-by-token").result(),
    ):
        with pytest.raises(ResourceNotFoundError, match="refused-by-token") as missing:
            read()
        assert missing.value.error.code == "ResourceNotFound"
    with pytest.raises(HttpResponseError, match="not a valid name") as invalid:
        ml_client.online_endpoints.begin_delete("by--token").result()
    assert (invalid.value.status_code, invalid.value.error.code) == (400, "InvalidResourceName")


def test_deployments_that_are_refused(ml_client: Any, model: Any) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError, match="no-endpoint"):
        ml_client.online_deployments.begin_create_or_update(
            deployment(model.id, endpoint_name="no-endpoint")
        ).result()
    ml_client.online_endpoints.begin_create_or_update(
        ManagedOnlineEndpoint(name="refusing", auth_mode="key")
    ).result()
    with pytest.raises(HttpResponseError, match="counting:99"):
        ml_client.online_deployments.begin_create_or_update(
            deployment("azureml:counting:99", endpoint_name="refusing")
        ).result()
    assert list(ml_client.online_deployments.list("refusing")) == []
