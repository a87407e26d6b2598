"""`amlocal datastore mount`: a folder of the user as a datastore, in place, through the real clients."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import Input, Output, command
from azure.ai.ml.entities import AzureBlobDatastore, Data
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from mount_desk import Desk, container, opened, run, tree, unchanged, with_token


@pytest.fixture(scope="module")
def desk(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    yield from opened(server, tmp_path_factory.mktemp)


def test_which_folders_may_be_mounted(desk: Desk, server: Any) -> None:
    inside = desk.allowed / "fine"
    inside.mkdir()
    (desk.allowed / "way-out").symlink_to(desk.outside)
    (desk.allowed / "file").write_text("x")
    os.mkfifo(desk.allowed / "pipe")

    def ask(name: Any, folder: Any, status: int, says: str, **more: Any) -> None:
        body = {"name": name, "folder": folder, **more}
        code, answer = server.call("POST", "/_amlocal/datastores", body)
        assert code == status and says in answer["error"]["message"], (name, folder, code, answer)

    told = desk.refused("mount", "x", str(desk.allowed / "way-out"))
    assert f"amlocal serve --allow-path {desk.outside}" in told
    for folder in (desk.outside, desk.allowed / "way-out", desk.allowed / ".." / desk.outside.name):
        ask("x", str(folder), 403, f"amlocal serve --allow-path {desk.outside}")
    for folder in ("not-there", "file", "pipe"):
        ask("x", str(desk.allowed / folder), 404, "no folder")
    for folder in (server.root, server.root / "secrets", server.root.parent, Path("/")):
        ask("x", str(folder), 403, "data folder")
    for bad in ("relative/path", "", "/a\0b", 7, None, ["/"]):
        ask("x", bad, 400, "")
    for name in ("", "../x", "a.b", "-x", "x" * 300, "x;y", 7, None):
        ask(name, str(inside), 400, "")
    ask("workspaceblobstore", str(inside), 409, "built in")
    ask("x", str(inside), 404, "not known", workspace="a/b/no-such")
    ask("x", str(inside), 400, "SUBSCRIPTION/GROUP/NAME", workspace="a")
    ask("x", str(inside), 400, "writable", writable="yes")
    assert server.call("POST", "/_amlocal/datastores", {"name": "x", "folder": str(inside)}, "bad")[0] == 401
    assert not any(line.startswith("x ") for line in desk.run("list").stdout.splitlines())
    assert "No folder is mounted" in desk.refused("unmount", "workspaceblobstore")


def test_reading_in_place(desk: Desk, server: Any, ml_client: Any, tmp_path: Path) -> None:
    folder = desk.mount("pictures")
    (folder / "a").mkdir()
    (folder / "a" / "one.txt").write_text("one")
    (folder / "b.txt").write_bytes(b"0123456789")
    (folder / ".hidden").write_text("h")
    before = tree(folder)
    store = ml_client.datastores.get("pictures")
    assert isinstance(store, AzureBlobDatastore)
    assert store.account_name == ml_client.datastores.get_default().account_name
    client = container(ml_client, server, "pictures")
    assert client.exists()
    assert [blob.name for blob in client.list_blobs()] == [".hidden", "a/one.txt", "b.txt"]
    assert sorted(item.name for item in client.walk_blobs()) == [".hidden", "a/", "b.txt"]
    assert client.download_blob("a/one.txt").readall() == b"one"
    assert client.download_blob("b.txt", offset=3, length=4).readall() == b"3456"
    # What the user changes shows, under a new entity tag.
    seen = client.get_blob_client("b.txt").get_blob_properties()
    (folder / "b.txt").write_bytes(b"9876543210")
    changed = client.get_blob_client("b.txt").get_blob_properties()
    assert changed.etag != seen.etag and changed.size == 10
    assert client.download_blob("b.txt").readall() == b"9876543210"
    with pytest.raises(HttpResponseError) as stale:
        client.download_blob("b.txt", etag=seen.etag, match_condition=unchanged())
    assert stale.value.status_code == 412
    (folder / "b.txt").unlink()
    with pytest.raises(ResourceNotFoundError):
        client.download_blob("b.txt")
    assert tree(folder) == [name for name in before if name != "b.txt"]


def test_jobs_and_assets_read_it(desk: Desk, server: Any, ml_client: Any, tmp_path: Path) -> None:
    folder = desk.mount("rows")
    (folder / "images").mkdir()
    (folder / "images" / "1.txt").write_text("picture one")
    (folder / "table").mkdir()
    (folder / "table" / "MLTable").write_text(
        "paths:\n  - file: ./rows.jsonl\ntransformations:\n  - read_json_lines\n"
    )
    (folder / "table" / "rows.jsonl").write_text(
        json.dumps({"image_url": "azureml://datastores/rows/paths/images/1.txt", "label": "a"})
    )
    before = tree(folder)
    asset = ml_client.data.create_or_update(
        Data(name="mounted", type="uri_folder", path="azureml://datastores/rows/paths/images")
    )
    assert asset.path.endswith("/datastores/rows/paths/images/")
    table = ml_client.data.create_or_update(
        Data(name="mounted-table", type="mltable", path="azureml://datastores/ROWS/paths/table")
    )
    assert table.path.lower().endswith("/datastores/rows/paths/table")
    long = asset.path.removesuffix("images/") + "images/1.txt"
    job = run(
        ml_client,
        "cat ${{inputs.short}} ${{inputs.long}} ${{inputs.asset}}/1.txt > outputs/seen.txt && "
        "ls ${{inputs.table}} >> outputs/seen.txt",
        inputs={
            "short": Input(type="uri_file", path="azureml://datastores/rows/paths/images/1.txt"),
            "long": Input(type="uri_file", path=long, mode="download"),
            "asset": Input(type="uri_folder", path=f"azureml:{asset.name}:{asset.version}"),
            "table": Input(type="mltable", path="azureml://datastores/rows/paths/table"),
        },
    )
    assert job.status == "Completed"
    ml_client.jobs.download(job.name, download_path=str(tmp_path))
    [seen] = tmp_path.rglob("seen.txt")
    assert seen.read_text() == "picture one" * 3 + "MLTable\nrows.jsonl\n"
    assert tree(folder) == before
    with pytest.raises(HttpResponseError) as gone:
        run(
            ml_client, "true", inputs={"x": Input(type="uri_file", path="azureml://datastores/rows/paths/no")}
        )
    assert gone.value.status_code == 400


def test_read_only_means_so(desk: Desk, server: Any, ml_client: Any, tmp_path: Path) -> None:
    folder = desk.mount("locked")
    (folder / "kept.txt").write_text("kept")
    before = tree(folder), (folder / "kept.txt").stat()
    for client in (container(ml_client, server, "locked"), with_token(ml_client, server, "locked")):
        assert client.download_blob("kept.txt").readall() == b"kept"
        blob = client.get_blob_client("kept.txt")
        for write in (
            lambda c=client: c.upload_blob("new/x.txt", b"x"),
            lambda c=client: c.upload_blob("kept.txt", b"x" * 9_000_000, overwrite=True, max_concurrency=1),
            lambda c=client: c.delete_blob("kept.txt"),
            lambda b=blob: b.stage_block("MQ==", b"x"),
            lambda b=blob: b.commit_block_list([]),
            lambda b=blob: b.set_blob_metadata({"a": "b"}),
        ):
            with pytest.raises(HttpResponseError) as refused:
                write()
            assert refused.value.status_code == 403
            assert refused.value.error_code == "AuthorizationPermissionMismatch"
    with pytest.raises(HttpResponseError) as told:
        with_token(ml_client, server, "locked").upload_blob("x", b"x")
    assert "--writable" in told.value.message
    (tmp_path / "local.txt").write_text("local")
    with pytest.raises(Exception, match=r"(?i)permission|authoriz"):
        ml_client.data.create_or_update(
            Data(name="no-upload", type="uri_file", path=str(tmp_path / "local.txt"), datastore="locked")
        )
    with pytest.raises(HttpResponseError) as output:
        ml_client.jobs.create_or_update(
            command(
                command="echo x > ${{outputs.out}}/x",
                environment="azureml:host:1",
                compute="cpu-cluster",
                outputs={"out": Output(type="uri_folder", path="azureml://datastores/locked/paths/out/")},
            )
        )
    assert output.value.status_code == 403 and "--writable" in output.value.message
    now = (folder / "kept.txt").stat()
    assert tree(folder) == before[0] and now.st_mtime_ns == before[1].st_mtime_ns


def test_writing_where_it_is_allowed(desk: Desk, server: Any, ml_client: Any, tmp_path: Path) -> None:
    folder = desk.mount("desk", "--writable")
    (folder / "empty").mkdir()
    client = container(ml_client, server, "desk")
    client.upload_blob("sub/new.txt", b"new", metadata={"made": "here"})
    assert (folder / "sub" / "new.txt").read_bytes() == b"new"
    first = client.get_blob_client("sub/new.txt").get_blob_properties()
    assert first.metadata == {"made": "here"}
    with pytest.raises(ResourceExistsError):
        client.upload_blob("sub/new.txt", b"again")
    client.upload_blob("sub/new.txt", b"other", overwrite=True)
    assert client.get_blob_client("sub/new.txt").get_blob_properties().etag != first.etag
    big = os.urandom(6 << 20)
    in_blocks = client.get_blob_client("big.bin")
    in_blocks.stage_block("MQ==", big[: 3 << 20])
    in_blocks.stage_block("Mg==", big[3 << 20 :])
    assert not (folder / "big.bin").exists()
    in_blocks.commit_block_list(["MQ==", "Mg=="])
    assert (folder / "big.bin").read_bytes() == big
    client.delete_blob("big.bin")
    client.delete_blob("sub/new.txt")
    # Their folders are theirs: none goes because it is empty, and a failed write leaves none.
    with pytest.raises(HttpResponseError) as unmet:
        client.upload_blob("made/up/x", b"x", overwrite=True, etag='"0x1"', match_condition=unchanged())
    assert unmet.value.status_code == 412
    assert tree(folder) == ["empty", "sub"]
    # An upload of the SDK, and a job's output.
    (tmp_path / "local.txt").write_text("local")
    asset = ml_client.data.create_or_update(
        Data(name="up", type="uri_file", path=str(tmp_path / "local.txt"), datastore="desk")
    )
    assert "/datastores/desk/paths/" in asset.path
    [uploaded] = folder.rglob("local.txt")
    assert uploaded.read_text() == "local"
    job = run(
        ml_client,
        "echo made > ${{outputs.out}}/made.txt",
        outputs={"out": Output(type="uri_folder", path="azureml://datastores/desk/paths/results/1/")},
    )
    assert job.status == "Completed"
    assert (folder / "results" / "1" / "made.txt").read_text() == "made\n"
    assert client.download_blob("results/1/made.txt").readall() == b"made\n"
    # Mounted again for reading only: the signature given out before opens no writing any more.
    desk.mount("desk", folder=folder)
    with pytest.raises(HttpResponseError) as refused:
        client.upload_blob("late.txt", b"x")
    assert refused.value.status_code == 403 and not (folder / "late.txt").exists()
