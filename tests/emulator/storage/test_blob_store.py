from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.storage.blobs import BlobStore
from amlocal.emulator.storage.conditions import Conditions
from amlocal.emulator.storage.documents import parse_block_list
from amlocal.emulator.storage.inputs import byte_range
from amlocal.emulator.storage.names import BlobRef

ACCOUNT = "aml0123456789ab"


def ref(name: str, container: str = "box") -> BlobRef:
    return BlobRef(ACCOUNT, container, name)


def path_of(store_root: Path, name: str) -> Path:
    return store_root / "blobs" / ACCOUNT / "box" / name


def names(store: BlobStore, **options: object) -> list[str]:
    page = store.list(ACCOUNT, "box", **options)
    return [item if isinstance(item, str) else item.ref.blob for item in page.items]


def error_of(action, *arguments, **options) -> tuple[int, str]:
    with pytest.raises(AzureError) as caught:
        action(*arguments, **options)
    return caught.value.status, caught.value.code


def test_a_changed_file_has_no_md5_and_no_metadata(blob_store, tmp_path):
    written = blob_store.put(
        ref("f"), io.BytesIO(b"one"), metadata={"a": "1"}, headers={"content-type": "x/y"}
    )
    assert written.md5 == base64.b64encode(hashlib.md5(b"one").digest()).decode()
    assert blob_store.properties(ref("f")) == written
    path = path_of(tmp_path, "f")
    before = path.stat()
    path.write_bytes(b"two")
    changed = blob_store.properties(ref("f"))
    assert (changed.md5, changed.metadata, changed.headers) == (None, {}, {})
    assert changed.etag != written.etag
    # Same size and time, another inode, as in a copy of the data folder: metadata stays, MD5 is not claimed.
    copy = tmp_path / "copy"
    copy.write_bytes(b"one")
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    copy.replace(path)
    assert path.stat().st_ino != before.st_ino
    copied = blob_store.properties(ref("f"))
    assert (copied.md5, copied.metadata) == (None, {"a": "1"})


def test_a_broken_sidecar_is_passed_over(blob_store, tmp_path):
    blob_store.put(ref("f"), io.BytesIO(b"one"), metadata={"a": "1"})
    (sidecar,) = (path for path in (tmp_path / "meta").rglob("*.json"))
    assert json.loads(sidecar.read_text())["blob"] == "f"
    for broken in (b"", b"{", b"[]", b'{"schema": 9}', b"\xff"):
        sidecar.write_bytes(broken)
        assert blob_store.properties(ref("f")).metadata == {}
        with blob_store.open(ref("f")) as blob:
            assert blob.file.read() == b"one"


def test_modes(blob_store, tmp_path):
    blob_store.put(ref("d/f"), io.BytesIO(b"one"), metadata={"a": "1"})
    for path in tmp_path.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


def test_a_failed_write_leaves_no_folder_behind(blob_store, tmp_path):
    blob_store.create_container(ACCOUNT, "box")
    conditions = Conditions(if_match='"x"')
    assert error_of(blob_store.put, ref("a/b/c"), io.BytesIO(b"x"), conditions=conditions)[0] == 412
    assert error_of(blob_store.put, ref("a/b"), io.BytesIO(b"x"), expected_size=5) == (400, "IncompleteBody")
    assert error_of(blob_store.put, ref("a/b"), io.BytesIO(b"x" * 9), max_size=8) == (
        413,
        "RequestBodyTooLarge",
    )
    assert list(path_of(tmp_path, "").iterdir()) == []
    assert list((tmp_path / "tmp" / "uploads").iterdir()) == []
    blob_store.put(ref("a"), io.BytesIO(b"x"))


def test_an_unfinished_source_changes_nothing(blob_store, tmp_path):
    class Cut(io.BytesIO):
        def read(self, size: int = -1, /) -> bytes:
            if self.tell():
                raise ConnectionResetError
            return super().read(3)

    blob_store.put(ref("f"), io.BytesIO(b"old"))
    with pytest.raises(ConnectionResetError):
        blob_store.put(ref("f"), Cut(b"newer"))
    with blob_store.open(ref("f")) as blob:
        assert blob.file.read() == b"old"
    assert list((tmp_path / "tmp" / "uploads").iterdir()) == []


def test_a_reader_keeps_the_blob_it_opened(blob_store):
    blob_store.put(ref("f"), io.BytesIO(b"old"))
    with blob_store.open(ref("f")) as blob:
        blob_store.put(ref("f"), io.BytesIO(b"new!"))
        assert blob.file.read() == b"old"
        assert blob.properties.size == 3
    blob_store.delete(ref("f"))
    assert error_of(blob_store.open, ref("f")) == (404, "BlobNotFound")


def test_writers_and_deleters_of_one_folder(blob_store):
    """A folder that a deletion removes while another blob of it is being written is made again."""
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(40):
                blob_store.put(ref(f"x/y/{name}"), io.BytesIO(b"1"))
                blob_store.delete(ref(f"x/y/{name}"))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert names(blob_store) == []


def test_blocks_of_old_uploads_go(blob_store, tmp_path):
    blob_store.put_block(ref("old"), "MQ==", io.BytesIO(b"1"))
    (folder,) = (tmp_path / "tmp" / "blocks").iterdir()
    os.utime(folder, (time.time() - 8 * 86400,) * 2)
    blob_store.put_block(ref("new"), "MQ==", io.BytesIO(b"1"))
    (tmp_path / "tmp" / "uploads" / "left.part").write_bytes(b"x")
    blob_store.clean()
    assert not folder.exists()
    assert len(list((tmp_path / "tmp" / "blocks").iterdir())) == 1
    assert list((tmp_path / "tmp" / "uploads").iterdir()) == []
    assert error_of(blob_store.put_block_list, ref("old"), [("Latest", "MQ==")]) == (400, "InvalidBlockList")
    blob_store.put_block_list(ref("new"), [("Uncommitted", "MQ==")])
    # The blob is there; the block is no longer uncommitted.
    assert error_of(blob_store.put_block_list, ref("new"), [("Uncommitted", "MQ==")])[0] == 400
    blob_store.put_block_list(ref("new"), [("Committed", "MQ=="), ("Latest", "MQ==")])
    with blob_store.open(ref("new")) as blob:
        assert blob.file.read() == b"11"


def test_committed_blocks_are_not_those_of_a_file_changed_since(blob_store, tmp_path):
    blob_store.put_block(ref("f"), "MQ==", io.BytesIO(b"1"))
    blob_store.put_block_list(ref("f"), [("Latest", "MQ==")])
    path_of(tmp_path, "f").write_bytes(b"by a job")
    assert error_of(blob_store.put_block_list, ref("f"), [("Latest", "MQ==")]) == (400, "InvalidBlockList")


def test_pages_are_stable_in_every_size(blob_store, tmp_path):
    every = ["0", "a", "a!", "b/c/d", "b/c0", "b-", "b/é", "z/z/z/z"]
    blob_store.create_container(ACCOUNT, "box")
    for name in every:
        path = path_of(tmp_path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    path_of(tmp_path, "empty/folder").mkdir(parents=True)
    os.mkfifo(path_of(tmp_path, "pipe"))
    path_of(tmp_path, "back\\slash").write_bytes(b"x")
    (Path(os.fsdecode(os.fsencode(path_of(tmp_path, "")) + b"/\xff\xfe"))).write_bytes(b"x")
    every.sort()
    grouped = {
        "": every,
        "/": ["0", "a", "a!", "b-", "b/", "z/"],
        "c": ["0", "a", "a!", "b-", "b/c", "b/é", "z/z/z/z"],
    }
    for delimiter, expected in grouped.items():
        for size in range(1, 10):
            found: list[str] = []
            marker = ""
            while True:
                page = blob_store.list(ACCOUNT, "box", delimiter=delimiter, marker=marker, max_results=size)
                assert len(page.items) <= size
                found += [item if isinstance(item, str) else item.ref.blob for item in page.items]
                marker = page.next_marker
                if not marker:
                    break
            assert found == expected, (delimiter, size)
    assert names(blob_store, prefix="b/c") == ["b/c/d", "b/c0"]
    assert names(blob_store, prefix="b/c", delimiter="/") == ["b/c/", "b/c0"]
    for prefix in ("../", "/", "b//", "b/../", "b/./", "\x00/", "nothing/"):
        assert names(blob_store, prefix=prefix) == []


def test_deep_folders_of_a_job_are_listed(blob_store, tmp_path):
    name = "/".join(["d"] * 200) + "/f"
    blob_store.put(ref(name), io.BytesIO(b"x"))
    assert names(blob_store) == [name]
    assert names(blob_store, delimiter="/") == ["d/"]


def test_a_link_in_place_of_a_container(blob_store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "f").write_bytes(b"secret")
    (tmp_path / "blobs" / ACCOUNT).mkdir()
    (tmp_path / "blobs" / ACCOUNT / "box").symlink_to(tmp_path / "elsewhere")
    assert error_of(blob_store.open, ref("f")) == (404, "ContainerNotFound")
    assert error_of(blob_store.list, ACCOUNT, "box") == (404, "ContainerNotFound")
    assert error_of(blob_store.put, ref("g"), io.BytesIO(b"x"))[0] == 409
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["f"]


def test_block_lists():
    body = b'<?xml version="1.0" encoding="utf-8"?>\n<BlockList>\n <Latest>MQ==</Latest>'
    body += b" <Committed>Mg==</Committed><Uncommitted> Mw== </Uncommitted></BlockList>"
    assert parse_block_list(body) == [("Latest", "MQ=="), ("Committed", "Mg=="), ("Uncommitted", "Mw==")]
    assert parse_block_list(b"<BlockList/>") == []
    for bad in (
        b"<BlockList>",
        b"<BlockList><Latest><Latest>MQ==</Latest></Latest></BlockList>",
        b"<!DOCTYPE x><BlockList/>",
        b'<?xml version="1.0" encoding="nonsense"?><BlockList/>',
        b"\x00",
        b"<BlockList><Latest>&x;</Latest></BlockList>",
    ):
        assert error_of(parse_block_list, bad) == (400, "InvalidXmlDocument")
    many = b"<BlockList>" + b"<Latest>MQ==</Latest>" * 50_001 + b"</BlockList>"
    assert error_of(parse_block_list, many) == (400, "BlockListTooLong")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-", (2, 8)),
        ("bytes=2-100", (2, 8)),
        ("bytes=-3", (7, 3)),
        ("bytes=-30", (0, 10)),
        ("bytes=9-9999999999999999999", (9, 1)),
        ("bytes=0-33554431", (0, 10)),
        ("bytes=99999999999999999999999-", None),
        ("bytes=5-4", None),
        ("", None),
    ],
)
def test_ranges(text, expected):
    assert byte_range({"Range": text}, 10) == expected


def test_ranges_outside():
    for text, size in (("bytes=0-5", 0), ("bytes=-5", 0), ("bytes=10-", 10), ("bytes=-0", 10)):
        assert error_of(byte_range, {"x-ms-range": text}, size) == (416, "InvalidRange")
