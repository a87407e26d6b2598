"""`python deploy_model.py MODEL CONCURRENCY` in a client's environment: deploys it as a user would.

Prints a JSON line: scoring_uri, key, the engine that the deployment chose, and the seconds from accepted to
ready.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time


def main(folder: str, concurrency: int) -> None:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import (
        ManagedOnlineDeployment,
        ManagedOnlineEndpoint,
        Model,
        OnlineRequestSettings,
    )
    from azure.identity import DefaultAzureCredential

    names = ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME")
    client = MLClient(DefaultAzureCredential(), *(os.environ[name] for name in names))
    model = client.models.create_or_update(Model(name="bench", path=folder, type="mlflow_model"))
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="bench")).result()
    poller = client.online_deployments.begin_create_or_update(
        ManagedOnlineDeployment(
            name="blue",
            endpoint_name="bench",
            model=model.id,
            instance_type="Standard_DS3_v2",
            instance_count=1,
            request_settings=OnlineRequestSettings(
                request_timeout_ms=60_000, max_concurrent_requests_per_instance=concurrency
            ),
        )
    )
    accepted = time.perf_counter()
    # The SDK's poller asks every few seconds; each question takes CPU time from the start that is measured.
    while client.online_deployments.get("blue", "bench").provisioning_state != "Succeeded":
        time.sleep(0.2)
    ready = time.perf_counter() - accepted
    poller.result()
    endpoint = client.online_endpoints.get("bench")
    endpoint.traffic = {"blue": 100}
    endpoint = client.online_endpoints.begin_create_or_update(endpoint).result()
    key = client.online_endpoints.get_keys("bench").primary_key
    log = client.online_deployments.get_logs("blue", "bench", lines=500)
    engine = re.findall(r"engine (\w+): answers differ", log)[-1]
    found = {"scoring_uri": endpoint.scoring_uri, "key": key, "engine": engine, "seconds": ready}
    # The SDK leaves its dots of progress on an open line.
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
