"""A data folder on a file system that fills up: told as such, nothing acknowledged lost, well again after."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server, wait_for
from raw_client import ENDED, RawClient, command_job, data_asset, integrity, worker_pid

from amlocal.emulator.cli import instance

SIZE = 48 * 1024**2
FULL = "The disk of the data folder is full."


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a tmpfs of its own."""
    place = tmp_path_factory.mktemp("small")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    server = Server(place / "data", instance.free_ports()[0])
    try:
        server.start()
        run_dir = Path(json.loads(server.folder.server_file.read_text())["run_dir"])
        wait_for((run_dir / "mlflow.sock").exists, 60, "MLflow")
        yield server
    finally:
        server.stop()
        subprocess.run(["umount", "-l", str(place)], check=True)


class Ballast:
    """Fills the file system to the last byte, and frees it."""

    def __init__(self, root: Path) -> None:
        self._file = root.parent / "ballast"

    def fill(self) -> None:
        with self._file.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with pytest.raises(OSError):
                    while True:
                        file.write(b"\0" * size)
        assert shutil.disk_usage(self._file.parent).free == 0

    def free(self) -> None:
        self._file.unlink(missing_ok=True)


@pytest.fixture
def ballast(small: Server) -> Iterator[Ballast]:
    made = Ballast(small.root)
    yield made
    made.free()


@pytest.fixture
def client(small: Server) -> Iterator[RawClient]:
    made = RawClient(small)
    yield made
    made.close()


def checkpointed(server: Server) -> None:
    """Puts the write-ahead log back to nothing, so that the next write needs space."""
    import sqlite3

    connection = sqlite3.connect(server.folder.database, timeout=10)
    try:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    finally:
        connection.close()


def test_writes_are_refused_and_nothing_is_lost(small: Server, client: RawClient, ballast: Ballast) -> None:
    acknowledged = {}
    for number in range(20):
        name = f"kept/{number}.bin"
        assert client.put_blob(name, os.urandom(1000) + bytes([number]))[0] == 201
        acknowledged[name] = client.raw("GET", client.blob_path(name))[1]
        assert client.arm("PUT", f"data/kept/versions/{number}", data_asset(name))[0] == 201
    pid = worker_pid(small)
    checkpointed(small)
    ballast.fill()

    status, body, headers = client.raw(
        "PUT", client.blob_path("refused.bin"), os.urandom(300_000), {"x-ms-blob-type": "BlockBlob"}
    )
    assert status == 507 and b"<Code>InsufficientStorage</Code>" in body and FULL.encode() in body
    assert headers["x-ms-error-code"] == "InsufficientStorage"
    block = client.blob_path("refused.bin") + "?comp=block&blockid=MDAwMQ=="
    assert client.raw("PUT", block, os.urandom(300_000))[0] == 507
    status, answer = client.arm("PUT", "data/refused/versions/1", data_asset("kept/0.bin", pad="x" * 100_000))
    assert status == 507, answer
    assert answer["error"]["code"] == "InsufficientStorage" and FULL in answer["error"]["message"]
    status, answer = client.arm("PUT", "jobs/refused", command_job("true", tags={"pad": "x" * 100_000}))
    assert status == 507 and answer["error"]["code"] == "InsufficientStorage", answer
    status, answer = client.arm("PUT", "onlineEndpoints/refused", {"properties": {"authMode": "Key"}})
    assert status in (400, 507), answer

    # It still reads, and shows nothing of what it refused.
    assert worker_pid(small) == pid
    for path in ("data/refused/versions/1", "jobs/refused", "onlineEndpoints/refused"):
        assert client.arm("GET", path)[0] == 404, path
    assert client.raw("GET", client.blob_path("refused.bin"))[0] == 404
    assert "refused.bin" not in client.blobs()
    assert list((small.folder.tmp / "uploads").iterdir()) == []
    for name, content in acknowledged.items():
        assert client.raw("GET", client.blob_path(name))[1] == content

    ballast.free()
    assert client.put_blob("refused.bin", b"now")[0] == 201
    assert client.arm("PUT", "data/refused/versions/1", data_asset("kept/0.bin"))[0] == 201
    assert client.arm("PUT", "jobs/refused", command_job("true"))[0] == 201
    assert worker_pid(small) == pid
    found = {item["name"] for item in client.all("data/kept/versions")}
    assert found == {str(number) for number in range(20)}
    assert set(integrity(small)) == {"ok"}


def ended(client: RawClient, name: str) -> Callable[[], Any]:
    def look() -> Any:
        status, body = client.arm("GET", f"jobs/{name}")
        assert status == 200, body
        return body["properties"] if body["properties"]["status"] in ENDED else None

    return look


def message(client: RawClient, name: str) -> str:
    import json

    status, body, _ = client.raw("GET", f"/history/v1.0{client.workspace}/runs/{name}/details")
    assert status == 200, body
    return str(json.loads(body)["error"]["error"]["message"])


def test_a_job_that_fills_the_disk_fails_for_that(small: Server, client: RawClient) -> None:
    command = "head -c 1000000000 /dev/zero > big || exit 1"
    checkpointed(small)
    assert client.arm("PUT", "jobs/greedy", command_job(command))[0] == 201
    found = wait_for(ended(client, "greedy"), 60, "the end of the job")
    assert found["status"] == "Failed"
    assert "exit code 1" in message(client, "greedy") and FULL in message(client, "greedy")
    # Its private copy is gone, so the disk has room again.
    assert shutil.disk_usage(small.root).free > SIZE // 4
    assert client.arm("PUT", "jobs/after-greedy", command_job("true"))[0] == 201
    assert wait_for(ended(client, "after-greedy"), 60, "the next job")["status"] == "Completed"


def test_a_job_waits_out_a_full_disk(small: Server, client: RawClient, ballast: Ballast) -> None:
    """Submitted before and ended while nothing could be written: it ends well once there is space."""
    import json

    flag, mark = small.root.parent.parent / "go", small.root.parent.parent / "mark"
    command = f"echo x >> {mark}; while [ ! -e {flag} ]; do sleep 0.05; done"
    assert client.arm("PUT", "jobs/patient", command_job(command))[0] == 201
    wait_for(mark.exists, 60, "the command")
    checkpointed(small)
    ballast.fill()
    flag.write_text("")
    folder = next(small.folder.jobs.glob("*/patient"))
    wait_for((folder / "exit-1.json").exists, 30, "the record of the end, which had its space reserved")
    assert json.loads((folder / "exit-1.json").read_text())["returncode"] == 0
    ballast.free()
    assert wait_for(ended(client, "patient"), 60, "the end of the job")["status"] == "Completed"
    assert mark.read_text() == "x\n"
