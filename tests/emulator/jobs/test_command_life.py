"""Command jobs in the service: what is refused, what is copied, what is started and how often."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.arm import documents
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs.engines.local import LocalEngine

CONTAINER = "azureml-code-12345678-1234-1234-1234-123456789abc"


def body(**changes: Any) -> dict[str, Any]:
    return {"jobType": "Command", "command": "true", "environmentId": "azureml:host:1", **changes}


@pytest.fixture
def code(desk: Any) -> Path:
    """The folder of an uploaded code asset, `codes/c/versions/1`."""
    folder = desk.folder.container(desk.workspace.account, CONTAINER) / "src"
    folder.mkdir(parents=True)
    (folder / "run.sh").write_text("echo from-the-code; echo kept > outputs/o.txt; echo changed > run.sh")
    uri = f"https://localhost:4265/{desk.workspace.account}/{CONTAINER}/src"
    stored = {"properties": {"codeUri": uri}}
    desk.store.write(lambda c: documents.put(c, desk.workspace.id, "codes", "c", "1", stored))
    return folder


def code_id(desk: Any) -> str:
    return f"{desk.workspace.arm_id}/codes/c/versions/1"


@pytest.mark.parametrize(
    ("changes", "status", "part"),
    [
        ({"command": ""}, 400, "command"),
        ({"command": 7}, 400, "command"),
        ({"environmentId": None}, 400, "environment"),
        ({"environmentId": "azureml:gone:1"}, 400, "gone:1"),
        ({"environmentId": "../../x"}, 400, "environment"),
        ({"codeId": "/etc"}, 400, "codeId"),
        ({"services": {"s": {"jobServiceType": "Telnet"}}}, 400, "services.s has the type 'Telnet'"),
        ({"limits": {"timeout": "soon"}}, 400, "limits.timeout"),
        ({"environmentVariables": {"A=B": "x"}}, 400, "environment_variables"),
        ({"environmentVariables": {"AMLOCAL_ATTEMPT": "x"}}, 400, "environment_variables"),
        ({"inputs": {"../x": {"jobInputType": "literal", "value": "1"}}}, 400, "inputs"),
        ({"inputs": {"x": {"jobInputType": "uri_file", "uri": "abfss://c@h/x"}}}, 400, "must read abfss://"),
        ({"inputs": {"x": {"jobInputType": "triton_model", "uri": "azureml:m:1"}}}, 400, "has no version 1"),
        ({"inputs": {"x": {"jobInputType": "uri_file", "uri": "/etc/passwd"}}}, 400, "passwd"),
        (
            {"outputs": {"o": {"jobOutputType": "uri_folder", "assetName": "../a"}}},
            400,
            "'../a'",
        ),
        ({"outputs": {"o": {"jobOutputType": "uri_folder", "uri": "file:///etc"}}}, 400, "file:///etc"),
        ({"computeId": "nowhere"}, 400, "nowhere"),
    ],
)
def test_refusals(desk: Any, changes: dict[str, Any], status: int, part: str) -> None:
    service = desk.service(start=False)
    with pytest.raises(AzureError) as caught:
        service.submit(desk.workspace, "bad", body(**changes))
    assert caught.value.status == status and part in caught.value.message, caught.value.message
    assert service.list(desk.workspace) == []


@pytest.mark.parametrize(
    "uri",
    [
        "https://h/aml000000000000/CONTAINER/src",
        "https://h/ACCOUNT/azureml/x",
        "https://h/ACCOUNT/CONTAINER/%2e%2e/x",
    ],
)
def test_code_elsewhere_is_refused(desk: Any, code: Path, uri: str) -> None:
    uri = uri.replace("ACCOUNT", desk.workspace.account).replace("CONTAINER", CONTAINER)
    stored = {"properties": {"codeUri": uri}}
    desk.store.write(lambda c: documents.put(c, desk.workspace.id, "codes", "c", "1", stored))
    with pytest.raises(AzureError) as caught:
        desk.service(start=False).submit(desk.workspace, "bad", body(codeId=code_id(desk)))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "name",
    ["azureml:AzureML-sklearn-1.0@latest", "azureml://registries/azureml/environments/any/versions/3"],
)
def test_curated_environments_resolve(desk: Any, name: str) -> None:
    record, created = desk.service(start=False).submit(desk.workspace, "job", body(environmentId=name))
    assert created and record.properties["azureml.runtimeEnvironment"].startswith(
        ("AzureML-sklearn", "any:3")
    )


def test_the_code_is_a_copy_without_links(desk: Any, code: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (code / "link").symlink_to(tmp_path / "secret")
    (code / "folder-link").symlink_to(tmp_path)
    before = (code / "run.sh").read_text()
    desk.engine = LocalEngine()
    service = desk.service()
    command = "bash run.sh && ls && test ! -e link && test ! -e folder-link && which python"
    service.submit(desk.workspace, "job", body(codeId=code_id(desk), command=command))
    service.wait_idle()
    assert desk.states("job") == [
        "NotStarted", "Preparing", "Queued", "Starting", "Running", "Finalizing", "Completed"
    ]  # fmt: skip
    log = (desk.artifacts("job") / "user_logs" / "std_log.txt").read_text()
    assert "from-the-code" in log and str(Path(sys.executable).parent / "python") in log
    assert (code / "run.sh").read_text() == before
    assert (desk.artifacts("job") / "outputs" / "o.txt").read_text() == "kept\n"
    assert desk.mlflow.runs["job"]["status"] == "FINISHED"


def test_no_variable_of_the_server_reaches_the_command(
    desk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDENTITY_HEADER", "the server's own")
    monkeypatch.setenv("SOME_PASSWORD", "the user's own")
    desk.engine = LocalEngine()
    service = desk.service()
    target = tmp_path / "env.json"
    command = f'python -c \'import json, os; json.dump(dict(os.environ), open("{target}", "w"))\''
    service.submit(desk.workspace, "job", body(command=command, environmentVariables={"A": "b c"}))
    service.wait_idle()
    seen = json.loads(target.read_text())
    assert not {"IDENTITY_HEADER", "SOME_PASSWORD"} & seen.keys()
    assert (seen["A"], seen["MLFLOW_RUN_ID"], seen["AZUREML_RUN_ID"]) == ("b c", "job", "job")
    own, python, *_ = seen["PATH"].split(os.pathsep)
    assert own == f"{seen['PIP_PREFIX']}/bin" and python == str(Path(sys.executable).parent)


def test_a_killed_command_is_started_once(desk: Any) -> None:
    desk.engine.on_submit = lambda engine, job: engine.end(job, None, 9)
    service = desk.service()
    service.submit(desk.workspace, "job", body())
    service.wait_idle()
    assert desk.engine.started == [("job", 1)]
    assert desk.record("job").state == "Failed"
    assert "signal 9" in desk.record("job").error["message"]


def test_two_at_once_beside_a_trial(desk: Any, helpers: Any) -> None:
    service = desk.service()
    service.submit(desk.workspace, "auto", desk.body())
    for name in ("c1", "c2"):
        service.submit(desk.workspace, name, body())
    helpers.until(lambda: len(desk.engine.started) == 3)
    service.submit(desk.workspace, "c3", body())
    assert sorted(desk.engine.started) == [("auto_HD_0", 1), ("c1", 1), ("c2", 1)]
    helpers.until(lambda: desk.record("c3").state == "Queued")
    desk.engine.end(desk.engine.jobs[desk.job_dir("c1"), 1])
    helpers.until(lambda: ("c3", 1) in desk.engine.started)
    for name in ("auto", "c2", "c3"):
        service.cancel(desk.workspace, name)
    service.wait_idle()
    assert [desk.record(n).state for n in ("auto", "c1", "c2", "c3")] == [
        "Canceled", "Completed", "Canceled", "Canceled"
    ]  # fmt: skip


def test_a_job_canceled_before_its_slot_never_starts(desk: Any, helpers: Any) -> None:
    service = desk.service(command_slots=1)
    service.submit(desk.workspace, "first", body())
    helpers.until(lambda: desk.engine.started == [("first", 1)])
    service.submit(desk.workspace, "second", body())
    helpers.until(lambda: desk.record("second").state == "Queued")
    service.cancel(desk.workspace, "second")
    helpers.until(lambda: desk.record("second").state == "Canceled")
    desk.engine.end(desk.engine.jobs[desk.job_dir("first"), 1])
    service.wait_idle()
    assert desk.engine.started == [("first", 1)]


def test_a_restart_goes_on_with_the_same_process(desk: Any, helpers: Any) -> None:
    first = desk.service()
    first.submit(desk.workspace, "job", body())
    helpers.until(lambda: desk.record("job").state == "Running")
    first.stop()
    second = desk.service()
    desk.engine.end(desk.engine.jobs[desk.job_dir("job"), 1])
    second.wait_idle()
    assert desk.record("job").state == "Completed" and desk.engine.started == [("job", 1)]
