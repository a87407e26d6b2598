"""`amlocal lint` as a test calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from amlocal.emulator.cli import main


@pytest.fixture
def lint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """lint(argument, ..., code=0): the lines that the command prints, run in the test's folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, code: int = 0) -> list[str]:
        with pytest.raises(SystemExit) as left:
            main(["lint", *arguments])
        printed = capsys.readouterr()
        assert left.value.code == code, printed
        return printed.out.splitlines()

    return call
