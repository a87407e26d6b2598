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


def configure(server: Any, **settings: Any) -> None:
    server.root.mkdir(exist_ok=True)
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if not isinstance(value, dict)]
    tables = [
        f"[environments.{key}]\n"
        + "\n".join(f'"{name}" = {json.dumps(text)}' for name, text in value.items())
        for key, value in settings.items()
        if isinstance(value, dict)
    ]
    (server.root / "config.toml").write_text("\n".join(["[environments]", *lines, *tables]) + "\n")


def own_wheel(folder: Path) -> None:
    """A package of one module, as pip itself makes wheels."""
    import zipfile

    folder.mkdir()
    about = "tinything-1.0.dist-info"
    with zipfile.ZipFile(folder / "tinything-1.0-py3-none-any.whl", "w") as file:
        file.writestr("tinything.py", "VERSION = '1.0'\n")
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(
            f"{about}/RECORD", f"tinything.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n"
        )
