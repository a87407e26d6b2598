"""The wheel holds every module of the tree, and nothing of the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("emulator", "compat", "trainers", "fixtures")


def tree() -> set[str]:
    return {
        f"amlocal/{path.relative_to(ROOT).as_posix()}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".toml", ".html", ".css", ".sql") and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    # Of a copy: setuptools keeps what it built last time beside the sources, also of modules that have moved.
    for path in (*ROOMS, "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, source / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, source / path)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(folder),
            str(source),
        ],
        check=True,
        capture_output=True,
    )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def test_the_wheel_is_the_tree(names: set[str]) -> None:
    assert {name for name in names if name.startswith("amlocal/")} == tree()


def test_tests_stay_outside(names: set[str]) -> None:
    assert not [name for name in names if "test" in name.split("/")[0] or "/tests/" in name]


def test_all_leaves_out_what_is_agpl() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "ultralytics" in " ".join(extras["yolo"])
    assert "yolo" not in " ".join(extras["all"])


def test_torch_and_torchvision_are_pinned_as_a_pair() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert (pins["torch"], pins["torchvision"]) == ("2.14.1", "0.29.1")
