"""Traffic moves from one deployment to another and the first is deleted, while clients go on asking."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import wait_for
from endpoint_desk import BODY, deployment, endpoint, route, scripted

NAME = "moving"
CLIENTS = 16
REQUESTS = 1000
DEPLOYMENT = "azureml-model-deployment"


@pytest.fixture(scope="module")
def moving(ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Deployments blue and green, each answering with its name; all traffic is blue's. The scoring URI."""
    from azure.ai.ml.entities import OnlineRequestSettings

    endpoint(ml_client, NAME)
    folder = tmp_path_factory.mktemp("moving")
    pollers = []
    for name in ("blue", "green"):
        # Room for all clients at once: a refusal for a full queue (429) is not what this is about.
        settings = OnlineRequestSettings(
            max_concurrent_requests_per_instance=CLIENTS, request_timeout_ms=60_000, max_queue_wait_ms=60_000
        )
        made = deployment(NAME, name, request_settings=settings, **scripted(folder, name))
        pollers.append(ml_client.online_deployments.begin_create_or_update(made))
    for poller in pollers:
        poller.result()
    route(ml_client, NAME, {"blue": 100})
    return str(ml_client.online_endpoints.get(NAME).scoring_uri)


def test_no_request_fails_while_traffic_moves(ml_client: Any, moving: str) -> None:
    import requests

    key = ml_client.online_endpoints.get_keys(NAME).primary_key
    answers: list[tuple[int, str, str]] = []
    left = threading.Semaphore(REQUESTS)
    moved = threading.Event()

    def client(number: int) -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {key}"
            # All requests are sent, and as many more as the move needs to end under load.
            while left.acquire(blocking=False) or not moved.is_set():
                answer = session.post(moving, json=BODY, timeout=60)
                answers.append((answer.status_code, answer.headers.get(DEPLOYMENT, ""), answer.text))

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            wait_for(lambda: len(answers) > 100, 60, "the first answers")
            route(ml_client, NAME, {"blue": 50, "green": 50})
            wait_for(lambda: any(name == "green" for _, name, _ in answers), 60, "green's first answer")
            route(ml_client, NAME, {"blue": 0, "green": 100})
            after = len(answers)
            ml_client.online_deployments.begin_delete("blue", NAME).result()
            wait_for(lambda: len(answers) > after + 100, 60, "answers after the move")
        finally:
            moved.set()
        for done in clients:
            done.result()
    assert len(answers) >= REQUESTS
    assert [answer for answer in answers if answer[0] != 200] == []
    assert all(json.loads(text) == [name] for _, name, text in answers)
    served = Counter(name for _, name, _ in answers)
    assert set(served) == {"blue", "green"} and served["green"] >= 100
    # Once the move was acknowledged only requests that were under way then may still be blue's.
    assert sum(name == "blue" for _, name, _ in answers[after:]) <= CLIENTS
    assert [d.name for d in ml_client.online_deployments.list(NAME)] == ["green"]
