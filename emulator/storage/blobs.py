"""The blob store: every blob is a plain file that jobs may read and write directly.

A blob lies at ROOT/account/container/name, or in a folder that the user mounted (see `mounts.py`). What a
file cannot hold lies in sidecars (see `sidecar.py`).
Writes are received into the temporary folder, made durable and renamed, so a reader sees the old blob or the
new one, and a killed server leaves no part of one. The three roots are on one file system.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from amlocal.emulator import crash_points
from amlocal.emulator.http.errors import AzureError, conflict, not_found
from amlocal.emulator.storage.blocks import BlockKind, UncommittedBlocks, check_block_id
from amlocal.emulator.storage.conditions import Conditions, already_exists
from amlocal.emulator.storage.files import Identity, folder, open_regular, status_of
from amlocal.emulator.storage.listing import decode_marker, encode_marker, entries
from amlocal.emulator.storage.mounts import Mounts, check_not_reserved
from amlocal.emulator.storage.names import BlobRef, check_account, check_container, shown
from amlocal.emulator.storage.places import Place, Places, at_hand, is_arriving, link_new
from amlocal.emulator.storage.properties import BlobPage, BlobProperties, OpenBlob
from amlocal.emulator.storage.sidecar import Block, Sidecar, Sidecars
from amlocal.emulator.storage.staging import Source, staged

MAX_RESULTS = 5000
UNCOMMITTED_SECONDS = 7 * 24 * 3600
_STRIPES = 64
_NO_CONDITIONS = Conditions()


class BlobStore:
    """Blobs below `blob_root` or in `mounts`, sidecars below `meta_root`, unfinished uploads below `tmp`.

    Writing to a folder that is mounted for reading is AzureError 403, in every method that writes.
    """

    def __init__(self, blob_root: Path, meta_root: Path, tmp: Path, mounts: Mounts | None = None) -> None:
        for path in (blob_root, meta_root, tmp):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = blob_root
        self._places = Places(blob_root, mounts)
        self._uploads = tmp / "uploads"
        self._uploads.mkdir(mode=0o700, exist_ok=True)
        self._blocks = UncommittedBlocks(tmp / "blocks")
        self._sidecars = Sidecars(meta_root, self._uploads)
        self._blob_locks = [threading.Lock() for _ in range(_STRIPES)]
        self._block_locks = [threading.Lock() for _ in range(_STRIPES)]

    def clean(self) -> None:
        """Removes what a killed server left behind. Only while no other server uses the folder."""
        for leftover in self._uploads.iterdir():
            leftover.unlink()
        self._blocks.drop_older(UNCOMMITTED_SECONDS)

    def create_container(self, account: str, container: str, *, exist_ok: bool = False) -> None:
        """AzureError 409 ContainerAlreadyExists where it exists, unless `exist_ok`."""
        check_not_reserved(container)
        if self._container_status(account, container) is not None and not exist_ok:
            raise conflict(f"The container {container} exists already.", code="ContainerAlreadyExists")
        with folder(self._root, (account, container), create=True):
            pass

    def container_identity(self, account: str, container: str) -> Identity:
        """AzureError 404 ContainerNotFound."""
        status = self._container_status(account, container)
        if status is None:
            raise not_found(f"There is no container {shown(container)}.", code="ContainerNotFound")
        return Identity.of(status)

    def properties(self, ref: BlobRef) -> BlobProperties:
        """AzureError 404 BlobNotFound, ContainerNotFound."""
        identity = self._identity(ref, self._place(ref))
        if identity is None:
            raise self._missing(ref)
        return BlobProperties(ref, identity, self._sidecars.read(ref, identity))

    def open(self, ref: BlobRef) -> OpenBlob:
        """The blob for reading, at its beginning. AzureError 404 BlobNotFound, ContainerNotFound."""
        place = self._place(ref)
        with self._blob_lock(ref):
            try:
                with place.opened() as parent, place.refusals():
                    file = open_regular(ref.leaf, parent)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise self._missing(ref) from error
            identity = Identity.of(os.fstat(file.fileno()))
            return OpenBlob(BlobProperties(ref, identity, self._sidecars.read(ref, identity)), file)

    def put(
        self,
        ref: BlobRef,
        source: Source,
        *,
        headers: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        content_md5: str | None = None,
        expected_size: int | None = None,
        max_size: int | None = None,
        conditions: Conditions = _NO_CONDITIONS,
    ) -> BlobProperties:
        """Writes the whole blob.

        Errors as `staged`, 409 BlobAlreadyExists or PathConflict, 412 ConditionNotMet.
        """
        place = self._place(ref, writing=True)
        with staged(
            self._uploads, source, content_md5=content_md5, expected_size=expected_size, max_size=max_size
        ) as part:
            crash_points.reach("blob.staged")
            sidecar = Sidecar(headers or {}, metadata or {}, part.md5)
            properties = self._commit(ref, place, part.path, sidecar, conditions)
        with self._block_lock(ref):
            self._blocks.drop(ref)
        return properties

    def put_block(
        self,
        ref: BlobRef,
        block_id: str,
        source: Source,
        *,
        content_md5: str | None = None,
        expected_size: int | None = None,
        max_size: int | None = None,
    ) -> str:
        """Keeps a block for `put_block_list`; its MD5 as base64. Errors as `staged`, 400 for a bad id."""
        check_block_id(block_id)
        self._place(ref, writing=True)
        with staged(
            self._uploads, source, content_md5=content_md5, expected_size=expected_size, max_size=max_size
        ) as part:
            crash_points.reach("block.staged")
            with self._block_lock(ref):
                self._blocks.add(ref, block_id, part.path)
            return part.md5

    def put_block_list(
        self,
        ref: BlobRef,
        blocks: Sequence[tuple[BlockKind, str]],
        *,
        headers: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        md5: str | None = None,
        conditions: Conditions = _NO_CONDITIONS,
    ) -> BlobProperties:
        """Makes the blob of blocks. `md5`: what the client says of the whole, kept unchecked as Azure does.

        Repeating the call is harmless: `Latest` also finds the blocks of the present blob. AzureError 400
        InvalidBlockList, and the errors of `put`.
        """
        place = self._place(ref, writing=True)
        with self._block_lock(ref):
            try:
                present: OpenBlob | None = self.open(ref)
            except AzureError:
                present = None
            try:
                committed = self._sidecars.read_blocks(ref, present.properties.identity) if present else []
                file = present.file if present else None
                part, made = self._blocks.assemble(ref, blocks, committed, file, self._uploads)
                crash_points.reach("blocks.assembled")
            finally:
                if present:
                    present.file.close()
            try:
                sidecar = Sidecar(headers or {}, metadata or {}, md5)
                properties = self._commit(ref, place, part, sidecar, conditions, blocks=made)
            finally:
                part.unlink(missing_ok=True)
            self._blocks.drop(ref)
            return properties

    def set_metadata(
        self, ref: BlobRef, metadata: Mapping[str, str], *, conditions: Conditions = _NO_CONDITIONS
    ) -> BlobProperties:
        """Replaces the blob's metadata. AzureError 404, 409, 412."""
        place = self._place(ref, writing=True)
        with self._blob_lock(ref):
            identity = self._identity(ref, place)
            if identity is None:
                raise self._missing(ref)
            conditions.check_write(ref, identity)
            sidecar = replace(self._sidecars.read(ref, identity), metadata=dict(metadata))
            self._sidecars.write(ref, identity, sidecar, durable=True)
            return BlobProperties(ref, identity, sidecar)

    def delete(self, ref: BlobRef, *, conditions: Conditions = _NO_CONDITIONS) -> None:
        """Removes the blob, and the folders that it alone kept. AzureError 404, 412."""
        place = self._place(ref, writing=True)
        with self._blob_lock(ref):
            identity = self._identity(ref, place)
            if identity is None:
                raise self._missing(ref)
            conditions.check_write(ref, identity)
            try:
                with place.opened() as parent, place.refusals():
                    os.unlink(ref.leaf, dir_fd=parent)
                    os.fsync(parent)
                crash_points.reach("blob.deleted")
            except FileNotFoundError as error:
                raise self._missing(ref) from error
            self._sidecars.remove(ref)
        if not place.mounted:
            place.prune()

    def list(
        self,
        account: str,
        container: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        marker: str = "",
        max_results: int = MAX_RESULTS,
    ) -> BlobPage:
        """One page, in the order of names.

        AzureError 404 ContainerNotFound, 400 for a marker that is not ours.
        """
        self.container_identity(account, container)
        start = decode_marker(marker)
        place = self._container_place(account, container)
        items: list[BlobProperties | str] = []
        for entry in entries(place.root.joinpath(*place.parts), prefix, delimiter, start):
            if place.mounted and is_arriving(entry.name):
                continue
            if len(items) >= max_results:
                return BlobPage(items, encode_marker(entry.name))
            if entry.is_prefix:
                items.append(entry.name)
                continue
            try:
                items.append(self.properties(BlobRef(account, container, entry.name)))
            except AzureError as error:
                if error.status != 404:  # deleted since the folder was read
                    raise
        return BlobPage(items, "")

    def _commit(
        self,
        ref: BlobRef,
        place: Place,
        part: Path,
        sidecar: Sidecar,
        conditions: Conditions,
        *,
        blocks: Sequence[Block] | None = None,
    ) -> BlobProperties:
        done = False
        kept = replace(place, keep=max(place.keep, place.depth())) if place.mounted else place
        try:
            for _ in range(100):
                try:
                    with self._blob_lock(ref), place.opened(create=True) as parent, place.refusals():
                        identity = self._rename(ref, place, part, parent, conditions)
                        crash_points.reach("blob.renamed")
                        self._sidecars.write(ref, identity, sidecar, durable=bool(sidecar.metadata))
                        if blocks is None:
                            self._sidecars.remove_blocks(ref)
                        else:
                            self._sidecars.write_blocks(ref, identity, blocks)
                        crash_points.reach("blob.described")
                        done = True
                        return BlobProperties(ref, identity, sidecar)
                except FileNotFoundError:
                    if not part.exists():
                        raise
                    # A deletion in the same folder found it empty and removed it just now: make it again.
                except NotADirectoryError as error:
                    raise _path_conflict(ref, "a part of its path is itself a blob or a link") from error
            raise conflict(
                f"The folder of {shown(ref.blob)} is being deleted all the time.", code="PathConflict"
            )
        finally:
            if not done:
                kept.prune()

    def _rename(
        self, ref: BlobRef, place: Place, part: Path, parent: int, conditions: Conditions
    ) -> Identity:
        status = status_of(ref.leaf, parent)
        if status is not None and stat.S_ISDIR(status.st_mode):
            raise _path_conflict(ref, "there are blobs below it, or a folder of that name")
        present = None if status is None or not stat.S_ISREG(status.st_mode) else Identity.of(status)
        conditions.check_write(ref, present)
        with at_hand(part, place, parent) as (name, source):
            identity = Identity.of(os.stat(name, dir_fd=source, follow_symlinks=False))
            try:
                if conditions.must_be_new:
                    link_new(name, source, ref.leaf, parent)
                else:
                    os.rename(name, ref.leaf, src_dir_fd=source, dst_dir_fd=parent)
            except FileExistsError as error:
                raise already_exists(ref) from error
            except IsADirectoryError as error:
                raise _path_conflict(ref, "there are blobs below it, or a folder of that name") from error
        os.fsync(parent)
        return identity

    def _identity(self, ref: BlobRef, place: Place) -> Identity | None:
        try:
            with place.opened() as parent, place.refusals():
                status = status_of(ref.leaf, parent)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Identity.of(status) if status is not None and stat.S_ISREG(status.st_mode) else None

    def _container_status(self, account: str, container: str) -> os.stat_result | None:
        check_account(account)
        check_container(container)
        try:
            with self._places.container(account, container).opened() as here:
                return os.fstat(here)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _container_place(self, account: str, container: str, *, writing: bool = False) -> Place:
        try:
            return self._places.container(account, container, writing=writing)
        except FileNotFoundError as error:
            raise not_found(f"There is no container {shown(container)}.", code="ContainerNotFound") from error

    def _place(self, ref: BlobRef, *, writing: bool = False) -> Place:
        container = self._container_place(ref.account, ref.container, writing=writing)
        return container.below(ref.blob.split("/")[:-1])

    def _missing(self, ref: BlobRef) -> AzureError:
        self.container_identity(ref.account, ref.container)
        return not_found(f"There is no blob {shown(ref.blob)} in {ref.container}.", code="BlobNotFound")

    @contextmanager
    def _blob_lock(self, ref: BlobRef) -> Iterator[None]:
        with self._blob_locks[hash(ref) % _STRIPES]:
            yield

    @contextmanager
    def _block_lock(self, ref: BlobRef) -> Iterator[None]:
        with self._block_locks[hash(ref) % _STRIPES]:
            yield


def _path_conflict(ref: BlobRef, why: str) -> AzureError:
    return conflict(
        f"The blob {shown(ref.blob)} cannot be written: {why}. Blobs are plain files here, so one name "
        "cannot be the folder of another; choose a different name or delete the other blob first.",
        code="PathConflict",
    )


__all__ = ["BlobPage", "BlobProperties", "BlobRef", "BlobStore", "OpenBlob"]
