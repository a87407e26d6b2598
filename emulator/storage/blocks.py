"""Uncommitted blocks: what Put Block stored and Put Block List has not yet made a blob of.

They lie in the temporary folder, so no listing ever sees them, one folder per blob, one file per block.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from amlocal.emulator.http.errors import bad_request
from amlocal.emulator.storage.files import CHUNK, sync_folder
from amlocal.emulator.storage.names import BlobRef, shown
from amlocal.emulator.storage.sidecar import Block
from amlocal.emulator.storage.staging import disk_errors, write_all

MAX_BLOCKS = 50_000
_MAX_ID_BYTES = 64
BlockKind = Literal["Latest", "Uncommitted", "Committed"]


def check_block_id(block_id: str) -> str:
    """`block_id` itself, or AzureError 400: base64 of 1 to 64 bytes."""
    try:
        if 1 <= len(base64.b64decode(block_id, validate=True)) <= _MAX_ID_BYTES:
            return block_id
    except (binascii.Error, ValueError):
        pass
    raise bad_request(
        "InvalidQueryParameterValue",
        f"The block id {shown(block_id)} is not the base64 of 1 to {_MAX_ID_BYTES} bytes.",
        target="blockid",
    )


class UncommittedBlocks:
    """The blocks below `root`; staged files come from the same file system."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def add(self, ref: BlobRef, block_id: str, staged: Path) -> None:
        """Takes over the file `staged`; a block of the same id is replaced."""
        folder = self._folder(ref)
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
            sync_folder(self._root)
        staged.replace(folder / self._name(block_id))
        sync_folder(folder)

    def assemble(
        self,
        ref: BlobRef,
        entries: Sequence[tuple[BlockKind, str]],
        committed: Sequence[Block],
        blob: BinaryIO | None,
        target: Path,
    ) -> tuple[Path, list[Block]]:
        """A new durable file in the folder `target` made of the blocks in `entries`.

        `committed` are the blocks of the present `blob`, in order. AzureError 400 InvalidBlockList for a
        block that does not exist. The caller removes the file or renames it away.
        """
        offsets: dict[str, tuple[int, int]] = {}
        offset = 0
        for block in committed:
            offsets[block.id] = (offset, block.size)
            offset += block.size
        blocks: list[Block] = []
        descriptor, name = tempfile.mkstemp(dir=target, suffix=".part")
        path = Path(name)
        try:
            with disk_errors(), os.fdopen(descriptor, "wb", buffering=0):
                for kind, block_id in entries:
                    own = self._folder(ref) / self._name(block_id)
                    if kind != "Committed" and own.is_file():
                        with own.open("rb") as source:
                            size = _copy(source, own.stat().st_size, descriptor)
                    elif kind != "Uncommitted" and blob is not None and block_id in offsets:
                        start, size = offsets[block_id]
                        blob.seek(start)
                        _copy(blob, size, descriptor)
                    else:
                        raise bad_request(
                            "InvalidBlockList",
                            f"The block list names the {kind.lower()} block {shown(block_id)}, which this "
                            "blob does not have. Blocks are dropped when the blob is written or after "
                            "seven days.",
                        )
                    blocks.append(Block(block_id, size))
                os.fsync(descriptor)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path, blocks

    def drop(self, ref: BlobRef) -> None:
        """Forgets all uncommitted blocks of the blob."""
        folder = self._folder(ref)
        if folder.is_dir():
            shutil.rmtree(folder)

    def drop_older(self, seconds: float) -> None:
        """Forgets the blocks of blobs for which none arrived for so long (Azure: seven days)."""
        limit = time.time() - seconds
        for folder in self._root.iterdir():
            if folder.stat().st_mtime < limit:
                shutil.rmtree(folder)

    def _folder(self, ref: BlobRef) -> Path:
        key = f"{ref.account}/{ref.container}/{ref.blob}"
        return self._root / hashlib.sha256(key.encode()).hexdigest()

    @staticmethod
    def _name(block_id: str) -> str:
        return hashlib.sha256(block_id.encode()).hexdigest()


def _copy(source: BinaryIO, size: int, descriptor: int) -> int:
    left = size
    while left:
        chunk = source.read(min(CHUNK, left))
        if not chunk:
            raise OSError(f"{left} of {size} bytes of a block are missing")
        write_all(descriptor, chunk)
        left -= len(chunk)
    return size
