"""What the server's worker makes of the setting warm_start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator import worker
from amlocal.emulator.jobs import service, warm
from amlocal.emulator.settings import Settings


@pytest.mark.parametrize(("setting", "starts"), [("auto", True), ("never", False)])
def test_the_setting_decides_whether_a_parent_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: Any, starts: bool
) -> None:
    made: list[warm.WarmParent] = []
    real = service.AutoMLRunner

    def runner(**given: Any) -> Any:
        made.append(given["parent"])
        return real(**given)

    monkeypatch.setattr(service, "AutoMLRunner", runner)
    started: list[str] = []
    monkeypatch.setattr(warm.WarmParent, "_start", lambda self, env: started.append("parent"))
    settings = replace(Settings(tmp_path / "data", port=4001, router_port=4002), warm_start=setting)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    services = worker.build_services(settings, run_dir)
    try:
        (parent,) = made
        parent.argv(["train"], tmp_path / "spec.json", {})
    finally:
        services.store.close()
    assert bool(started) is starts
