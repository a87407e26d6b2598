"""What one version of a deployment reads: its code, copied, and AZUREML_MODEL_DIR.

AZUREML_MODEL_DIR holds the registered file or folder under its own name (Azure's "Model specification in an
online deployment configuration"). Its folders are real, its files are links to where the model lies: nothing
is copied, and programs that walk it see every file. A link inside a model or code that leads out is left out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

MOST_FILES = 100_000


@dataclass
class Found:
    """How many files of how many bytes a folder has, and what of it was left out."""

    files: int = 0
    size: int = 0
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.files} file{'' if self.files == 1 else 's'}, {self.size} bytes"


def link_model(source: Path, target: Path) -> Found:
    """Fill the new folder `target` as AZUREML_MODEL_DIR of the model at `source`.

    Raises OSError, and ValueError for a model of more than MOST_FILES files.
    """
    return _build(source, target / source.name, lambda real, new: new.symlink_to(real))


def copy_code(source: Path, target: Path) -> Found:
    """Copy the code (a folder or one file) into the new folder `target`. Raises as `link_model`."""
    return _build(source, target if source.is_dir() else target / source.name, _copy)


def _copy(real: Path, new: Path) -> None:
    shutil.copyfile(real, new)
    new.chmod(0o700 if os.access(real, os.X_OK) else 0o600)


def _build(source: Path, target: Path, put: Callable[[Path, Path], None]) -> Found:
    found = Found()
    target.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    if source.is_file():
        put(source.resolve(), target)
        return Found(1, source.stat().st_size)
    if not source.is_dir():
        raise FileNotFoundError(f"there is nothing at {source}")
    target.mkdir(mode=0o700, exist_ok=True)
    root = source.resolve()
    for path in _walk(root):
        new = target / path.relative_to(root)
        if path.is_dir() and not path.is_symlink():
            new.mkdir(mode=0o700)
            continue
        real = path.resolve()
        if not real.is_relative_to(root) or not real.is_file():
            found.left_out.append(str(path.relative_to(root)))
            continue
        put(real, new)
        found.files += 1
        found.size += real.stat().st_size
        if found.files > MOST_FILES:
            raise ValueError(f"{source.name} has more than {MOST_FILES} files")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below, folders before what is in them; links are not followed."""
    waiting = [folder]
    while waiting:
        for entry in sorted(waiting.pop().iterdir()):
            yield entry
            if entry.is_dir() and not entry.is_symlink():
                waiting.append(entry)
