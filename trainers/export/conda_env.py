"""outputs/conda_env_v_1_0_0.yml: the environment of a deployment by the scoring script, as a conda file."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from amlocal.trainers import files

NAME = "conda_env_v_1_0_0.yml"
_HEAD = "# No public index has amlocal: where this is installed, pip must find it (PIP_FIND_LINKS).\n"


def write(path: Path, pins: Sequence[str]) -> None:
    """Write the conda file for `pins`, requirements of pip."""
    import yaml

    minor = ".".join(platform.python_version_tuple()[:2])
    content = {
        "name": "amlocal-model",
        "channels": ["conda-forge"],
        "dependencies": [f"python={minor}", "pip", {"pip": list(pins)}],
    }
    files.write_text(path, _HEAD + yaml.safe_dump(content, sort_keys=False))
