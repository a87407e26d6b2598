"""Names, socket paths and logs of scorers."""

from __future__ import annotations

from pathlib import Path

import pytest

from amlocal.emulator.endpoints import container_logs
from amlocal.emulator.endpoints.scorers import ScorerConfig, ScorerSupervisor


def test_keys_and_paths_are_checked(tmp_path: Path) -> None:
    supervisor = ScorerSupervisor(tmp_path / "run")
    config = ScorerConfig(kind="script", model_dir=tmp_path, log=tmp_path / "log", score_script="x.py")
    supervisor.start("blue", config)
    with pytest.raises(ValueError, match="running already"):
        supervisor.start("blue", config)
    assert supervisor.keys() == ["blue"]
    with pytest.raises(ValueError, match="too long a path"):
        ScorerSupervisor(tmp_path / ("x" * 100)).start("blue", config)
    supervisor.stop("unknown")
    supervisor.stop_all()
    assert supervisor.keys() == []


def test_tail(tmp_path: Path) -> None:
    file = tmp_path / "log"
    assert container_logs.tail(file, 5) == ""
    file.write_text("\n".join(str(number) for number in range(100_000)))
    assert container_logs.tail(file, 2) == "99998\n99999"
    assert container_logs.tail(file, 0) == ""
