"""The surface as azure-storage-blob and azure-ai-ml's uploader see it, over TLS."""

from __future__ import annotations

import os
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobBlock, BlobServiceClient, ContainerClient, ContentSettings

ACCOUNT = "aml0123456789ab"
OTHER_ACCOUNT = "amlba9876543210"


@pytest.fixture
def name() -> str:
    return f"c-{uuid.uuid4()}"


@pytest.fixture
def container(blob_server, name) -> ContainerClient:
    return blob_server.container(name)


def file_of(blob_server, container: str, blob: str) -> Path:
    return blob_server.root / "blobs" / ACCOUNT / container / blob


def test_small_blob_there_and_back(blob_server, container, name):
    blob = container.get_blob_client("folder/ünïcode name;+%25.bin")
    assert not blob.exists()
    content = os.urandom(100_000)
    answer = blob.upload_blob(content, metadata={"upload_status": "completed", "name": "n", "version": "1"})
    assert file_of(blob_server, name, "folder/ünïcode name;+%25.bin").read_bytes() == content
    properties = blob.get_blob_properties()
    assert properties.size == 100_000
    assert properties.etag == answer["etag"]
    assert properties.blob_type == "BlockBlob"
    assert properties.content_settings.content_type == "application/octet-stream"
    assert bytes(properties.content_settings.content_md5) == bytes(answer["content_md5"])
    assert properties.metadata == {"upload_status": "completed", "name": "n", "version": "1"}
    assert abs(properties.last_modified - datetime.now(UTC)) < timedelta(minutes=1)
    assert blob.download_blob().readall() == content
    assert blob.download_blob(validate_content=True).readall() == content


def test_an_existing_blob_is_kept_unless_overwritten(container):
    blob = container.get_blob_client("a.txt")
    blob.upload_blob(b"first")
    with pytest.raises(ResourceExistsError) as caught:
        blob.upload_blob(b"second")
    assert caught.value.error_code == "BlobAlreadyExists"
    assert blob.download_blob().readall() == b"first"
    blob.upload_blob(b"third", overwrite=True)
    assert blob.download_blob().readall() == b"third"
    old = blob.get_blob_properties().etag
    blob.upload_blob(b"later", overwrite=True)
    with pytest.raises(ResourceModifiedError):
        blob.upload_blob(b"x", overwrite=True, etag=old, match_condition=MatchConditions.IfNotModified)
    with pytest.raises(ResourceModifiedError):
        blob.download_blob(etag=old, match_condition=MatchConditions.IfNotModified)


def test_blocks_make_a_blob(blob_server, name):
    sizes = {"max_single_put_size": 1 << 20, "max_block_size": 1 << 18}
    container = blob_server.container(name, **sizes)
    blob = container.get_blob_client("big/model.pt")
    content = os.urandom(3_500_001)
    blob.upload_blob(content, max_concurrency=8, content_settings=ContentSettings(content_type="x/y"))
    assert file_of(blob_server, name, "big/model.pt").read_bytes() == content
    assert blob.get_blob_properties().content_settings.content_type == "x/y"
    assert not any((blob_server.root / "tmp" / "blocks").iterdir())
    with pytest.raises(ResourceExistsError):
        blob.upload_blob(content)
    assert not any((blob_server.root / "tmp" / "uploads").iterdir())


def test_a_block_list_can_be_sent_again_and_reuse_committed_blocks(container):
    blob = container.get_blob_client("blocks")
    blob.stage_block("MQ==", b"one.")
    blob.stage_block("Mg==", b"two.")
    assert not blob.exists()
    both = [BlobBlock("MQ=="), BlobBlock("Mg==")]
    blob.commit_block_list(both)
    blob.commit_block_list(both)
    assert blob.download_blob().readall() == b"one.two."
    blob.stage_block("Mw==", b"three.")
    blob.commit_block_list([BlobBlock("Mw=="), BlobBlock("MQ==")])
    assert blob.download_blob().readall() == b"three.one."
    with pytest.raises(HttpResponseError) as caught:
        blob.commit_block_list([BlobBlock("Mg==")])
    assert (caught.value.status_code, caught.value.error_code) == (400, "InvalidBlockList")
    assert blob.download_blob().readall() == b"three.one."


def test_metadata_is_replaced_and_the_rest_stays(container):
    blob = container.get_blob_client("m")
    blob.upload_blob(b"x", metadata={"a": "1"}, content_settings=ContentSettings(content_type="image/png"))
    blob.set_blob_metadata({"b": "2", "upload_status": "completed"})
    properties = blob.get_blob_properties()
    assert properties.metadata == {"b": "2", "upload_status": "completed"}
    assert properties.content_settings.content_type == "image/png"
    assert properties.content_settings.content_md5 is not None
    with pytest.raises(ResourceNotFoundError):
        container.get_blob_client("none").set_blob_metadata({"a": "1"})


def test_listing_prefixes_walk_and_pages(container):
    names = ["a.txt", "a/1", "a/2/deep", "a-b", "b/x y&<z>", "c"]
    for blob in names:
        container.upload_blob(blob, b"12345", metadata={"of": "me"})
    assert [blob.name for blob in container.list_blobs()] == sorted(names)
    assert [blob.name for blob in container.list_blobs(name_starts_with="a/")] == ["a/1", "a/2/deep"]
    assert [blob.name for blob in container.list_blobs(name_starts_with="a")] == sorted(names)[:4]
    # The client puts the prefixes of each page first.
    assert [item.name for item in container.walk_blobs()] == ["a/", "b/", "a-b", "a.txt", "c"]
    assert [item.name for item in container.walk_blobs("a/")] == ["a/2/", "a/1"]
    assert [item.name for item in container.walk_blobs("b/")] == ["b/x y&<z>"]
    pages = [[blob.name for blob in page] for page in container.list_blobs(results_per_page=4).by_page()]
    assert pages == [sorted(names)[:4], sorted(names)[4:]]
    pages = [[item.name for item in page] for page in container.walk_blobs(results_per_page=2).by_page()]
    assert pages == [["a-b", "a.txt"], ["a/", "b/"], ["c"]]
    (with_metadata,) = container.list_blobs(name_starts_with="c", include="metadata")
    assert with_metadata.metadata == {"of": "me"}
    assert (with_metadata.size, with_metadata.blob_type) == (5, "BlockBlob")
    assert list(container.list_blobs(name_starts_with="../")) == []


def test_ranges_and_empty_blobs(container):
    content = os.urandom(1_000_000)
    blob = container.upload_blob("r", content)
    assert blob.download_blob(offset=10, length=20).readall() == content[10:30]
    assert blob.download_blob(offset=999_999).readall() == content[-1:]
    with pytest.raises(HttpResponseError) as caught:
        blob.download_blob(offset=1_000_000)
    assert (caught.value.status_code, caught.value.error_code) == (416, "InvalidRange")
    empty = container.upload_blob("empty", b"")
    assert empty.download_blob().readall() == b""
    assert empty.get_blob_properties().size == 0


def test_parallel_ranged_download(blob_server, name):
    sizes = {"max_single_get_size": 1 << 20, "max_chunk_get_size": 1 << 18}
    container = blob_server.container(name, **sizes)
    content = os.urandom(5_000_003)
    blob = container.upload_blob("r", content)
    assert blob.download_blob(max_concurrency=8).readall() == content


def test_delete(blob_server, container, name):
    container.upload_blob("d/e/f", b"x")
    container.upload_blob("d/g", b"x")
    container.delete_blob("d/e/f")
    assert not file_of(blob_server, name, "d/e").exists()
    with pytest.raises(ResourceNotFoundError) as caught:
        container.delete_blob("d/e/f")
    assert caught.value.error_code == "BlobNotFound"
    assert [blob.name for blob in container.list_blobs()] == ["d/g"]


def test_a_name_that_is_another_blobs_folder(container):
    container.upload_blob("a", b"x")
    container.upload_blob("b/c", b"x")
    for blob in ("a/b", "b"):
        for overwrite in (False, True):
            with pytest.raises(HttpResponseError, match="one name cannot be the folder of another") as caught:
                container.upload_blob(blob, b"y", overwrite=overwrite)
            assert (caught.value.status_code, caught.value.error_code) == (409, "PathConflict")
    container.delete_blob("a")
    container.upload_blob("a/b", b"y")


def test_files_that_jobs_write_are_blobs(blob_server, container, name):
    container.upload_blob("first", b"x")
    path = file_of(blob_server, name, "user_logs/std_log.txt")
    path.parent.mkdir()
    path.write_text("epoch 1\n")
    blob = container.get_blob_client("user_logs/std_log.txt")
    assert blob.download_blob().readall() == b"epoch 1\n"
    with path.open("a") as log:
        log.write("epoch 2\n")
    assert blob.download_blob().readall() == b"epoch 1\nepoch 2\n"
    assert [item.name for item in container.list_blobs()] == ["first", "user_logs/std_log.txt"]
    blob.set_blob_metadata({"k": "v"})
    assert blob.get_blob_properties().metadata == {"k": "v"}


def test_signatures_open_their_own_container_only(blob_server, container, name):
    container.upload_blob("secret", b"x")
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    refused = {
        "another container": blob_server.sas("another"),
        "another account": blob_server.sas(name, account=OTHER_ACCOUNT),
        "expired": blob_server.sas(name, expires=now - timedelta(seconds=2)),
        "another blob": blob_server.sas(name, blob="other"),
        "longer": blob_server.sas(name).replace("se=20", "se=21"),
        "wider": blob_server.sas(name, "l").replace("sp=l", "sp=rl"),
        "shorter": blob_server.sas(name)[:-1],
    }
    for sas in refused.values():
        with pytest.raises(ClientAuthenticationError) as caught:
            blob_server.container(name, sas).download_blob("secret")
        assert (caught.value.status_code, caught.value.error_code) == (403, "AuthenticationFailed")
    one = blob_server.container(name, blob_server.sas(name, "r", blob="secret", expires=now + hour))
    assert one.download_blob("secret").readall() == b"x"
    with pytest.raises(ClientAuthenticationError):
        list(one.list_blobs())


def test_permissions(blob_server, container, name):
    container.upload_blob("there", b"x")
    reader = blob_server.container(name, blob_server.sas(name, "r"))
    assert reader.download_blob("there").readall() == b"x"
    for refused in (
        lambda: list(reader.list_blobs()),
        lambda: reader.upload_blob("new", b"x"),
        lambda: reader.delete_blob("there"),
        lambda: reader.get_blob_client("there").set_blob_metadata({"a": "b"}),
    ):
        with pytest.raises(HttpResponseError) as caught:
            refused()
        assert (caught.value.status_code, caught.value.error_code) == (403, "AuthorizationPermissionMismatch")
    creator = blob_server.container(name, blob_server.sas(name, "c"))
    creator.upload_blob("new", b"x")
    with pytest.raises(HttpResponseError) as caught:
        creator.upload_blob("new", b"y", overwrite=True)
    assert (caught.value.status_code, caught.value.error_code) == (403, "UnauthorizedBlobOverwrite")
    assert container.download_blob("new").readall() == b"x"


def test_a_missing_container(blob_server, name):
    container = blob_server.container(name)
    assert not container.exists()
    assert not container.get_blob_client("a").exists()
    with pytest.raises(ResourceNotFoundError) as caught:
        list(container.list_blobs())
    assert caught.value.error_code == "ContainerNotFound"
    container.create_container()
    assert container.exists()
    assert list(container.list_blobs()) == []
    with pytest.raises(ResourceExistsError) as exists:
        container.create_container()
    assert exists.value.error_code == "ContainerAlreadyExists"


def test_parallel_uploads_of_one_new_name_have_one_winner(blob_server, name):
    sas = blob_server.sas(name)
    barrier = threading.Barrier(8)
    won: list[int] = []
    lost: list[str] = []

    def upload(number: int) -> None:
        client = blob_server.container(name, sas)
        barrier.wait()
        for round_ in range(5):
            try:
                client.upload_blob(f"f/{round_}", bytes([number]) * 50_000, metadata={"by": str(number)})
                won.append(round_)
            except ResourceExistsError as error:
                lost.append(str(error.error_code))

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [0, 1, 2, 3, 4]
    assert lost == ["BlobAlreadyExists"] * 35
    container = blob_server.container(name, sas)
    for round_ in range(5):
        content = container.download_blob(f"f/{round_}").readall()
        owner = container.get_blob_client(f"f/{round_}").get_blob_properties().metadata["by"]
        assert content == bytes([int(owner)]) * 50_000


def test_the_uploader_of_azure_ai_ml(blob_server, name, tmp_path, monkeypatch):
    pytest.importorskip("azure.ai.ml")
    from azure.ai.ml._artifacts import _blob_storage_helper as helper

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(blob_server.ca))
    monkeypatch.setattr(helper, "_get_cloud_details", lambda: {"storage_endpoint": "core.windows.net"})
    source = tmp_path / "train"
    (source / "images").mkdir(parents=True)
    (source / "MLTable").write_text("paths: []\n")
    for number in range(3):
        (source / "images" / f"{number}.jpg").write_bytes(os.urandom(1000))
    (source / "images" / "empty.jpg").write_bytes(b"")
    url = f"https://localhost:{blob_server.port}/{ACCOUNT}.blob.core.windows.net"

    def client() -> helper.BlobStorageClient:
        return helper.BlobStorageClient(blob_server.sas(name), url, name)

    first = client().upload(str(source), "data", "1", asset_hash="cafe", show_progress=False)
    assert first["name"] == "data"
    again = client().upload(str(source), "other", "9", asset_hash="cafe", show_progress=False)
    assert (again["name"], again["version"]) == ("data", "1")
    prefix = first["remote path"].rstrip("/")
    assert client().exists(prefix)
    assert client().exists(prefix + "/")
    assert not client().exists(prefix + "/none/")
    target = tmp_path / "down"
    client().download(prefix, str(target))
    for path in source.rglob("*"):
        if path.is_file():
            assert (target / path.relative_to(source)).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_seventy_mebibytes_by_the_default_block_path(blob_server, name):
    content = os.urandom(70 << 20)
    service = BlobServiceClient(
        f"https://localhost:{blob_server.port}/{ACCOUNT}",
        credential=blob_server.sas(name),
        connection_verify=str(blob_server.ca),
    )
    blob = service.get_blob_client(name, "big")
    blob.upload_blob(content, max_concurrency=4)
    assert blob.download_blob(max_concurrency=4).readall() == content
