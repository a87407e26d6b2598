"""What Azure keeps beside a blob's bytes: headers, metadata, MD5, the list of its blocks.

One JSON file per blob in a tree of its own, named by a hash of the blob's name, so that no blob can be called
like a sidecar and a name of full length has one too. A sidecar names the file that it was written for; when a
job has changed the file since, the sidecar says nothing any more. MD5 and blocks also need the very same
inode; headers and metadata survive a copy of the data folder that keeps times.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amlocal.emulator.storage.files import Identity, replace_durably, sync_folder
from amlocal.emulator.storage.names import BlobRef

_log = logging.getLogger(__name__)
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Sidecar:
    """`headers`: lower-case names such as content-type. `md5`: base64, None where it is not known."""

    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    md5: str | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a blob: `id` as the client gave it (base64), `size` in bytes."""

    id: str
    size: int


class Sidecars:
    """The tree of sidecar files below `root`; `temporary` is on the same file system."""

    def __init__(self, root: Path, temporary: Path) -> None:
        self._root = root
        self._temporary = temporary

    def read(self, ref: BlobRef, identity: Identity) -> Sidecar:
        """What is known about the file `identity`; an empty sidecar where nothing is."""
        found = self._load(self._path(ref, ".json"), ref)
        if found is None or (found["size"], found["mtime_ns"]) != (identity.size, identity.mtime_ns):
            return Sidecar()
        md5 = found["md5"] if found["inode"] == identity.inode else None
        return Sidecar(found["headers"], found["metadata"], md5)

    def write(self, ref: BlobRef, identity: Identity, sidecar: Sidecar, *, durable: bool) -> None:
        """Not `durable` is quicker: after a power cut it can be absent, and is never wrong."""
        content = {
            "headers": dict(sidecar.headers),
            "metadata": dict(sidecar.metadata),
            "md5": sidecar.md5,
        }
        self._store(self._path(ref, ".json"), ref, identity, content, sync=durable)

    def read_blocks(self, ref: BlobRef, identity: Identity) -> list[Block]:
        """The blocks that the file was committed from, in order; empty where that is not known."""
        found = self._load(self._path(ref, ".blocks.json"), ref)
        if found is None or Identity(found["size"], found["mtime_ns"], found["inode"]) != identity:
            return []
        return [Block(block[0], block[1]) for block in found["blocks"]]

    def write_blocks(self, ref: BlobRef, identity: Identity, blocks: Sequence[Block]) -> None:
        content = {"blocks": [[block.id, block.size] for block in blocks]}
        self._store(self._path(ref, ".blocks.json"), ref, identity, content, sync=False)

    def remove(self, ref: BlobRef) -> None:
        for suffix in (".json", ".blocks.json"):
            self._path(ref, suffix).unlink(missing_ok=True)

    def remove_blocks(self, ref: BlobRef) -> None:
        self._path(ref, ".blocks.json").unlink(missing_ok=True)

    def _path(self, ref: BlobRef, suffix: str) -> Path:
        digest = hashlib.sha256(ref.blob.encode()).hexdigest()
        return Path(self._root, ref.account, ref.container, digest[:2], digest + suffix)

    def _store(
        self, path: Path, ref: BlobRef, identity: Identity, content: dict[str, Any], *, sync: bool
    ) -> None:
        record = {
            "schema": _SCHEMA,
            "blob": ref.blob,
            "size": identity.size,
            "mtime_ns": identity.mtime_ns,
            "inode": identity.inode,
            **content,
        }
        if not path.parent.is_dir():
            for folder in (path.parent.parent.parent, path.parent.parent, path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if sync:
                    sync_folder(folder.parent)
        temporary = self._temporary / f"{uuid.uuid4().hex}.json"
        replace_durably(path, json.dumps(record).encode(), temporary, sync=sync)

    def _load(self, path: Path, ref: BlobRef) -> dict[str, Any] | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            record = json.loads(content)
            if record["schema"] == _SCHEMA and record["blob"] == ref.blob:
                return dict(record)
        except (ValueError, KeyError, TypeError):
            pass
        # A power cut can leave one empty; the blob's bytes are whole all the same.
        _log.warning("%s is not a sidecar file of %s and is passed over", path, ref)
        return None
