"""Online deployments by the SDK: scripts, updates without a lost request, failures, and refusals."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

from amlocal.emulator.jobs.engines import capacity

SCORE = """
import json, os, sys, time
def init():
    global words
    folder = os.environ["AZUREML_MODEL_DIR"]
    words = {name: open(os.path.join(root, name)).read()
             for root, _, names in os.walk(folder) for name in names}
    words["top"] = sorted(os.listdir(folder))
    print("init of process", os.getpid(), flush=True)
    if os.environ.get("FAULT"):
        raise RuntimeError("the weights are " + os.environ["FAULT"])
    if os.environ.get("DEADLY"):
        os._exit(7)
def run(raw):
    if json.loads(raw).get("die"):
        os._exit(3)
    time.sleep(json.loads(raw).get("sleep", 0))
    return {"version": os.environ.get("VERSION"), "pid": os.getpid(), "words": words,
            "python": sys.executable, "cwd": os.getcwd(), "threads": os.environ.get("OMP_NUM_THREADS")}
"""
ENDPOINT = "scripted"


class Desk:
    """One endpoint, a model of one file and the folder of a script."""

    def __init__(self, client: Any, server: Any, folder: Path) -> None:
        from azure.ai.ml.entities import ManagedOnlineEndpoint, Model

        self.client, self.server = client, server
        self.code = folder / "code"
        self.code.mkdir()
        (self.code / "score.py").write_text(SCORE)
        self.weights = folder / "weights"
        self.weights.mkdir()
        (self.weights / "a.txt").write_text("heavy")
        (self.weights / "deep").mkdir()
        (self.weights / "deep" / "b.txt").write_text("light")
        self.model = client.models.create_or_update(
            Model(name="weights", path=str(self.weights), type="custom_model")
        )
        client.online_endpoints.begin_create_or_update(
            ManagedOnlineEndpoint(name=ENDPOINT, auth_mode="key")
        ).result()
        self.uri = client.online_endpoints.get(ENDPOINT).scoring_uri
        self.key = client.online_endpoints.get_keys(ENDPOINT).primary_key

    def entity(self, name: str = "blue", **more: Any) -> Any:
        from azure.ai.ml.entities import CodeConfiguration, ManagedOnlineDeployment

        values: dict[str, Any] = {
            "model": self.model.id,
            "code_configuration": CodeConfiguration(code=str(self.code), scoring_script="score.py"),
            "instance_type": "Standard_DS3_v2",
            "instance_count": 1,
            "environment_variables": {"VERSION": "1"},
        }
        return ManagedOnlineDeployment(name=name, endpoint_name=ENDPOINT, **{**values, **more})

    def deploy(self, name: str = "blue", **more: Any) -> Any:
        return self.client.online_deployments.begin_create_or_update(self.entity(name, **more)).result()

    def ask(self, name: str = "blue", **body: Any) -> tuple[int, Any]:
        import requests

        answer = requests.post(
            self.uri,
            json=body,
            headers={"Authorization": f"Bearer {self.key}", "azureml-model-deployment": name},
            verify=str(self.server.folder.tls / "bundle.pem"),
            timeout=60,
        )
        return answer.status_code, answer.json() if answer.ok else answer.text

    def pids(self, name: str = "blue") -> dict[int, str | None]:
        """The processes that answer two requests at the same time, and OMP_NUM_THREADS of each."""
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: self.ask(name, sleep=0.3), range(2)))
        return {answer["pid"]: answer["threads"] for status, answer in answers if status == 200}

    def logs(self, name: str = "blue", **more: Any) -> str:
        return str(self.client.online_deployments.get_logs(name, ENDPOINT, lines=200, **more))

    def state(self, name: str = "blue") -> str:
        state = self.client.online_deployments.get(name, ENDPOINT).provisioning_state
        return str(getattr(state, "value", state))


@pytest.fixture(scope="module")
def desk(ml_client: Any, server: Any, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(ml_client, server, tmp_path_factory.mktemp("scripted"))


def test_a_script_finds_its_model_and_its_code(desk: Desk) -> None:
    from azure.ai.ml.entities import OnlineRequestSettings, ProbeSettings

    # The grace of the documented example: 2000 seconds, of which none is waited.
    probe = ProbeSettings(failure_threshold=30, success_threshold=1, timeout=2, period=10, initial_delay=2000)
    made = desk.deploy(
        liveness_probe=probe,
        readiness_probe=probe,
        request_settings=OnlineRequestSettings(
            request_timeout_ms=90_000, max_concurrent_requests_per_instance=4, max_queue_wait_ms=700
        ),
    )
    assert made.provisioning_state == "Succeeded" and made.readiness_probe == probe
    assert made.request_settings.request_timeout_ms == 90_000
    status, answer = desk.ask()
    assert status == 200 and answer["version"] == "1"
    assert answer["words"] == {"a.txt": "heavy", "b.txt": "light", "top": ["weights"]}
    assert answer["cwd"].endswith("code")
    storage = desk.logs(container_type="storage-initializer")
    assert "weights:1 is read in place" in storage and "2 files, 10 bytes" in storage
    assert "environment host:1 runs in Python" in storage
    assert "init of process" in desk.logs()
    assert made.properties["azureml.runtimeEnvironment"] == "host:1"


def test_the_count_changes_and_what_runs_goes_on(desk: Desk) -> None:
    desk.deploy("scaled")
    (first,) = desk.pids("scaled")
    assert desk.deploy("scaled", instance_count=2).instance_count == 2
    both = wait_for(lambda: len(found := desk.pids("scaled")) == 2 and found, 20, "two instances")
    assert first in both
    (gone,) = both.keys() - {first}
    # Two share the processors; the first keeps running as it is.
    alone = os.environ.get("OMP_NUM_THREADS")
    assert both == {first: alone, gone: alone or str(max(1, capacity.cpus() // 2))}
    desk.deploy("scaled", instance_count=1)
    assert desk.pids("scaled").keys() == {first}
    wait_for(lambda: not Path(f"/proc/{gone}").exists(), 20, "the end of the second instance")


def test_an_update_loses_no_request(desk: Desk) -> None:
    desk.deploy("moving")
    failed: list[Any] = []
    seen: set[str] = set()
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            status, answer = desk.ask("moving")
            if status == 200:
                seen.add(answer["version"])
            elif status != 429:  # one request at a time and two waiting are the deployment's limits
                failed.append((status, answer))

    threads = [threading.Thread(target=client) for _ in range(2)]
    for thread in threads:
        thread.start()
    desk.deploy("moving", environment_variables={"VERSION": "2"})
    wait_for(lambda: "2" in seen, 20, "an answer of the new version")
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == [] and seen == {"1", "2"}


def test_a_failed_update_leaves_the_old_version(desk: Desk) -> None:
    from azure.core.exceptions import HttpResponseError

    desk.deploy("kept")
    with pytest.raises(HttpResponseError, match="the weights are gone") as caught:
        desk.deploy("kept", environment_variables={"FAULT": "gone"})
    assert "goes on serving" in str(caught.value) and caught.value.error.code == "ResourceNotReady"
    assert desk.state("kept") == "Failed"
    assert desk.ask("kept")[1]["version"] == "1"
    desk.deploy("kept", environment_variables={"VERSION": "3"})
    assert desk.state("kept") == "Succeeded" and desk.ask("kept")[1]["version"] == "3"


def test_what_dies_while_loading_is_given_up(desk: Desk) -> None:
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError, match="ended with exit code 7") as caught:
        desk.deploy("deadly", environment_variables={"DEADLY": "1"})
    assert caught.value.error.code == "ResourceNotReady" and "init of process" in str(caught.value)
    assert desk.state("deadly") == "Failed"
    assert desk.logs("deadly").count("exit code 7") >= 3
    desk.client.online_deployments.begin_delete("deadly", ENDPOINT).result()


def test_a_crashed_scorer_comes_back(desk: Desk) -> None:
    desk.deploy("fragile")
    (first,) = desk.pids("fragile")
    status, _ = desk.ask("fragile", die=True)
    assert status in (424, 503)
    answer = wait_for(lambda: (got := desk.ask("fragile"))[0] == 200 and got[1], 30, "the scorer")
    assert answer["pid"] != first
    os.kill(answer["pid"], signal.SIGKILL)
    wait_for(
        lambda: (got := desk.ask("fragile"))[0] == 200 and got[1]["pid"] != answer["pid"], 30, "the scorer"
    )
    logs = desk.logs("fragile")
    assert f"(process {first}) ended with exit code 3; it is started again in" in logs
    assert f"(process {answer['pid']}) was killed by signal 9 (SIGKILL)" in logs


REFUSED: dict[str, tuple[Callable[[Desk], dict[str, Any]], int, str]] = {
    "a custom model without code": (lambda d: {"code_configuration": None}, 400, "code_configuration="),
    "nothing": (lambda d: {"code_configuration": None, "model": None}, 400, "needs a model or code"),
    "too many instances": (lambda d: {"instance_count": 51}, 400, "from 1 to 50"),
    "no network": (lambda d: {"egress_public_network_access": "disabled"}, 501, "egress_public_network"),
    "a mount path": (lambda d: {"model_mount_path": "/var/models"}, 501, "model_mount_path"),
    "an unknown environment": (lambda d: {"environment": "azureml:none-such:1"}, 400, "none-such"),
    "a variable's name": (lambda d: {"environment_variables": {"A=B": "1"}}, 400, "has no '='"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(desk: Desk, what: str) -> None:
    from azure.core.exceptions import HttpResponseError

    more, status, words = REFUSED[what]
    with pytest.raises(HttpResponseError) as caught:
        desk.deploy("refused", **more(desk))
    assert caught.value.status_code == status and words in str(caught.value)
    assert "refused" not in [one.name for one in desk.client.online_deployments.list(ENDPOINT)]


def test_refused_by_rest(desk: Desk) -> None:
    path = f"{desk.server.workspace_path}/onlineEndpoints/{ENDPOINT}/deployments"
    model = desk.model.id

    def put(name: str = "refused", **properties: Any) -> tuple[int, str]:
        body = {"location": "local", "properties": {"endpointComputeType": "Managed", **properties}}
        status, answer = desk.server.call("PUT", f"{path}/{name}?api-version=2023-10-01", body)
        return status, json.dumps(answer)

    code_id = f"{desk.server.workspace_path}/codes/none/versions/1"
    for properties, status, words in (
        ({"codeConfiguration": {"codeId": code_id, "scoringScript": "s.py"}}, 400, "no such code asset"),
        ({"codeConfiguration": {"codeId": code_id}}, 400, "scoring_script"),
        ({"codeConfiguration": []}, 400, "must be an object"),
        ({"requestSettings": {"requestTimeout": "PT181S"}}, 400, "180000"),
        ({"requestSettings": {"requestTimeout": "P1Y"}}, 400, "not a duration"),
        ({"livenessProbe": {"period": "PT0S"}}, 400, "period"),
        ({"readinessProbe": {"failureThreshold": 0}}, 400, "failure_threshold"),
        ({"scaleSettings": {"scaleType": "TargetUtilization"}}, 400, "instance_count"),
        ({"endpointComputeType": "Kubernetes"}, 501, "Kubernetes"),
        ({"dataCollector": {"collections": {"a": {"dataCollectionMode": "Enabled"}}}}, 501, "data_coll"),
        ({"model": 3}, 400, "model"),
        ({"model": "azureml:none:1"}, 404, "none:1"),
    ):
        # What is wrong with the settings is told although code is missing, or not: never a 500.
        got, text = put(**{"model": model, **properties})
        expected = {status} if "codeConfiguration" in properties or status != 400 else {400}
        assert got in expected and (words in text or "code_configuration=" in text), (properties, text)
    for name in ("ab", "1abc", "a_b_c", "abc-", "a" * 33):
        assert put(name, model=model)[0] == 400
