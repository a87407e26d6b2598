"""Files of the weights folder: written whole or not at all, and looked into without PyTorch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from amlocal.emulator.cli import CommandError
from amlocal.emulator.store.folder import fsync_folder

_PART = ".part"
_OLD_SECONDS = 86400.0
_LARGEST_HEADER = 100 << 20
"""The limit of the safetensors library itself."""
_SHARED_MODE = 0o644


@contextlib.contextmanager
def staging(weights_dir: Path, target: Path) -> Iterator[Path]:
    """A new, empty file beside `target`, gone at the end unless it was put in place.

    Raises CommandError where a link on the way leads out of the weights folder.
    """
    folder = target.parent
    weights_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder != weights_dir:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            fsync_folder(weights_dir)
    if not folder.resolve().is_relative_to(weights_dir.resolve()):
        raise CommandError(f"{folder} is a link that leads out of the weights folder; remove it.")
    _clean(folder)
    temporary = folder / f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}{_PART}"
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        if folder != weights_dir:
            with contextlib.suppress(OSError):  # there is something in it
                folder.rmdir()


def put(temporary: Path, target: Path) -> None:
    """Give a finished file its name; durable when this returns."""
    temporary.chmod(_SHARED_MODE)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
    fsync_folder(target.parent)


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_pickle(path: Path) -> bool:
    """Whether a file begins like those of `torch.save`: a ZIP archive, or a bare pickle."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80"))


def problem(path: Path) -> str | None:
    """What is wrong with a safetensors file, by its header and length; None = nothing.

    Source of the format: https://huggingface.co/docs/safetensors/index
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or not 2 <= length <= min(size - 8, _LARGEST_HEADER):
            return "it is no safetensors file, or only the beginning of one"
        try:
            header = json.loads(file.read(length))
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            end = max((int(entry["data_offsets"][1]) for entry in entries), default=0)
        except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
            return "it is no safetensors file: its header cannot be read"
    if not entries:
        return "it holds no tensors"
    if 8 + length + end != size:
        return f"it has {size} bytes, but its header describes {8 + length + end}: a part of it is missing"
    return None


def _clean(folder: Path) -> None:
    """Remove what a killed download left; another one may be under way just now."""
    for old in folder.glob(f".*{_PART}"):
        with contextlib.suppress(OSError):
            if old.lstat().st_mtime < time.time() - _OLD_SECONDS:
                old.unlink()
