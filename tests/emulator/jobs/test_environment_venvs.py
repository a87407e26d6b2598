"""Virtual environments for jobs: built once, whole or not at all, ended when nobody wants them any more."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.jobs import environment_venvs as venvs
from amlocal.emulator.jobs.environment_interpreters import Interpreter, Interpreters
from amlocal.emulator.jobs.runners.base import Abandoned, JobFailure
from amlocal.emulator.store.folder import DataFolder


def wheel(folder: Path, name: str = "tinything", version: str = "1.0") -> None:
    """A package with one module that knows its version."""
    folder.mkdir(exist_ok=True)
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        for path, text in files.items():
            file.writestr(path, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(text)}\n"
        file.writestr(f"{about}/RECORD", f"{record}{about}/RECORD,,\n")


@pytest.fixture(scope="module")
def base() -> Interpreter:
    return Interpreters().ask(Path(sys.executable))


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    found = DataFolder(tmp_path / "data")
    found.create()
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.txt"
    path.write_text("head\n")
    return path


def tries(folder: DataFolder) -> list[Path]:
    return [path for path in (folder.cache / "venvs").glob("*/*") if path.is_dir()]


def test_two_at_once_build_one_without_the_servers_secrets(
    folder: DataFolder, base: Interpreter, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("IDENTITY_HEADER", "secret")
    lines = ["tinything==1.0"]
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(venvs.build(folder, base, lines, log, lambda: False)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 2 and found[0] == found[1] and len(tries(folder)) == 1
    said = log.read_text()
    assert said.startswith("head\n") and said.count("Successfully installed tinything-1.0") == 1
    answer = subprocess.run(
        [str(found[0]), "-c", "import sys, tinything; print(tinything.VERSION, sys.prefix)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stdout.split() == ["1.0", str(found[0].parents[1])]
    # Nothing of amlocal's own Python is seen, and what held the wishes (and maybe a password) is gone.
    assert subprocess.run([str(found[0]), "-c", "import yaml"], capture_output=True, check=False).returncode
    assert not list((folder.cache / "venvs").rglob("requirements.txt"))
    assert (tries(folder)[0].stat().st_mode & 0o777) == 0o700

    # One that is broken is built anew: here it has lost its Python.
    name = venvs.key(lines, base)
    assert venvs.ready(folder, name) == found[0]
    found[0].unlink()
    assert venvs.ready(folder, name) is None


def test_pips_reason_is_told_and_nothing_is_left(
    folder: DataFolder, base: Interpreter, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    half = folder.cache / "venvs" / venvs.key(["absent-thing==9"], base) / "half-built"
    half.mkdir(parents=True)
    with pytest.raises(JobFailure) as caught:
        venvs.build(folder, base, ["absent-thing==9"], log, lambda: False)
    assert "pip ended with exit code 1" in caught.value.message
    assert "No matching distribution found for absent-thing==9" in caught.value.message
    assert caught.value.code == "UserError"
    assert "No matching distribution found" in log.read_text()
    assert tries(folder) == []


def test_a_python_that_makes_no_venv(
    folder: DataFolder, base: Interpreter, log: Path, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no venv here >&2; exit 3\n")
    python.chmod(0o755)
    other = Interpreter(python, "3.11.0", tmp_path, {})
    with pytest.raises(JobFailure) as caught:
        venvs.build(folder, other, ["x"], log, lambda: False)
    assert "venv ended with exit code 3" in caught.value.message and "no venv here" in caught.value.message


@pytest.fixture
def mute() -> Iterator[Any]:
    """A server that takes connections and never answers; how many it took."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], taken
        server.shutdown(socket.SHUT_RDWR)
        for connection in taken:
            connection.close()


def alive(text: str) -> list[int]:
    """Processes that name `text` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if text.encode() in line and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_pip_ends_when_the_job_is_abandoned_or_the_server_dies(
    folder: DataFolder, base: Interpreter, log: Path, mute: Any
) -> None:
    port, taken = mute
    lines = [f"slow-thing @ http://127.0.0.1:{port}/slow_thing-1.0-py3-none-any.whl"]
    with pytest.raises(Abandoned):
        venvs.build(folder, base, lines, log, lambda: bool(taken))
    assert taken and alive(str(folder.root)) == [] and tries(folder) == []

    # A server that is killed: the leash ends pip, and the next server builds anew.
    count = len(taken)
    program = (
        "import json, sys; from pathlib import Path\n"
        "from amlocal.emulator.jobs import environment_venvs as venvs\n"
        "from amlocal.emulator.jobs.environment_interpreters import Interpreters\n"
        "from amlocal.emulator.store.folder import DataFolder\n"
        "root, log, lines = sys.argv[1:]\n"
        "base = Interpreters().ask(Path(sys.executable))\n"
        "venvs.build(DataFolder(Path(root)), base, json.loads(lines), Path(log), lambda: False)\n"
    )
    server = subprocess.Popen([sys.executable, "-c", program, str(folder.root), str(log), json.dumps(lines)])
    deadline = time.monotonic() + 60
    while len(taken) == count:
        assert time.monotonic() < deadline and server.poll() is None
        time.sleep(0.05)
    server.kill()
    server.wait()
    while alive(str(folder.root)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert venvs.ready(folder, venvs.key(lines, base)) is None and len(tries(folder)) == 1
    with pytest.raises(Abandoned):
        venvs.build(folder, base, lines, log, lambda: len(taken) > count + 1)
    assert tries(folder) == []


def test_the_wish_may_end_before_pip_begins(folder: DataFolder, base: Interpreter, log: Path) -> None:
    with pytest.raises(Abandoned):
        venvs.build(folder, base, ["x"], log, lambda: True)
    assert alive(str(folder.root)) == [] and tries(folder) == []


def test_keys_tell_wishes_apart(base: Interpreter) -> None:
    assert venvs.key(["a==1", "b"], base) == venvs.key(["a==1 ", " b"], base)
    other = Interpreter(base.python, "3.10.1", base.prefix, {})
    keys = {venvs.key(["a==1"], base), venvs.key(["a==2"], base), venvs.key(["a==1"], other)}
    assert len(keys) == 3
