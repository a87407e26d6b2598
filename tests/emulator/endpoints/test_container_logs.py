"""Logs that are begun anew above a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from amlocal.emulator.endpoints import container_logs


def test_the_end_of_what_was_said_is_kept(tmp_path: Path) -> None:
    file, old = tmp_path / "log", tmp_path / "log.1"
    assert not container_logs.bound(file, 100)
    with file.open("ab") as process:  # keeps it open, as a scorer does
        process.write(b"a" * 100)
        process.flush()
        assert not container_logs.bound(file, 100) and not old.exists()
        process.write(b"b" * 50)
        process.flush()
        assert container_logs.bound(file, 100)
        assert (file.read_bytes(), old.read_bytes()) == (b"", b"a" * 50 + b"b" * 50)
        process.write(b"c\n" * 51)
        process.flush()
    assert file.read_bytes() == b"c\n" * 51
    assert container_logs.tail(file, 52).splitlines() == ["a" * 50 + "b" * 50, *["c"] * 51]
    assert container_logs.bound(file, 100)
    assert (file.read_bytes(), old.read_bytes()) == (b"", b"c\n" * 50)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["log", "log.1"]


def test_a_log_that_cannot_be_kept_is_emptied_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"a" * 101)
    (tmp_path / ".log.1").mkdir()  # stands where the copy would be made
    with pytest.raises(OSError):
        container_logs.bound(file, 100)
    assert file.read_bytes() == b""
