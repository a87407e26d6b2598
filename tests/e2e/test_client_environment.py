"""Pointing a client: nothing that a client does may reach another machine, whatever its environment was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Runs in front of a client's program: notes and refuses every connection that is not to this machine.
WATCH = """
import atexit, json, os, socket, sys
seen = []
real_connect, real_lookup = socket.socket.connect, socket.getaddrinfo
LOCAL = ("127.0.0.1", "::1", "localhost", None, "0.0.0.0", "")
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
        seen.append(str(address)); raise OSError("refused by the test")
    return real_connect(self, address)
def lookup(host, *rest, **named):
    name = host.decode() if isinstance(host, bytes) else host
    if name not in LOCAL:
        seen.append(str(name)); raise socket.gaierror("refused by the test")
    return real_lookup(host, *rest, **named)
socket.socket.connect, socket.getaddrinfo = connect, lookup
socket.socket.connect_ex = lambda self, address: (connect(self, address), 0)[1]
atexit.register(lambda: open(os.environ["WATCH_FILE"], "w").write(json.dumps(seen)))
"""

LIST_JOBS = """
import os
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
                  os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
print("workspace", client.workspaces.get(os.environ["AZUREML_WORKSPACE_NAME"]).name)
print("stores", sorted(d.name for d in client.datastores.list()))
"""

REAL_SECRETS = {
    "AZURE_CLIENT_ID": "11111111-1111-1111-1111-111111111111",
    "AZURE_CLIENT_SECRET": "a-real-secret",
    "AZURE_TENANT_ID": "22222222-2222-2222-2222-222222222222",
    "AZURE_USERNAME": "someone",
    "AZURE_PASSWORD": "a-real-password",
    "MSI_ENDPOINT": "http://169.254.169.254/msi",
    "MSI_SECRET": "a-real-secret",
}


def run_client(env: dict[str, str], tmp_path: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The program's end, and the outside addresses that it asked for."""
    watch = tmp_path / "watch.json"
    done = subprocess.run(
        [sys.executable, "-c", WATCH + LIST_JOBS],
        env={**env, "WATCH_FILE": str(watch)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done, json.loads(watch.read_text())


def shell_environment(server: Any, before: dict[str, str]) -> dict[str, str]:
    """The environment after `eval "$(amlocal env)"` in a shell that has `before`."""
    script = (
        f'eval "$({sys.executable} -m amlocal.emulator.cli env --data-dir {server.root})" && '
        f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    )
    done = subprocess.run(["sh", "-c", script], env=before, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({}, id="plain"),
        pytest.param(REAL_SECRETS, id="real-secrets"),
        pytest.param(
            {
                "HTTPS_PROXY": "http://127.0.0.1:9",
                "https_proxy": "http://127.0.0.1:9",
                "HTTP_PROXY": "http://127.0.0.1:9",
                "NO_PROXY": "intranet.example",
            },
            id="dead-proxy",
        ),
    ],
)
def test_a_client_reaches_this_machine_only(
    server: Any, blank_environment: dict[str, str], extra: dict[str, str], tmp_path: Path
) -> None:
    env = shell_environment(server, {**blank_environment, **extra})
    for name in ("AZURE_CLIENT_SECRET", "AZURE_PASSWORD", "MSI_ENDPOINT", "MSI_SECRET"):
        assert name not in env
    if "NO_PROXY" in extra:
        assert env["NO_PROXY"].split(",")[:2] == ["intranet.example", "localhost"]
    done, outside = run_client(env, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "workspace local" in done.stdout
    assert "'workspaceartifactstore', 'workspaceblobstore'" in done.stdout
    assert outside == []


def test_with_the_server_stopped_nothing_goes_outside(
    new_server: Callable[[], Any], blank_environment: dict[str, str], tmp_path: Path
) -> None:
    server = new_server()
    server.start()
    env = shell_environment(server, {**blank_environment, **REAL_SECRETS})
    server.stop()
    done, outside = run_client(env, tmp_path)
    assert done.returncode != 0
    assert outside == []
    assert "management.azure.com" not in done.stdout + done.stderr


@pytest.mark.parametrize("format", ["sh", "fish", "powershell", "dotenv", "json"])
def test_formats_name_the_server(server: Any, format: str) -> None:
    done = server.command("env", "--data-dir", str(server.root), "--format", format)
    assert done.returncode == 0
    assert f"{server.base_url}/metadata/endpoints" in done.stdout
    assert "AZURE_CLIENT_SECRET" in done.stdout
    assert done.stderr == ""


def test_dotenv_is_read_back_as_it_was(server: Any) -> None:
    dotenv = pytest.importorskip("dotenv")
    import io

    text = server.command("env", "--data-dir", str(server.root), "--format", "dotenv").stdout
    read = dotenv.dotenv_values(stream=io.StringIO(text))
    assert read["REQUESTS_CA_BUNDLE"] == str(server.root / "tls" / "bundle.pem")
    assert read["AZURE_CLIENT_SECRET"] == ""


def test_run_gives_a_command_a_server_and_leaves_nothing(
    blank_environment: dict[str, str], tmp_path: Path
) -> None:
    program = (
        LIST_JOBS + "import sys\n"
        "open(sys.argv[1], 'w').write(os.environ['REQUESTS_CA_BUNDLE'])\n"
        "sys.exit(7)\n"
    )
    note = tmp_path / "bundle.txt"
    done = subprocess.run(
        [
            sys.executable, "-m", "amlocal.emulator.cli", "run", "--workspace", "my-sub/my-group/my-space",
            "--", sys.executable, "-c", program, str(note),
        ],
        env=blank_environment, capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert "workspace my-space" in done.stdout
    bundle = Path(note.read_text())
    assert not bundle.exists() and not bundle.parent.parent.exists()
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(bundle.parent.parent) not in left


def test_run_tells_what_it_cannot_run(blank_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "amlocal.emulator.cli", "run", "--", "no-such-program-here"],
        env=blank_environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot run 'no-such-program-here'" in done.stderr
