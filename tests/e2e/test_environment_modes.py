"""How environments of jobs are met: strict, interpreters of one's own, virtual environments."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from environment_desk import IMAGE, configure, log_of, own_wheel, put

PROGRAM = """
import json, os, sys, time
from azure.ai.ml import MLClient, command
from azure.ai.ml.entities import BuildContext, Environment
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
                  os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
made, answers = json.loads(sys.argv[1]), {}
for name, (given, line) in made.items():
    if "build" in given:
        given["build"] = BuildContext(path=given["build"])
    try:
        environment = given.pop("use", None) or client.environments.create_or_update(
            Environment(name=name, **given))
        job = client.jobs.create_or_update(command(command=line, environment=environment))
    except HttpResponseError as error:
        answers[name] = {"status": error.status_code, "message": error.message}
        continue
    while job.status not in ("Completed", "Failed", "Canceled"):
        time.sleep(0.2)
        job = client.jobs.get(job.name)
    answers[name] = {"status": job.status, "name": job.name, "properties": dict(job.properties)}
print("ANSWERS" + json.dumps(answers))
"""


def run(server: Any, made: dict[str, Any]) -> dict[str, Any]:
    """Make environments and run one job in each, by the SDK in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(made)],
        env=server.environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + server.logs()
    answers: dict[str, Any] = json.loads(done.stdout.partition("ANSWERS")[2])
    return answers


def test_strict_and_interpreters(new_server: Callable[[], Any], tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "v")], check=True)
    other = tmp_path / "named" / "python3.11"
    other.parent.mkdir()
    other.symlink_to(tmp_path / "v" / "bin" / "python")
    server = new_server()
    python = str(tmp_path / "v" / "bin" / "python")
    configure(
        server,
        strict=True,
        interpreters={"mapped": python, "gone:1": "/no/such/python", "docker-mapped": python},
    )
    server.start()
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text("FROM scratch\n")
    good = {"dependencies": ["python=3.11", {"pip": ["pyyaml>=5"]}]}
    bad = {"dependencies": ["python=3.8", "numpy=1.0", {"pip": ["no-such-package-here==2", "pyyaml"]}]}
    answers = run(
        server,
        {
            "good": ({"image": IMAGE, "conda_file": good}, "python -c 'import yaml'"),
            "bad": ({"image": IMAGE, "conda_file": bad}, "true"),
            "docker": ({"build": str(tmp_path / "context")}, "true"),
            "image-only": ({"image": IMAGE}, "true"),
            "mapped": (
                {"image": IMAGE},
                "python -c 'import sys; print(sys.prefix)'; ! python -c 'import yaml'",
            ),
            "docker-mapped": ({"build": str(tmp_path / "context")}, "which python"),
            "gone": ({"image": IMAGE}, "true"),
            "host": ({"use": "azureml:host:1"}, "true"),
        },
    )
    assert {name: answer["status"] for name, answer in answers.items()} == {
        "good": "Completed", "bad": 400, "docker": 400, "image-only": 400, "mapped": "Completed",
        "docker-mapped": "Completed", "gone": 400, "host": "Completed",
    }  # fmt: skip
    for part in ("strict", "python: wanted =3.8", "numpy: wanted =1.0", "no-such-package-here: wanted ==2"):
        assert part in answers["bad"]["message"], answers["bad"]
    assert "pyyaml" not in answers["bad"]["message"]
    assert "Dockerfile" in answers["docker"]["message"] and "image" in answers["image-only"]["message"]
    assert "/no/such/python does not exist" in answers["gone"]["message"]
    assert "environments.interpreters" in answers["gone"]["message"]
    assert f"\n{tmp_path / 'v'}\n" in log_of(server, answers["mapped"]["name"])
    assert answers["mapped"]["properties"]["amlocal.python"].startswith(python)
    assert f"\n{python}\n" in log_of(server, answers["docker-mapped"]["name"])
    # Nothing of what was refused is there.
    _, listed = server.call("GET", f"{server.workspace_path}/jobs?api-version=2024-04-01")
    assert len(listed["value"]) == 4


def test_virtual_environments(
    new_server: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    server = new_server()
    configure(server, mode="venv")
    server.start()

    def conda_of(*pip: str, python: str = "python=3.11") -> dict[str, Any]:
        return {"dependencies": [python, "no-such-conda-package=1", {"pip": list(pip)}]}

    line = "which python; python -c 'import tinything; print(tinything.VERSION)'; ! python -c 'import yaml'"
    answers = run(
        server,
        {
            "built": ({"image": IMAGE, "conda_file": conda_of("tinything==1.0")}, line),
            "again": ({"image": IMAGE, "conda_file": conda_of("tinything==1.0 ")}, "which python"),
            "files": ({"image": IMAGE, "conda_file": conda_of("-r more.txt")}, "true"),
            "python": ({"image": IMAGE, "conda_file": conda_of("tinything", python="python=2.7")}, "true"),
            "host": ({"use": "azureml:host:1"}, "which python"),
        },
    )
    statuses = {name: answer["status"] for name, answer in answers.items()}
    assert statuses == {
        "built": "Completed", "again": "Completed", "files": 400, "python": 400, "host": "Completed"
    }  # fmt: skip
    built, again = (log_of(server, answers[name]["name"]) for name in ("built", "again"))
    (place,) = (server.folder.cache / "venvs").glob("*/ready.json")
    python = place.parent / json.loads(place.read_text())["attempt"] / "bin" / "python"
    assert "Successfully installed tinything-1.0" in built and f"\n{python}\n1.0\n" in built
    assert "mlflow is not among its packages" in built
    assert "builds the virtual environment" not in again and f"\n{python}\n" in again
    told = answers["built"]["properties"]
    assert told["amlocal.environment_differences"] == ("no-such-conda-package: wanted =1, not installed")
    assert "-r more.txt" in answers["files"]["message"]
    assert "Python =2.7" in answers["python"]["message"]
    assert "environments.interpreters" in answers["python"]["message"]
    assert f"\n{Path(sys.executable).parent}/python\n" in log_of(server, answers["host"]["name"])


@pytest.mark.slow
def test_a_build_that_fails_and_one_that_is_canceled(
    new_server: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setenv("PIP_NO_INDEX", "1")
    server = new_server()
    configure(server, mode="venv")
    server.start()
    base = f"{server.workspace_path}/"
    query = "?api-version=2024-04-01"

    def submit(name: str, pip: str) -> None:
        text = f"dependencies: [python=3.11, {{pip: ['{pip}']}}]"
        assert put(server, name, {"image": IMAGE, "condaFile": text})[0] == 201
        body = {"jobType": "Command", "command": "true", "environmentId": f"azureml:{name}:1"}
        status, answer = server.call("PUT", f"{base}jobs/{name}{query}", {"properties": body})
        assert status == 201, answer

    def status_of(name: str) -> str:
        return str(server.call("GET", f"{base}jobs/{name}{query}")[1]["properties"]["status"])

    submit("fails", "absent-thing==9")
    wait_for(lambda: status_of("fails") == "Failed", 120, "the failure")
    _, details = server.call("GET", f"/history/v1.0{server.workspace_path}/runs/fails/details")
    assert "No matching distribution found for absent-thing==9" in details["error"]["error"]["message"]
    assert "No matching distribution found" in log_of(server, "fails")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(120)
        submit("hangs", f"slow @ http://127.0.0.1:{mute.getsockname()[1]}/slow-1.0-py3-none-any.whl")
        connection, _ = mute.accept()
        assert status_of("hangs") == "Preparing"
        status, _ = server.call("POST", f"{base}jobs/hangs/cancel{query}")
        assert status in (200, 202)
        wait_for(lambda: status_of("hangs") == "Canceled", 60, "the cancel")
        connection.close()
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in lines if str(server.folder.cache).encode() in line]
    assert not list((server.folder.cache / "venvs").glob("*/*/bin"))
