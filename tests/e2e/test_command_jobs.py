"""Command jobs through the unmodified SDK: code, inputs, outputs, MLflow, failure, cancel, timeout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from job_desk import check_all_ended, ended, make, message, processes_of

SCRIPT = """
import argparse, json, os, pathlib, sys
import mlflow
parser = argparse.ArgumentParser()
for name in ("text", "file", "folder", "result", "one"):
    parser.add_argument("--" + name)
given = parser.parse_args()
mlflow.log_metric("loss", 0.25, step=3)
mlflow.log_param("kind", "command")
out = pathlib.Path(given.result)
(out / "seen.json").write_text(json.dumps({
    "text": given.text, "file": pathlib.Path(given.file).read_text(),
    "folder": sorted(os.listdir(given.folder)), "python": sys.executable,
    "env": dict(os.environ), "cwd": os.getcwd(), "helper": pathlib.Path("pkg/helper.txt").read_text()}))
pathlib.Path(given.one).write_text("one file")
pathlib.Path("outputs/artifact.txt").write_text("kept")
pathlib.Path("new-file").write_text("only in the copy")
print("said by the script", flush=True)
"""
ENVIRONMENT = "azureml://registries/azureml/environments/sklearn-1.5/labels/latest"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "pkg").mkdir(parents=True)
    (folder / "train.py").write_text(SCRIPT)
    (folder / "pkg" / "helper.txt").write_text("help")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("A")
    (tmp_path / "data" / "b.txt").write_text("B")
    return folder


def test_a_whole_job(
    server: Any, ml_client: Any, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow
    from azure.ai.ml import Input, Output

    text = 'it\'s $(touch /tmp/never) "quoted" `x` ; true'
    job = make(
        code=str(code),
        command="python train.py --text ${{inputs.text}} --file ${{inputs.file}} "
        "--folder '${{inputs.folder}}' "
        '--result "${{outputs.result}}" --one ${{outputs.one}} $[[--unknown ${{inputs.absent}}]]',
        environment=ENVIRONMENT,
        inputs={
            "text": text,
            "file": Input(type="uri_file", path=str(code.parent / "data" / "a.txt")),
            "folder": Input(type="uri_folder", path=str(code.parent / "data"), mode="download"),
        },
        outputs={"result": Output(type="uri_folder"), "one": Output(type="uri_file")},
        environment_variables={"MINE": "yes"},
        display_name="a whole job",
        tags={"t": "1"},
    )
    submitted = ml_client.jobs.create_or_update(job)
    ml_client.jobs.stream(submitted.name)
    assert "said by the script" in capsys.readouterr().out
    done = ml_client.jobs.get(submitted.name)
    assert (done.status, done.display_name, done.tags["t"]) == ("Completed", "a whole job", "1")

    ml_client.jobs.download(submitted.name, output_name="result", download_path=str(tmp_path / "out"))
    seen = json.loads((tmp_path / "out" / "named-outputs" / "result" / "seen.json").read_text())
    assert (seen["text"], seen["file"], seen["folder"]) == (text, "A", ["a.txt", "b.txt"])
    assert seen["helper"] == "help" and not Path("/tmp/never").exists()
    assert seen["env"]["MINE"] == "yes" and seen["env"]["AZUREML_RUN_ID"] == submitted.name
    secret = server.environment()["IDENTITY_HEADER"]
    assert secret and secret not in json.dumps(seen["env"])
    assert Path(seen["cwd"]).parent == next(server.folder.jobs.glob(f"*/{submitted.name}"))
    assert not (code / "new-file").exists()

    ml_client.jobs.download(submitted.name, all=True, download_path=str(tmp_path / "all"))
    assert (tmp_path / "all" / "artifacts" / "outputs" / "artifact.txt").read_text() == "kept"
    assert [p.read_text() for p in (tmp_path / "all" / "named-outputs" / "one").rglob("one")] == ["one file"]

    mlflow.set_tracking_uri(
        ml_client.workspaces.get(os.environ["AZUREML_WORKSPACE_NAME"]).mlflow_tracking_uri
    )
    run = mlflow.MlflowClient().get_run(submitted.name)
    assert (run.info.status, run.data.metrics, run.data.params) == (
        "FINISHED",
        {"loss": 0.25},
        {"kind": "command"},
    )

    from azure.ai.ml import Input as Next

    follower = ml_client.jobs.create_or_update(
        make(
            command="grep -c AZUREML_RUN_ID ${{inputs.before}}/seen.json",
            inputs={
                "before": Next(
                    type="uri_folder", path=f"azureml://jobs/{submitted.name}/outputs/result/paths/"
                )
            },
        )
    )
    assert ended(ml_client, follower.name).status == "Completed"

    # The same folder is not uploaded again: its hash is found.
    again = ml_client.jobs.create_or_update(make(code=str(code), command="test -f train.py"))
    assert again.code == done.code
    assert ended(ml_client, again.name).status == "Completed"


@pytest.mark.parametrize(
    ("mode", "stored"), [(None, "as it was"), ("ro_mount", "as it was"), ("rw_mount", "changed")]
)
def test_only_a_writable_mount_lets_a_job_change_what_is_stored(
    ml_client: Any, tmp_path: Path, mode: str | None, stored: str
) -> None:
    from azure.ai.ml import Input
    from azure.ai.ml.entities import Data

    folder = tmp_path / f"kept-{mode}"
    folder.mkdir()
    (folder / "f.txt").write_text("as it was\n")
    asset = ml_client.data.create_or_update(Data(name=f"kept-{mode}", path=str(folder), type="uri_folder"))
    source = {"folder": Input(type="uri_folder", path=asset.path, **({"mode": mode} if mode else {}))}
    change = make(command="echo changed > ${{inputs.folder}}/f.txt", inputs=source)
    assert ended(ml_client, ml_client.jobs.create_or_update(change).name).status == "Completed"
    source = {"folder": Input(type="uri_folder", path=asset.path)}
    look = make(command=f"grep -x '{stored}' ${{{{inputs.folder}}}}/f.txt", inputs=source)
    assert ended(ml_client, ml_client.jobs.create_or_update(look).name).status == "Completed"


def test_a_data_asset_and_a_registered_environment(ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml import Input
    from azure.ai.ml.entities import Data, Environment

    (tmp_path / "f.txt").write_text("asset")
    asset = ml_client.data.create_or_update(
        Data(name="cmd-data", path=str(tmp_path / "f.txt"), type="uri_file")
    )
    environment = ml_client.environments.create_or_update(Environment(name="cmd-env", image="img:latest"))
    assert ml_client.environments.get("cmd-env", label="latest").version == environment.version == "1"
    for reference in (f"azureml:cmd-data:{asset.version}", "azureml:cmd-data@latest"):
        job = make(
            command='test "$(cat ${{inputs.d}})" = asset',
            environment="azureml:cmd-env@latest",
            inputs={"d": Input(type="uri_file", path=reference)},
        )
        assert ended(ml_client, ml_client.jobs.create_or_update(job).name).status == "Completed"
    from azure.ai.ml.entities import Model

    ml_client.models.create_or_update(
        Model(name="cmd-model", path=str(tmp_path / "f.txt"), type="custom_model")
    )
    for reference in ("azureml:cmd-model:1", "azureml:cmd-model@latest"):
        job = make(
            command='test "$(cat ${{inputs.m}})" = asset',
            inputs={"m": Input(type="custom_model", path=reference)},
        )
        assert ended(ml_client, ml_client.jobs.create_or_update(job).name).status == "Completed"
    inline = make(command="true", environment=Environment(image="img:1", name="inline"))
    assert ended(ml_client, ml_client.jobs.create_or_update(inline).name).status == "Completed"


def test_a_missing_environment_is_named(ml_client: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError, match=r"no-such-env.*host:1") as caught:
        ml_client.jobs.create_or_update(make(command="true", environment="azureml:no-such-env:7"))
    assert caught.value.status_code == 400


def test_a_command_that_fails(server: Any, ml_client: Any) -> None:
    job = ml_client.jobs.create_or_update(make(command="echo first; echo the reason >&2; exit 3"))
    assert ended(ml_client, job.name).status == "Failed"
    text = message(server, job.name)
    assert "exit code 3" in text and text.endswith("first\nthe reason")


def test_a_killed_command_is_not_started_twice(server: Any, ml_client: Any) -> None:
    job = ml_client.jobs.create_or_update(make(command="kill -9 $$"))
    assert ended(ml_client, job.name).status == "Failed"
    assert "killed by signal 9" in message(server, job.name)
    folder = next(server.folder.jobs.glob(f"*/{job.name}"))
    assert [path.name for path in folder.glob("attempt-*.started")] == ["attempt-1.started"]


def test_cancel_ends_every_process(server: Any, ml_client: Any) -> None:
    job = ml_client.jobs.create_or_update(make(command="sleep 601.7 & sleep 601.7"))
    wait_for(lambda: ml_client.jobs.get(job.name).status == "Running", 30, "the start")
    wait_for(lambda: len(processes_of(job.name, shim=False)) >= 2, 30, "both of its processes")
    ml_client.jobs.begin_cancel(job.name).result()
    assert ended(ml_client, job.name).status == "Canceled"
    check_all_ended(job.name)


def test_a_timeout(server: Any, ml_client: Any) -> None:
    made = make(command="sleep 602.7")
    made.set_limits(timeout=1)
    job = ml_client.jobs.create_or_update(made)
    assert ended(ml_client, job.name).status == "Canceled"
    assert "time limit" in message(server, job.name)
    check_all_ended(job.name)


def test_fifty_jobs_leave_nothing(server: Any) -> None:
    body = {"properties": {"jobType": "Command", "command": "true", "environmentId": "azureml:host:1"}}
    names = [f"true-{number}" for number in range(50)]
    for name in names:
        code, answer = server.call("PUT", f"{server.workspace_path}/jobs/{name}", body)
        assert code == 201, answer

    def open_jobs() -> list[str]:
        states = {
            name: server.call("GET", f"{server.workspace_path}/jobs/{name}")[1]["properties"]["status"]
            for name in names
        }
        assert not set(states.values()) & {"Failed", "Canceled"}, states
        return [name for name, state in states.items() if state != "Completed"]

    wait_for(lambda: not open_jobs(), 120, "fifty jobs")
    for name in names:
        check_all_ended(name)
        folder = next(server.folder.jobs.glob(f"*/{name}"))
        assert (folder / "exit-1.json").exists() and not (folder / "wd").exists()
