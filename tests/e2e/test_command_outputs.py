"""Outputs of command jobs through the unmodified SDK: places, assets, artifacts, logs, MLflow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from job_desk import ended, make, message

MLMODEL = "flavors:\\n  python_function:\\n    loader_module: x\\n"


def completed(server: Any, ml_client: Any, job: Any) -> Any:
    submitted = ml_client.jobs.create_or_update(job)
    done = ended(ml_client, submitted.name)
    log = next(server.folder.blobs.glob(f"*/azureml/ExperimentRun/dcid.{done.name}/user_logs/std_log.txt"))
    assert done.status == "Completed", log.read_text()
    return done


def tree(folder: Path) -> dict[str, str]:
    """The files below a folder with their texts."""
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def test_outputs_of_every_type_are_downloaded(server: Any, ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml import Output

    kinds = ("uri_folder", "mltable", "custom_model", "mlflow_model", "triton_model")
    command = "; ".join(f"echo -n {kind} > ${{{{outputs.{kind}}}}}/f.txt" for kind in kinds)
    outputs = {kind: Output(type=kind, mode="upload") for kind in kinds}
    outputs["one"] = Output(type="uri_file", mode="rw_mount")
    outputs["placed"] = Output(
        type="uri_folder", path="azureml://datastores/workspaceblobstore/paths/runs/${{name}}/placed/"
    )
    outputs["direct"] = Output(type="uri_folder", mode="direct")
    command += (
        "; echo -n one > ${{outputs.one}}; echo -n placed > ${{outputs.placed}}/p.txt"
        '; echo "${{outputs.direct}} $AZURE_ML_OUTPUT_direct" > outputs/direct.txt; echo kept > logs/l.txt'
    )
    job = completed(server, ml_client, make(command, outputs=outputs))
    assert job.outputs["placed"].path.endswith(f"/paths/runs/{job.name}/placed/")

    ml_client.jobs.download(job.name, all=True, download_path=str(tmp_path / "all"))
    named = tree(tmp_path / "all" / "named-outputs")
    assert {f"{kind}/f.txt": kind for kind in kinds}.items() <= named.items()
    assert named["placed/p.txt"] == "placed" and "one" in named.values()
    artifacts = tree(tmp_path / "all" / "artifacts")
    address = f"azureml://datastores/workspaceblobstore/paths/azureml/{job.name}/direct/"
    assert artifacts["outputs/direct.txt"] == f"{address} {address}\n"
    assert artifacts["logs/l.txt"] == "kept\n" and "user_logs/std_log.txt" in artifacts

    ml_client.jobs.download(job.name, output_name="custom_model", download_path=str(tmp_path / "one"))
    assert tree(tmp_path / "one") == {"named-outputs/custom_model/f.txt": "custom_model"}
    ml_client.jobs.download(job.name, download_path=str(tmp_path / "default"))
    assert tree(tmp_path / "default") == {f"artifacts/{name}": text for name, text in artifacts.items()}


def test_artifacts_in_a_place_of_their_own(
    server: Any, ml_client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from azure.ai.ml import Output

    place = Output(type="uri_folder", path="azureml://datastores/workspaceblobstore/paths/mine/${{name}}/")
    submitted = ml_client.jobs.create_or_update(
        make("echo said; echo -n A > outputs/a.txt; sleep 5", outputs={"default": place})
    )
    ml_client.jobs.stream(submitted.name)
    assert "said" in capsys.readouterr().out
    stored = next(server.folder.blobs.glob(f"*/azureml-blobstore-*/mine/{submitted.name}"))
    assert tree(stored)["outputs/a.txt"] == "A" and "said" in tree(stored)["user_logs/std_log.txt"]
    ml_client.jobs.download(submitted.name, download_path=str(tmp_path))
    assert tree(tmp_path)["artifacts/outputs/a.txt"] == "A"


def test_named_outputs_become_assets(server: Any, ml_client: Any, tmp_path: Path) -> None:
    from azure.ai.ml import Input, Output

    place = "azureml://datastores/workspaceblobstore/paths/kept/${{name}}/"

    def submit() -> Any:
        return completed(
            server,
            ml_client,
            make(
                "echo -n D > ${{outputs.d}}/d.txt; echo -n F > ${{outputs.f}}"
                "; echo -n C > ${{outputs.c}}/c.bin;"
                f" printf '{MLMODEL}' > ${{{{outputs.m}}}}/MLmodel"
                "; echo 'paths: [{file: ./x}]' > ${{outputs.t}}/MLTable",
                outputs={
                    "d": Output(type="uri_folder", name="out-d", path=place),
                    "f": Output(type="uri_file", name="out-f", mode="upload"),
                    "t": Output(type="mltable", name="out-t"),
                    "c": Output(type="custom_model", name="out-c"),
                    "m": Output(type="mlflow_model", name="out-m"),
                },
            ),
        )

    first = submit()
    assert {(key, value.name, value.version) for key, value in first.outputs.items()} == {
        (key, f"out-{key}", "1") for key in "dftcm"
    }
    assert (
        ml_client.data.get("out-d", version="1").type,
        ml_client.data.get("out-t", label="latest").type,
    ) == (
        "uri_folder",
        "mltable",
    )
    assert ml_client.data.get("out-d", version="1").path.endswith(f"/paths/kept/{first.name}/")
    model = ml_client.models.get("out-m", version="1")
    assert (model.type, model.job_name, list(model.flavors)) == (
        "mlflow_model",
        first.name,
        ["python_function"],
    )
    second = submit()
    assert second.outputs["c"].version == "2"
    assert [model.version for model in ml_client.models.list("out-c")] in (["1", "2"], ["2", "1"])
    ml_client.models.download("out-c", version="2", download_path=str(tmp_path))
    assert [path.read_text() for path in tmp_path.rglob("c.bin")] == ["C"]
    completed(
        server,
        ml_client,
        make(
            'test "$(cat ${{inputs.d}}/d.txt ${{inputs.f}} ${{inputs.c}}/c.bin)" = DFC',
            inputs={
                "d": Input(type="uri_folder", path="azureml:out-d@latest"),
                "f": Input(type="uri_file", path="azureml:out-f:1"),
                "c": Input(type="custom_model", path="azureml:out-c:2"),
            },
        ),
    )
    assert len(list(ml_client.data.list("out-d"))) == 2


def test_an_asset_comes_of_a_completed_job_only(server: Any, ml_client: Any) -> None:
    from azure.ai.ml import Output
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    def output(name: str, **more: Any) -> dict[str, Any]:
        return {"o": Output(**{"type": "uri_folder", "name": name, **more})}

    failing = make("echo x > ${{outputs.o}}/x; exit 1", outputs=output("never-failed"))
    empty = make("true", outputs=output("never-empty"))
    marked = make("echo x > ${{outputs.o}}/x", outputs=output("never-mark", type="mlflow_model"))
    stopped = make("echo x > ${{outputs.o}}/x; sleep 300", outputs=output("never-canceled"))
    jobs = [ml_client.jobs.create_or_update(job) for job in (failing, empty, marked, stopped)]
    wait_for(lambda: ml_client.jobs.get(jobs[3].name).status == "Running", 30, "the start")
    ml_client.jobs.begin_cancel(jobs[3].name).result()
    assert [ended(ml_client, job.name).status for job in jobs] == ["Failed", "Failed", "Failed", "Canceled"]
    assert "'never-empty', but is empty" in message(server, jobs[1].name)
    assert "'never-mark', but holds no file named MLmodel" in message(server, jobs[2].name)
    for name in ("never-failed", "never-empty", "never-canceled"):
        with pytest.raises(ResourceNotFoundError):
            ml_client.data.get(name, version="1")
    with pytest.raises(ResourceNotFoundError):
        ml_client.models.get("never-mark", version="1")

    job = completed(
        server, ml_client, make("echo x > ${{outputs.o}}/x", outputs=output("wanted", version="7"))
    )
    assert (job.outputs["o"].name, job.outputs["o"].version) == ("wanted", "7")
    assert ml_client.data.get("wanted", version="7").path.endswith(f"/azureml/{job.name}/o/")
    for wrong, status, text in (
        (output("wanted", version="7"), 409, "has a version 7 already"),
        (output("wanted", version="no/version"), 400, "cannot be a version"),
    ):
        with pytest.raises(HttpResponseError) as caught:
            ml_client.jobs.create_or_update(make("true", outputs=wrong))
        assert caught.value.status_code == status and text in caught.value.message


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"type": "uri_folder", "path": "azureml://datastores/none/paths/x"}, "has no datastore 'none'"),
        ({"type": "uri_folder", "path": "azureml://datastores/workspaceblobstore/paths/../x"}, "'..'"),
        ({"type": "uri_folder", "path": "https://example.com/x"}, "not an azureml reference"),
    ],
)
def test_an_output_that_cannot_be_had_is_refused_at_submit(
    ml_client: Any, given: dict[str, str], text: str
) -> None:
    from azure.ai.ml import Output
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as caught:
        ml_client.jobs.create_or_update(make("true", outputs={"o": Output(**given)}))
    assert caught.value.status_code == 400
    assert text in caught.value.message


def test_a_log_is_followed_while_its_job_runs(
    server: Any, ml_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZUREML_RUN_POLLING_INTERVAL_MIN", "0.2")
    monkeypatch.setenv("AZUREML_RUN_POLLING_INTERVAL_MAX", "0.2")
    import io
    import sys

    go = tmp_path / "go"
    job = ml_client.jobs.create_or_update(
        make(f"echo early; until test -e {go}; do sleep 0.1; done; echo late")
    )
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    follower = threading.Thread(target=ml_client.jobs.stream, args=(job.name,), daemon=True)
    follower.start()
    wait_for(lambda: "early" in written.getvalue(), 60, "the early line")
    assert "late" not in written.getvalue()
    wait_for(lambda: ml_client.jobs.get(job.name).status == "Running", 60, "the state")
    go.touch()
    follower.join(60)
    assert not follower.is_alive()
    assert "late" in written.getvalue()


def test_code_is_a_private_copy_without_what_is_ignored(server: Any, ml_client: Any, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "sub").mkdir(parents=True)
    (tmp_path / "outside.txt").write_text("outside")
    for name, text in (
        ("main.sh", "ls -1 . sub"),
        ("drop.log", "x"),
        ("sub/kept.txt", "k"),
        ("sub/no.tmp", "n"),
    ):
        (code / name).write_text(text)
    (code / "linked.txt").symlink_to(tmp_path / "outside.txt")
    (code / ".amlignore").write_text("*.log\nsub/*.tmp\n")
    for number in range(300):
        (code / "sub" / f"many-{number:03}.txt").write_text(str(number))
    job = completed(
        server,
        ml_client,
        make(
            "bash main.sh > outputs/seen.txt; cat linked.txt > outputs/linked.txt; rm sub/kept.txt",
            code=str(code),
        ),
    )
    artifacts = next(server.folder.blobs.glob(f"*/azureml/ExperimentRun/dcid.{job.name}/outputs"))
    seen = (artifacts / "seen.txt").read_text().split()
    assert {"main.sh", "kept.txt", "many-299.txt"} <= set(seen)
    assert not {"drop.log", "no.tmp"} & set(seen)
    # azure-ai-ml follows a link and uploads what it leads to.
    assert (artifacts / "linked.txt").read_text() == "outside"
    assert (code / "sub" / "kept.txt").exists()
    again = completed(server, ml_client, make("test -e sub/kept.txt", code=str(code)))
    assert again.code == job.code


def test_pip_in_a_job_installs_for_that_job_alone(server: Any, ml_client: Any, tmp_path: Path) -> None:
    import importlib.util
    import zipfile

    wheel = tmp_path / "amlocal_test_tiny-1.0-py3-none-any.whl"
    info = "amlocal_test_tiny-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("amlocal_test_tiny.py", "VALUE = 41\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: amlocal-test-tiny\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    completed(
        server,
        ml_client,
        make(
            f'test -n "$PIP_PREFIX" && python -m pip install -q --no-index --no-deps {wheel}'
            ' && test "$(python -c "import amlocal_test_tiny as t; print(t.VALUE)")" = 41'
        ),
    )
    importlib.invalidate_caches()
    assert importlib.util.find_spec("amlocal_test_tiny") is None
    assert (
        ended(
            ml_client, ml_client.jobs.create_or_update(make("python -c 'import amlocal_test_tiny'")).name
        ).status
        == "Failed"
    )


SCRIPT = """
import mlflow
import numpy as np
from sklearn.linear_model import LogisticRegression

mlflow.sklearn.autolog(log_models=False, log_datasets=False)
with mlflow.start_run():
    model = LogisticRegression(C=7.0).fit(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1]))
    mlflow.log_metric("own", 0.5)
    info = mlflow.sklearn.log_model(model, name="logged", pip_requirements=["scikit-learn"])
    mlflow.register_model(info.model_uri, "from-mlflow")
"""


def test_mlflow_in_a_job_lands_on_the_job(server: Any, ml_client: Any, tmp_path: Path) -> None:
    import mlflow

    (tmp_path / "train.py").write_text(SCRIPT)
    job = completed(server, ml_client, make("python train.py", code=str(tmp_path)))
    mlflow.set_tracking_uri(f"{server.base_url}/mlflow/v1.0{server.workspace_path}")
    client = mlflow.MlflowClient()
    run = client.get_run(job.name)
    assert run.data.metrics["own"] == 0.5 and run.data.metrics["training_accuracy_score"] == 1.0
    assert run.data.params["C"] == "7.0"
    versions = client.search_model_versions("name='from-mlflow'")
    assert [(version.version, version.run_id) for version in versions] == [("1", job.name)]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"assetName": "no/name"}, "cannot be the name of an asset"),
        ({"assetName": "../x"}, "cannot be the name of an asset"),
        ({"assetName": "x" * 300}, "cannot be the name of an asset"),
        ({"assetName": 7}, "must be a text"),
        ({"assetVersion": "1"}, "has a version and no name"),
        ({"assetName": "ok", "assetVersion": "a b"}, "cannot be a version"),
        ({"mode": "EvalMount"}, "it must be one of rw_mount, upload, direct"),
        ({"jobOutputType": "parquet"}, "it must be one of uri_file"),
    ],
)
def test_a_wrong_output_is_refused(server: Any, given: dict[str, Any], text: str) -> None:
    body = {
        "jobType": "Command",
        "environmentId": "azureml:host:1",
        "command": "true",
        "outputs": {"o": {"jobOutputType": "uri_folder", **given}},
    }
    status, answer = server.call("PUT", f"{server.workspace_path}/jobs/wrong-output", {"properties": body})
    assert status == 400
    assert text in answer["error"]["message"]
    assert server.call("GET", f"{server.workspace_path}/jobs/wrong-output")[0] == 404


def test_a_server_that_starts_again_registers_nothing_twice(
    new_server: Callable[[], Any], tmp_path: Path
) -> None:
    go = tmp_path / "go"
    server = new_server()
    server.start()
    body = {
        "jobType": "Command",
        "environmentId": "azureml:host:1",
        "command": f"until test -e {go}; do sleep 0.1; done; echo x > ${{{{outputs.o}}}}/x",
        "outputs": {"o": {"jobOutputType": "uri_folder", "assetName": "kept"}},
    }
    path = f"{server.workspace_path}/jobs/ends-alone"
    assert server.call("PUT", path, {"properties": body})[0] == 201
    wait_for(lambda: server.call("GET", path)[1]["properties"]["status"] == "Running", 60, "the start")
    server.stop()
    go.touch()
    wait_for(lambda: list(server.folder.jobs.glob("*/ends-alone/exit-1.json")), 60, "the end of the command")
    server.start()
    wait_for(lambda: server.call("GET", path)[1]["properties"]["status"] == "Completed", 60, "the end")
    shown = server.call("GET", path)[1]["properties"]["outputs"]["o"]
    assert (shown["assetName"], shown["assetVersion"]) == ("kept", "1")
    versions = server.call("GET", f"{server.workspace_path}/data/kept/versions")[1]["value"]
    assert [version["name"] for version in versions] == ["1"]
