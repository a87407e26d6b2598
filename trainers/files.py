"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that the names in it survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`, and itself."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a temporary file beside `path`, fsync, rename. Makes the parent folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a value as JSON; raises ValueError for NaN, which JSON has no word for."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def replace_folder(temporary: Path, target: Path) -> None:
    """Put a finished folder in the place of `target`, with everything in it on disk first."""
    sync_tree(temporary)
    if target.exists():
        shutil.rmtree(target)
    temporary.rename(target)
    sync_folder(target.parent)
