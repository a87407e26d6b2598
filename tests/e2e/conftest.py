"""Servers for end-to-end tests, and the real SDK pointed at them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from amlocal.compat import environment
from amlocal.emulator.cli import instance
from amlocal.emulator.store.folder import DataFolder

AMLOCAL = [sys.executable, "-m", "amlocal.emulator.cli"]


@dataclass
class Server:
    """One server of a test: started, killed and started again on one data folder."""

    root: Path
    port: int

    @property
    def folder(self) -> DataFolder:
        return DataFolder(self.root)

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.port}"

    def command(self, *arguments: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*AMLOCAL, *arguments], capture_output=True, text=True, timeout=timeout, check=False
        )

    def start(self) -> None:
        done = self.command("serve", "--data-dir", str(self.root), "--port", str(self.port), "--detach")
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()

    def stop(self) -> None:
        self.command("stop", "--data-dir", str(self.root))

    def logs(self) -> str:
        texts = [path.read_text(errors="replace")[-4000:] for path in self.folder.logs.glob("*.log")]
        return "\n".join(texts)

    def environment(self, workspace: str | None = None) -> dict[str, str]:
        """The whole environment of a client program."""
        arguments = ["env", "--data-dir", str(self.root), "--format", "json"]
        if workspace:
            arguments += ["--workspace", workspace]
        done = self.command(*arguments)
        assert done.returncode == 0, done.stderr
        values = json.loads(done.stdout)
        kept = {key: value for key, value in os.environ.items() if key not in values["unset"]}
        return {**kept, **values["set"]}

    def user_token(self) -> str:
        from amlocal.emulator.cli.env import user_token

        return user_token(self.folder, self.base_url)

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """One raw call, for what the SDK does not show (status codes, foreign tokens)."""
        return instance.call(
            self.port, self.folder.tls / "ca.pem", method, path, body=body, token=token or self.user_token()
        )

    @property
    def workspace_path(self) -> str:
        return (
            "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local/providers"
            "/Microsoft.MachineLearningServices/workspaces/local"
        )


def wait_for(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    """The first true value of `condition` within `timeout` seconds, or two minutes where that is less: a busy
    machine may stand still for half a minute."""
    timeout = max(timeout, 120.0)
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def sdk_as_new() -> Iterator[None]:
    """After invoke(deployment_name=...) azure-ai-ml sends that header from the whole process: it changes its
    defaults in place. No test is to depend on what another has named."""
    yield
    fields = getattr(sys.modules.get("azure.ai.ml.constants._endpoint"), "EndpointInvokeFields", None)
    if fields is not None:
        fields.DEFAULT_HEADER.pop(fields.MODEL_DEPLOYMENT, None)


@pytest.fixture(scope="session")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Server]]:
    """Makes servers (not started); all are stopped and their jobs ended after the session."""
    made: list[Server] = []

    def make() -> Server:
        server = Server(tmp_path_factory.mktemp("server"), instance.free_ports()[0])
        made.append(server)
        return server

    yield make
    from amlocal.emulator.cli.run import stop_jobs

    def end(server: Server) -> None:
        server.stop()
        stop_jobs(server.folder)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(end, made))


@pytest.fixture(scope="session")
def server(new_server: Callable[[], Server]) -> Server:
    """The server that most tests share."""
    server = new_server()
    server.start()
    return server


@pytest.fixture(scope="session")
def client_environment(server: Server) -> Iterator[None]:
    """This process's environment, as `amlocal env` would make it."""
    values = json.loads(server.command("env", "--data-dir", str(server.root), "--format", "json").stdout)
    before = dict(os.environ)
    for key in values["unset"]:
        os.environ.pop(key, None)
    os.environ.update(values["set"])
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def ml_client(client_environment: None) -> Any:
    """The unmodified MLClient on the default workspace."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    return MLClient(
        DefaultAzureCredential(),
        os.environ["AZURE_SUBSCRIPTION_ID"],
        os.environ["AZURE_RESOURCE_GROUP"],
        os.environ["AZUREML_WORKSPACE_NAME"],
    )


@pytest.fixture
def other_client(server: Server, client_environment: None) -> Callable[[str, str, str], Any]:
    """MLClients on workspaces of other names, which are added first."""

    def make(subscription: str, group: str, name: str) -> Any:
        from azure.ai.ml import MLClient
        from azure.identity import DefaultAzureCredential

        done = server.command(
            "workspace", "add", f"{subscription}/{group}/{name}", "--data-dir", str(server.root)
        )
        assert done.returncode == 0, done.stderr
        return MLClient(DefaultAzureCredential(), subscription, group, name)

    return make


@pytest.fixture
def blank_environment() -> dict[str, str]:
    """The environment without anything that points at a server."""
    names = set(environment.UNSET) | {"ARM_CLOUD_METADATA_URL", "AZUREML_CURRENT_CLOUD", "IDENTITY_ENDPOINT"}
    return {key: value for key, value in os.environ.items() if key not in names}
