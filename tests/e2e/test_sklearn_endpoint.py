"""A scikit-learn model, logged and registered by MLflow's own client, behind an endpoint without any code."""

from __future__ import annotations

from typing import Any

import pytest
from endpoint_desk import deployment, endpoint, score

NAME = "till-prices"


@pytest.fixture(scope="module")
def model(ml_client: Any, server: Any) -> Any:
    """A pickled linear model of two columns: price = 2 beans + 3 milk + 1."""
    import mlflow
    import mlflow.sklearn
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    frame = pd.DataFrame({"beans": [0.0, 1.0, 0.0, 1.0], "milk": [0.0, 0.0, 1.0, 1.0]})
    fitted = LinearRegression().fit(frame, [1.0, 3.0, 4.0, 6.0])
    mlflow.set_tracking_uri(f"{server.base_url}/mlflow/v1.0{server.workspace_path}")
    mlflow.set_experiment("of-the-till")
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(
            fitted,
            name="till",
            registered_model_name=NAME,
            signature=mlflow.models.infer_signature(frame, fitted.predict(frame)),
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
        )
    assert str(info.registered_model_version) == "1"
    return fitted


def test_it_answers(ml_client: Any, model: Any) -> None:
    endpoint(ml_client, NAME)
    made = deployment(NAME, "blue", f"azureml:{NAME}:1")
    ml_client.online_deployments.begin_create_or_update(made).result()
    found = ml_client.online_deployments.get("blue", NAME)
    assert found.provisioning_state == "Succeeded" and found.model.endswith(f"/models/{NAME}/versions/1")
    uri = ml_client.online_endpoints.get(NAME).scoring_uri
    key = ml_client.online_endpoints.get_keys(NAME).primary_key

    def ask(**table: Any) -> Any:
        return score(uri, key, json={"input_data": table}, headers=headers)

    headers = {"Authorization": f"Bearer {key}", "azureml-model-deployment": "blue"}
    answer = ask(columns=["milk", "beans"], index=[0, 1], data=[[1.0, 0.0], [2.0, 10.0]])
    assert (answer.status_code, answer.json()) == (200, pytest.approx([4.0, 27.0]))
    bad = ask(columns=["beans"], index=[0], data=[[1.0]])
    assert bad.status_code == 424 and "column 'milk' is missing" in bad.json()["error"]["message"]
    assert bad.headers["ms-azureml-model-error-statuscode"] == "400"
