"""Pythons are asked what they are: real ones, broken ones, and those that change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from amlocal.emulator.jobs.environment_interpreters import InterpreterError, Interpreters

ANSWER = '{"version": "2.7.18", "prefix": "/", "installed": {}, "folders": []}'


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_real_python_and_its_packages(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "v")], check=True)
    python = tmp_path / "v" / "bin" / "python"
    interpreters = Interpreters()
    found = interpreters.ask(python)
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert (found.prefix, found.bin, dict(found.installed)) == (tmp_path / "v", python.parent, {})
    assert interpreters.ask(python) is found

    # A package that is added later is seen; PEP 503 makes its name comparable.
    (site,) = (tmp_path / "v" / "lib").glob("python3*/site-packages")
    about = site / "My_Package-1.5.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: My_Package\nVersion: 1.5\n")
    os.utime(site, (1, 1))
    assert interpreters.ask(python).installed == {"my-package": "1.5"}


def test_what_is_no_python(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    cases = {
        tmp_path / "absent": "does not exist",
        plain: "cannot be executed",
        script(tmp_path / "silent", "exit 0"): "no Python of version 3.8 or newer",
        script(tmp_path / "loud", "echo boom >&2; exit 1"): "boom",
        script(tmp_path / "old", f"echo '{ANSWER}'"): "Python 2.7.18",
        script(tmp_path / "slow", "exec sleep 60"): "within 0.5 s",
    }
    for path, part in cases.items():
        # Only the one that never answers is to be given up.
        interpreters = Interpreters(patience=0.5 if path.name == "slow" else 60.0)
        with pytest.raises(InterpreterError) as caught:
            interpreters.ask(path)
        assert part in str(caught.value) and str(path) in str(caught.value)


def test_the_question_is_asked_without_the_servers_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDENTITY_HEADER", "secret")
    seen = tmp_path / "seen"
    with pytest.raises(InterpreterError):
        Interpreters().ask(script(tmp_path / "python", f"env > {seen}"))
    assert "PATH=" in seen.read_text() and "secret" not in seen.read_text()
