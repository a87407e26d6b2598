"""The folder in which the tests of MLTable rows work."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An MLTable folder "train" with 60 images and no rows yet."""
    images = tmp_path / "train" / "images"
    images.mkdir(parents=True)
    for number in range(60):
        (images / f"{number}.jpg").write_bytes(b"image")
    return tmp_path / "train"
