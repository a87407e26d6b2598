"""What the tests of environments share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest"


def conda(folder: Path, *packages: Any) -> Path:
    path = folder / "conda.json"
    path.write_text(json.dumps({"name": "e", "channels": ["conda-forge"], "dependencies": list(packages)}))
    return path.rename(path.with_suffix(".yml"))


def put(server: Any, name: str, properties: dict[str, Any]) -> tuple[int, Any]:
    """One raw create, for bodies that the SDK does not send."""
    path = f"{server.workspace_path}/environments/{name}/versions/1?api-version=2024-04-01"
    return server.call("PUT", path, {"properties": properties})


def log_of(server: Any, name: str) -> str:
    return next(
        server.folder.blobs.glob(f"*/azureml/ExperimentRun/dcid.{name}/user_logs/std_log.txt")
    ).read_text()
