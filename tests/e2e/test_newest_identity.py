"""The client path with the newest azure-identity: mltable's pin keeps it out of our own environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_client_environment import LIST_JOBS


@pytest.mark.slow
def test_the_newest_azure_identity(server: Any, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    # Other tests may have pointed this process at the server, whose authorities are not the package index's.
    environ = {name: value for name, value in os.environ.items() if str(server.root) not in value}
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "azure-ai-ml", "azure-identity>=1.20"],
        env=environ,
        check=True,
        timeout=600,
    )
    found = subprocess.run(
        [python, "-c", "import importlib.metadata as m; print(m.version('azure-identity'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert tuple(int(part) for part in found.split(".")[:2]) >= (1, 20)
    done = subprocess.run(
        [python, "-c", LIST_JOBS], env=server.environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "workspace local" in done.stdout
