"""What survives a power loss: every file is on disk before its name, and its name before the answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from amlocal.emulator.storage.blobs import BlobStore
from amlocal.emulator.storage.names import BlobRef
from amlocal.emulator.store import tables
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import write_atomic

ACCOUNT, CONTAINER = "aml0123456789ab", "container"


class Disk:
    """Notes what is made durable and what gets its name, in order; it does both."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, str]] = []
        for name in ("fsync", "rename", "replace", "link", "unlink"):
            patch.setattr(os, name, self._noting(name, getattr(os, name)))

    def _noting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            if name == "fsync":
                path = os.readlink(f"/proc/self/fd/{given[0]}")
            else:
                path = os.fspath(given[-1])
                folder = more.get("dst_dir_fd", more.get("dir_fd"))
                if folder is not None:
                    path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
                if name != "unlink":
                    self.events.append(("source", os.fspath(given[0])))
            result = real(*given, **more)
            self.events.append((name, path))
            return result

        return call

    def check(self, target: Path) -> None:
        """`target` got its name after its content was durable, and its folder was made durable after that."""
        named = [
            index
            for index, (name, path) in enumerate(self.events)
            if name in ("rename", "replace", "link") and path == str(target)
        ]
        assert named, self.events
        source = self.events[named[-1] - 1]
        assert source[0] == "source"
        assert ("fsync", source[1]) in self.events[: named[-1]], self.events
        assert ("fsync", str(target.parent)) in self.events[named[-1] :], self.events


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path / "blobs", tmp_path / "meta", tmp_path / "tmp")
    store.create_container(ACCOUNT, CONTAINER)
    return store


def test_write_atomic(tmp_path: Path, disk: Disk) -> None:
    write_atomic(tmp_path / "file.json", b"{}")
    disk.check(tmp_path / "file.json")


def test_a_file_among_those_that_clients_list_is_prepared_elsewhere(tmp_path: Path, disk: Disk) -> None:
    (tmp_path / "shown").mkdir()
    write_atomic(tmp_path / "shown" / "report.json", b"{}", staging=tmp_path)
    disk.check(tmp_path / "shown" / "report.json")
    sources = [Path(path).parent for name, path in disk.events if name == "source"]
    assert sources == [tmp_path]
    assert [path.name for path in tmp_path.iterdir()] == ["shown"]


@pytest.mark.parametrize("new_only", [False, True])
def test_a_blob(tmp_path: Path, blobs: BlobStore, disk: Disk, new_only: bool) -> None:
    from amlocal.emulator.storage.conditions import Conditions

    conditions = Conditions(if_none_match="*") if new_only else Conditions()
    ref = BlobRef(ACCOUNT, CONTAINER, "new/folder/blob.bin")
    blobs.put(ref, BytesIO(b"content"), metadata={"a": "b"}, conditions=conditions)
    target = tmp_path / "blobs" / ACCOUNT / CONTAINER / "new" / "folder" / "blob.bin"
    disk.check(target)
    # The folders that were made for it, too.
    for folder in (target.parent.parent, target.parent.parent.parent):
        assert ("fsync", str(folder)) in disk.events
    # Metadata is a part of what was acknowledged; the MD5 alone could be counted again.
    sidecar = next((tmp_path / "meta").rglob("*.json"))
    disk.check(sidecar)


def test_a_blob_of_blocks(tmp_path: Path, blobs: BlobStore, disk: Disk) -> None:
    ref = BlobRef(ACCOUNT, CONTAINER, "blob.bin")
    blobs.put_block(ref, "MDAwMQ==", BytesIO(b"content"))
    block = next(path for path in (tmp_path / "tmp" / "blocks").rglob("*") if path.is_file())
    disk.check(block)
    assert ("fsync", str(block.parent.parent)) in disk.events
    blobs.put_block_list(ref, [("Latest", "MDAwMQ==")])
    disk.check(tmp_path / "blobs" / ACCOUNT / CONTAINER / "blob.bin")


def test_a_deleted_blob(tmp_path: Path, blobs: BlobStore, disk: Disk) -> None:
    ref = BlobRef(ACCOUNT, CONTAINER, "folder/blob.bin")
    blobs.put(ref, BytesIO(b"content"))
    disk.events.clear()
    blobs.delete(ref)
    folder = str(tmp_path / "blobs" / ACCOUNT / CONTAINER / "folder")
    gone = disk.events.index(("unlink", f"{folder}/blob.bin"))
    assert ("fsync", folder) in disk.events[gone:]


def test_every_connection_is_as_durable_as_sqlite_can_be(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    try:
        import threading

        together = threading.Barrier(12)
        seen = []

        def look(connection: Any) -> None:
            together.wait(10)  # so that each reader has a connection of its own
            driver = connection.connection.driver_connection
            values = [
                driver.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
            ]
            seen.append((id(driver), *values))

        threads = [threading.Thread(target=store.read, args=(look,)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({identity for identity, *_ in seen}) == 12
        assert {tuple(values) for _, *values in seen} == {("wal", 2)}
        writer = store.write(
            lambda c: c.connection.driver_connection.execute("PRAGMA synchronous").fetchone()[0]  # type: ignore[union-attr]
        )
        assert writer == 2
    finally:
        store.close()


WRITER = """
import sys
from pathlib import Path
from sqlalchemy import insert
from amlocal.emulator.store import tables
from amlocal.emulator.store.database import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    values = dict(id=line.strip(), status="Running", target="", created_at="now")
    store.write(lambda c: c.execute(insert(tables.operations).values(**values)))
    sys.stderr.write(f"acknowledged {line.strip()}\\n")
    sys.stderr.flush()
"""


def test_the_log_is_on_disk_before_a_write_is_acknowledged(tmp_path: Path) -> None:
    """Seen from outside, by the system calls of a process."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("there is no strace on this machine")
    trace = tmp_path / "trace"
    argv = [strace, "-f", "-y", "-s", "64", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", str(trace)]
    child = subprocess.Popen(
        [*argv, sys.executable, "-c", WRITER, str(tmp_path / "db")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        first = child.stdout.readline()
        if not first:
            pytest.skip(f"strace cannot trace here: {child.stderr.read()[-300:]}")
        for number in range(5):
            child.stdin.write(f"{number}\n")
            child.stdin.flush()
            assert child.stderr.readline() == f"acknowledged {number}\n"
        child.stdin.close()
        assert child.wait(30) == 0
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    lines = trace.read_text().splitlines()
    answers = [index for index, line in enumerate(lines) if "acknowledged " in line]
    assert len(answers) == 5
    before = next(index for index, line in enumerate(lines) if '"ready' in line)
    for answer in answers:
        # strace notes an interrupted call in two lines; the file stands in the first one.
        span = [
            line
            for line in lines[before:answer]
            if re.search(r"(pwrite64|fdatasync|fsync)\(\d+<[^>]*-wal>", line)
        ]
        assert span and "sync(" in span[-1], lines[before : answer + 1]
        assert any("pwrite64(" in line for line in span)
        before = answer


def test_the_folder_of_a_job_is_durable_before_its_command_starts(tmp_path: Path) -> None:
    """The shim's record of the start is on disk before the command exists, that of the end before it ends."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("there is no strace on this machine")
    from amlocal.emulator.jobs.engines.local import SHIM

    job = tmp_path / "job"
    job.mkdir()
    order = {
        "argv": ["/bin/true"], "env": {}, "cwd": str(job), "stdout": str(job / "out"), "attempt": 1,
    }  # fmt: skip
    (job / "shim.json").write_text(json.dumps(order))
    trace = tmp_path / "trace"
    calls = "trace=fsync,rename,execve,exit_group"
    done = subprocess.run(
        [strace, "-f", "-y", "-e", calls, "-o", str(trace), sys.executable, "-I", "-S", str(SHIM), str(job)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if not trace.exists() or "ptrace" in done.stderr:
        pytest.skip(f"strace cannot trace here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    text = trace.read_text()

    def at(pattern: str, after: int = 0) -> int:
        found = re.compile(pattern).search(text, after)
        assert found is not None, (pattern, text)
        return found.start()

    synced = at(r"fsync\(\d+<[^>]*attempt-1\.started\.\d+\.tmp>")
    named = at(r'rename\("[^"]*attempt-1\.started\.\d+\.tmp", "[^"]*attempt-1\.started"', synced)
    folder = at(r"fsync\(\d+<[^>]*/job>", named)
    started = at(r'execve\("/bin/true"', folder)
    synced = at(r"fsync\(\d+<[^>]*exit-1\.json\.\d+\.tmp>", started)
    named = at(r'rename\("[^"]*exit-1\.json\.\d+\.tmp", "[^"]*exit-1\.json"', synced)
    at(r"fsync\(\d+<[^>]*/job>", named)


def kill_when_ready(path: Path) -> None:
    """Fill a database from a process that is killed while it writes; used by the test below."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    child.stdout.readline()
    child.stdin.write("".join(f"{number}\n" for number in range(5000)))
    child.stdin.flush()
    deadline = time.monotonic() + 120
    while child.stderr.readline() != "acknowledged 100\n":
        assert time.monotonic() < deadline
    child.send_signal(signal.SIGKILL)
    rest = child.stderr.read().splitlines()
    child.wait()
    whole = [line for line in rest if re.fullmatch(r"acknowledged \d+", line)]
    # The last line may be cut off; what it would have said is not counted on.
    acknowledged = max([100, *(int(line.split()[1]) for line in whole[:-1])])
    store = Store(path)
    try:
        found = store.read(lambda c: {int(row.id) for row in c.execute(tables.operations.select())})
        assert found >= set(range(acknowledged + 1)) and found == set(range(len(found)))
        assert store.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar_one()) == "ok"
        values = {"id": "again", "status": "Running", "target": "", "created_at": "now"}
        store.write(lambda c: c.execute(insert(tables.operations).values(**values)))
    finally:
        store.close()


def test_acknowledged_writes_are_there_after_a_kill(tmp_path: Path) -> None:
    kill_when_ready(tmp_path / "db")
