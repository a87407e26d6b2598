"""Mounted folders in the long run: links in them, restarts, other workspaces, unmounting."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import Input
from azure.ai.ml.entities import Data
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import ContainerClient
from mount_desk import QUICK, Desk, configure, container, opened, run, tree


@pytest.fixture(scope="module")
def desk(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    yield from opened(server, tmp_path_factory.mktemp)


def test_links_and_special_files(desk: Desk, server: Any, ml_client: Any) -> None:
    folder = desk.mount("odd", "--writable")
    (desk.outside / "secret.txt").write_text("s3cret")
    (folder / "real.txt").write_text("real")
    (folder / "link.txt").symlink_to(desk.outside / "secret.txt")
    (folder / "passwd").symlink_to("/etc/passwd")
    (folder / "out").symlink_to(desk.outside)
    (folder / "loop").symlink_to("loop")
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(folder)  # the name of a socket is short
        listener.bind("socket")
        os.chdir(here)
    if os.geteuid() == 0:
        os.mknod(folder / "null", 0o020666, os.makedev(1, 3))
    client = container(ml_client, server, "odd")
    assert [blob.name for blob in client.list_blobs()] == ["real.txt"]
    assert [item.name for item in client.walk_blobs()] == ["real.txt"]
    for name in ("link.txt", "passwd", "out/secret.txt", "loop", "loop/x", "up/x", "pipe", "socket", "null"):
        with pytest.raises(ResourceNotFoundError):
            client.download_blob(name).readall()
        with pytest.raises(ResourceNotFoundError):
            client.delete_blob(name)
    for name in ("out/new.txt", "loop/new.txt", "up/new.txt"):
        with pytest.raises(ResourceExistsError) as conflict:
            client.upload_blob(name, b"x", overwrite=True)
        assert conflict.value.error_code == "PathConflict"
    for name in ("link.txt", "out/secret.txt", "passwd"):
        with pytest.raises(HttpResponseError) as refused:
            run(
                ml_client,
                "true",
                inputs={"x": Input(type="uri_file", path=f"azureml://datastores/odd/paths/{name}")},
            )
        assert refused.value.status_code == 400 and "link" in refused.value.message
        with pytest.raises(HttpResponseError) as asset:
            ml_client.data.create_or_update(
                Data(name="odd", type="uri_file", path=f"azureml://datastores/odd/paths/{name}")
            )
        assert asset.value.status_code == 400
    # Writing over a link puts a file in the link's place; what it pointed at stays.
    client.upload_blob("link.txt", b"mine", overwrite=True)
    assert not (folder / "link.txt").is_symlink() and (folder / "link.txt").read_bytes() == b"mine"
    assert tree(desk.outside) == ["secret.txt"]
    assert (desk.outside / "secret.txt").read_text() == "s3cret"


def test_workspaces_do_not_share_mounts(
    desk: Desk, server: Any, ml_client: Any, other_client: Callable[[str, str, str], Any]
) -> None:
    other = other_client("sub-mount", "group-mount", "space-mount")
    folder = desk.allowed / "theirs"
    folder.mkdir()
    (folder / "x.txt").write_text("theirs")
    triple = "sub-mount/group-mount/space-mount"
    done = desk.run("mount", "theirs", str(folder), "--workspace", triple)
    assert done.returncode == 0, done.stderr
    assert container(other, server, "theirs").download_blob("x.txt").readall() == b"theirs"
    assert "theirs" not in desk.run("list").stdout
    assert desk.run("list", "--workspace", triple).stdout == f"theirs  read-only  {folder}\n"
    with pytest.raises(ResourceNotFoundError):
        ml_client.datastores.get("theirs")
    # Its container's name in the other workspace's account leads nowhere.
    mine = ml_client.datastores.get_default().account_name
    name = other.datastores.get("theirs").container_name
    from azure.identity import DefaultAzureCredential

    crossed = ContainerClient(
        f"https://{mine}.blob.core.windows.net",
        name,
        credential=DefaultAzureCredential(),
        connection_verify=str(server.folder.tls / "ca.pem"),
        **QUICK,
    )
    with pytest.raises(ResourceNotFoundError):
        crossed.download_blob("x.txt")
    with pytest.raises(HttpResponseError) as reserved:
        crossed.create_container()
    assert reserved.value.status_code == 400


def test_restarts_and_folders_that_go(desk: Desk, server: Any, ml_client: Any) -> None:
    folder = desk.mount("lasting")
    (folder / "x.txt").write_text("x")
    gone = desk.mount("gone")
    configure(server, [desk.allowed])
    assert container(ml_client, server, "lasting").download_blob("x.txt").readall() == b"x"
    gone.rmdir()
    with pytest.raises(ResourceNotFoundError) as lost:
        list(container(ml_client, server, "gone").list_blobs())
    assert "which is not there" in lost.value.message and str(gone) in lost.value.message
    gone.symlink_to(desk.outside)
    with pytest.raises(HttpResponseError) as replaced:
        list(container(ml_client, server, "gone").list_blobs())
    assert replaced.value.status_code == 403
    configure(server, [desk.allowed / "other"])
    assert ml_client.datastores.get("lasting").type == "AzureBlob"
    assert "lasting" in [store.name for store in ml_client.datastores.list()]
    with pytest.raises(HttpResponseError) as refused:
        list(container(ml_client, server, "lasting").list_blobs())
    assert refused.value.status_code == 403
    assert f"amlocal serve --allow-path {folder}" in refused.value.message
    with pytest.raises(HttpResponseError) as submitted:
        run(
            ml_client,
            "true",
            inputs={"x": Input(type="uri_file", path="azureml://datastores/lasting/paths/x.txt")},
        )
    assert submitted.value.status_code == 403 and "--allow-path" in submitted.value.message
    [line] = [line for line in desk.run("list").stdout.splitlines() if line.startswith("lasting ")]
    assert "--allow-path" in line
    configure(server, [desk.allowed])
    assert container(ml_client, server, "lasting").download_blob("x.txt").readall() == b"x"


def test_unmounting_leaves_the_files(desk: Desk, server: Any, ml_client: Any) -> None:
    for name, remove in (
        ("done-1", lambda: desk.run("unmount", "done-1").returncode),
        ("done-2", lambda: ml_client.datastores.delete("done-2")),
    ):
        folder = desk.mount(name, "--writable")
        client = container(ml_client, server, name)
        client.upload_blob("x.txt", b"x", metadata={"a": "b"})
        assert remove() in (0, None)
        assert (folder / "x.txt").read_bytes() == b"x"
        with pytest.raises(ResourceNotFoundError):
            ml_client.datastores.get(name)
        with pytest.raises(ResourceNotFoundError):
            client.download_blob("x.txt")
        with pytest.raises(ResourceNotFoundError):
            client.upload_blob("y.txt", b"y")
        assert tree(folder) == ["x.txt"]
    assert "No folder is mounted" in desk.refused("unmount", "done-1")


def test_the_sdk_cannot_point_a_mount_elsewhere(desk: Desk, ml_client: Any) -> None:
    desk.mount("fixed")
    store = ml_client.datastores.get("fixed")
    store.description = "told"
    ml_client.datastores.create_or_update(store)
    assert ml_client.datastores.get("fixed").description == "told"
    assert "fixed" in desk.run("list").stdout
    store.container_name = "another-one"
    with pytest.raises(HttpResponseError) as refused:
        ml_client.datastores.create_or_update(store)
    assert refused.value.status_code == 409
    other = desk.allowed / "another-folder"
    other.mkdir()
    assert "exists already" in desk.refused("mount", "fixed", str(other))


def test_with_no_server_running(new_server: Callable[[], Any], tmp_path: Path) -> None:
    server = new_server()
    done = server.command("datastore", "list", "--data-dir", str(server.root))
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "d").mkdir()
    arguments = ("datastore", "mount", "early", str(tmp_path / "d"), "--data-dir", str(server.root))
    assert "--allow-path" in server.command(*arguments).stderr
    (server.root / "config.toml").write_text(f"allow_paths = [{json.dumps(str(tmp_path))}]")
    assert server.command(*arguments).returncode == 0
    shown = server.command("datastore", "list", "--data-dir", str(server.root)).stdout
    assert shown == f"early  read-only  {tmp_path / 'd'}\n"
    done = server.command("datastore", "unmount", "early", "--data-dir", str(server.root))
    assert done.returncode == 0, done.stderr
    assert server.command("datastore", "list", "--data-dir", str(server.root)).stdout == ""
