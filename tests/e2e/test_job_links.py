"""Links that a job leaves in its outputs: no client's request follows one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import Input, Output, command
from azure.ai.ml.entities import Data
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import ContainerClient
from conftest import wait_for

SCRIPT = """
for folder in outputs "${{outputs.out}}"; do
  echo real > "$folder/real.txt"
  ln "$folder/real.txt" "$folder/twice.txt"
  ln -s /etc/passwd "$folder/passwd"
  ln -s /etc "$folder/etc"
  ln -s loop "$folder/loop"
  ln -s ../../.. "$folder/up"
  mkfifo "$folder/pipe"
done
ln -s /etc/passwd logs/leak.txt
mkdir -p logs/sub && ln -s /etc logs/sub/etc
"""
LINKS = ("passwd", "etc/passwd", "loop", "loop/x", "up/x", "pipe")


@pytest.fixture(scope="module")
def job(ml_client: Any) -> Any:
    made = ml_client.jobs.create_or_update(
        command(
            command=SCRIPT,
            environment="azureml:host:1",
            compute="cpu-cluster",
            outputs={"out": Output(type="uri_folder")},
        )
    )

    def done() -> Any:
        now = ml_client.jobs.get(made.name)
        return now if now.status in ("Completed", "Failed", "Canceled") else None

    ended = wait_for(done, 90, f"the end of {made.name}")
    assert ended.status == "Completed"
    return ended


def containers(ml_client: Any, server: Any, job: Any) -> list[tuple[ContainerClient, str, str]]:
    """(client, prefix, datastore) of the default artifacts and of the named output."""
    found = []
    for name, prefix in (
        ("workspaceartifactstore", f"ExperimentRun/dcid.{job.name}/outputs/"),
        ("workspaceblobstore", f"azureml/{job.name}/out/"),
    ):
        store = ml_client.datastores.get(name, include_secrets=True)
        client = ContainerClient(
            f"https://{store.account_name}.blob.core.windows.net",
            store.container_name,
            credential=store.credentials.sas_token,
            connection_verify=str(server.folder.tls / "ca.pem"),
            retry_total=0,
        )
        found.append((client, prefix, name))
    return found


def test_blobs(ml_client: Any, server: Any, job: Any) -> None:
    for client, prefix, _ in containers(ml_client, server, job):
        listed = [blob.name.removeprefix(prefix) for blob in client.list_blobs(name_starts_with=prefix)]
        assert listed == ["real.txt", "twice.txt"], prefix
        assert client.download_blob(prefix + "twice.txt").readall() == b"real\n"
        for name in LINKS:
            with pytest.raises(ResourceNotFoundError):
                client.download_blob(prefix + name).readall()


def test_downloads_bring_no_link(ml_client: Any, job: Any, tmp_path: Path) -> None:
    ml_client.jobs.download(job.name, download_path=str(tmp_path / "all"), all=True)
    ml_client.jobs.download(job.name, download_path=str(tmp_path / "one"), output_name="out")
    found = {path.name for path in tmp_path.rglob("*") if not path.is_dir()}
    assert {"real.txt", "twice.txt"} <= found
    assert not found & {"passwd", "loop", "up", "pipe", "leak.txt", "etc"}
    assert not any(b"root:" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_data_assets_and_inputs(ml_client: Any, server: Any, job: Any) -> None:
    for _, prefix, store in containers(ml_client, server, job):
        for name in ("passwd", "etc/passwd", "loop"):
            uri = f"azureml://datastores/{store}/paths/{prefix}{name}"
            with pytest.raises(HttpResponseError) as asset:
                ml_client.data.create_or_update(Data(name="leak", type="uri_file", path=uri))
            assert asset.value.status_code == 400, uri
            with pytest.raises(HttpResponseError) as submitted:
                ml_client.jobs.create_or_update(
                    command(
                        command="cat ${{inputs.x}}",
                        environment="azureml:host:1",
                        compute="cpu-cluster",
                        inputs={"x": Input(type="uri_file", path=uri)},
                    )
                )
            assert submitted.value.status_code == 400, uri
    with pytest.raises(Exception, match="leak does not exist"):
        ml_client.data.get("leak", label="latest")


def test_logs_and_artifacts(ml_client: Any, server: Any, job: Any) -> None:
    history = f"/history/v1.0{server.workspace_path}/runs/{job.name}/details"
    _, details = server.call("GET", history)
    assert "user_logs/std_log.txt" in details["logFiles"]
    assert not any("leak" in path or "etc" in path for path in details["logFiles"])
    import mlflow

    uri = ml_client.workspaces.get(ml_client.workspace_name).mlflow_tracking_uri
    tracking = uri.removeprefix(server.base_url)
    client = mlflow.MlflowClient(uri)

    def listed() -> Any:
        # Straight to the server: MLflow's client would ask again and again before it tells of an error.
        query = f"{tracking}/api/2.0/mlflow/artifacts/list?run_id={job.name}&path=outputs"
        code, body = server.call("GET", query)
        assert code in (200, 404), body
        return {item["path"] for item in body.get("files", ())}  # the run is told to MLflow by and by

    found = wait_for(listed, 60, "the run in MLflow")
    assert found == {"outputs/real.txt", "outputs/twice.txt"}
    code, body = server.call("GET", f"{tracking}/get-artifact?run_id={job.name}&path=outputs/pipe")
    assert code in (400, 404), body
    for name in ("outputs/passwd", "outputs/etc/passwd", "logs/leak.txt"):
        with pytest.raises(Exception) as refused:
            content = Path(client.download_artifacts(job.name, name)).read_text()
            assert "root:" not in content
        assert "root:x" not in str(refused.value)
