"""Decode once: the pixels of a whole data set in one file, mapped read-only by every epoch and every trial.

Layout of the file: the pixels of each image (height, width, 3) uint8 one after the other, then a JSON index,
then 16 bytes (length of the index, mark). It is built in a temporary file whose space is reserved first,
under a lock, fsynced and renamed. The name is a hash of every image's path, size and etag, the decoder's
version and rules, and the geometry. Where a bound leaves no room for all pixels, as many images as fit are
kept and the others are decoded at each access; nothing ever goes beyond the bound.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from amlocal.trainers import files, heartbeat
from amlocal.trainers.data import images
from amlocal.trainers.data.geometry import Geometry, OfRegion, Training, Validation
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.room import TEMPORARY, Room, hold
from amlocal.trainers.data.samples import Dropped, Sample
from amlocal.trainers.data.streaming import Streamed, open_streamed
from amlocal.trainers.device import cpu_threads
from amlocal.trainers.locking import locked
from amlocal.trainers.progress import say, warn

__all__ = [
    "Cache",
    "Geometry",
    "Store",
    "Streamed",
    "Training",
    "Uncached",
    "Validation",
    "key",
    "open_store",
]

_MARK = b"amlcach2"
_INDEX_BYTES = 300
"""Room for one image in the index, the longest reason included."""
_REASON_BYTES = 200
_NOT_KEPT = -1
_DECODING = "decoding images"


class Store(Protocol):
    """Pixels by position in the list of samples it was made from; `dropped` says by position which images
    were found unreadable beforehand, and why; `sizes` height and width of each, where they are known
    beforehand."""

    dropped: dict[int, str]

    @property
    def sizes(self) -> Sequence[Sequence[int]] | None: ...

    decodes: bool
    """Whether reading an image may decode it now."""

    def __getitem__(self, index: int) -> Pixels:
        """(height, width, 3) uint8, perhaps read-only. Raises ImageError for an image that had to be decoded
        now and could not be."""


class _Bound(OSError):
    """The bound, not the disk, is why there is no room."""


class Cache:
    """A finished cache file, mapped read-only, and held so that nobody unlinks it. It has the pixels of
    `kept` of its `readable` images; the others are decoded at each access.

    Raises FileNotFoundError, and ValueError when the file is not a finished cache.
    """

    def __init__(self, path: Path, samples: Sequence[Sample], geometry: Geometry) -> None:
        self._file = hold(path)
        self._samples = samples
        self._geometry = geometry
        try:
            whole = os.fstat(self._file.fileno()).st_size
            index = _read_index(self._file, whole)
        except BaseException:
            self._file.close()
            raise
        self.size = whole
        self._offsets: list[int] = index["offsets"]
        self.sizes: list[list[int]] = index["sizes"]
        self.dropped: dict[int, str] = {int(key): reason for key, reason in index["dropped"].items()}
        self.wanted: int = index["wanted"]
        self._map = np.memmap(self._file, dtype=np.uint8, mode="r")
        usable = [offset for i, offset in enumerate(self._offsets) if i not in self.dropped]
        self.readable = len(usable)
        self.kept = sum(1 for offset in usable if offset >= 0)
        self.decodes = self.kept < self.readable

    def __getitem__(self, index: int) -> Pixels:
        start = self._offsets[index]
        if start < 0:
            return decoded(self._samples[index], self._geometry)
        height, width = self.sizes[index]
        return self._map[start : start + height * width * 3].reshape(height, width, 3)


class Uncached:
    """The same pixels, decoded at each access; for disks without room."""

    decodes = True

    def __init__(self, samples: Sequence[Sample], geometry: Geometry) -> None:
        self._samples = samples
        self._geometry = geometry
        self.sizes, self.dropped = _plan(samples, geometry)
        offsets = [_NOT_KEPT] * len(samples)
        empty = np.empty(0, np.uint8)
        self.dropped |= _decode_all(samples, geometry, self.sizes, offsets, self.dropped, empty)

    def __getitem__(self, index: int) -> Pixels:
        return decoded(self._samples[index], self._geometry)


def decoded(sample: Sample, geometry: Geometry) -> Pixels:
    """The pixels of one image, from its file. Raises ImageError."""
    with images.open_header(sample.path) as image:
        return _seen(geometry, sample).pixels(image)


def _seen(geometry: Geometry, sample: Sample) -> Geometry:
    return geometry if sample.region is None else OfRegion(geometry, sample.region)


def key(samples: Sequence[Sample], geometry: Geometry, *, stream: bool = False) -> str:
    """Name of the cache for these samples: changes with any file, the decoder, or the geometry.

    With `stream` no file is looked at: its path and etag alone name its content.
    """
    digest = hashlib.sha256(f"{images.DECODER}\n{geometry!r}\n".encode())
    for sample in samples:
        size = "" if stream else _size(sample.path)
        part = "" if sample.region is None else f"\0{sample.region!r}"
        digest.update(f"{sample.path}\0{size}\0{sample.etag}{part}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def open_store(
    samples: Sequence[Sample],
    geometry: Geometry,
    folder: Path,
    noun: str,
    *,
    max_bytes: int | None = None,
    stream: bool = False,
) -> tuple[Store, list[Dropped]]:
    """The pixels of `samples`, decoded now if need be, and the samples that cannot be read.

    `max_bytes` bounds all files in `folder` together, whichever trial made them; open the smaller set first,
    since who comes first takes the room. With `stream` nothing is read now: images are decoded when they are
    first asked for, nothing is dropped beforehand, and reading an image may raise ImageError. `noun` is for
    the log.
    """
    room = Room(folder, max_bytes)
    name = key(samples, geometry, stream=stream)
    with locked(folder / f"{name}.lock", f"it is decoding the {noun} images"):
        if stream:
            return open_streamed(folder / f"{name}.slots", samples, geometry, room, noun, decoded), []
        store = _opened(folder / f"{name}.u8", samples, geometry, room, noun)
    reasons = sorted(store.dropped.items())
    return store, [Dropped(samples[i].source, f"{samples[i].path.name}: {reason}") for i, reason in reasons]


def _opened(path: Path, samples: Sequence[Sample], geometry: Geometry, room: Room, noun: str) -> Store:
    try:
        store = _finished(path, samples, geometry, room) or _build(path, samples, geometry, room, noun)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = "cache_max_gb leaves no room" if isinstance(error, _Bound) else f"no room in {room.folder}"
        warn(f"{where} for decoded {noun} images; every epoch decodes them again, which is slower")
        return Uncached(samples, geometry)
    if store.kept < store.readable:
        warn(
            f"cache_max_gb leaves room for {store.kept} of {store.readable} decoded {noun} images; "
            "every epoch decodes the others again, which is slower"
        )
    return store


def _finished(path: Path, samples: Sequence[Sample], geometry: Geometry, room: Room) -> Cache | None:
    """The cache that an earlier trial left; None when there is none, or when another bound than its own asks
    for a new one and nobody uses it."""
    try:
        found = Cache(path, samples, geometry)
    except (FileNotFoundError, ValueError):
        return None
    most = room.most(path)
    too_large = most is not None and found.size > most
    room_for_all = found.decodes and (most is None or found.wanted <= most)
    if too_large or room_for_all:
        del found  # and with it the mapping, which holds the file as well
        with room.lock():
            if room.remove(path):
                return None
        try:
            found = Cache(path, samples, geometry)
        except FileNotFoundError:
            return None
    with room.lock():
        room.free(0)
    return found


def _plan(samples: Sequence[Sample], geometry: Geometry) -> tuple[list[tuple[int, int]], dict[int, str]]:
    """Result sizes from the headers alone, and the images whose header is no good."""
    paths = list(dict.fromkeys(sample.path for sample in samples))
    with ThreadPoolExecutor(cpu_threads()) as pool:
        known = dict(zip(paths, pool.map(_upright, paths), strict=True))
    sizes: list[tuple[int, int]] = []
    dropped: dict[int, str] = {}
    for index, sample in enumerate(samples):
        found = known[sample.path]
        if isinstance(found, images.ImageError):
            sizes.append((0, 0))
            dropped[index] = _cut(str(found))
        else:
            sizes.append(_seen(geometry, sample).size(*found))
    return sizes, dropped


def _upright(path: Path) -> tuple[int, int] | images.ImageError:
    """Width and height."""
    heartbeat.beat(_DECODING)
    try:
        with images.open_header(path) as image:
            return images.upright_size(image)
    except images.ImageError as error:
        return error


def _build(path: Path, samples: Sequence[Sample], geometry: Geometry, room: Room, noun: str) -> Cache:
    say(f"decoding {len(samples)} {noun} images once")
    sizes, dropped = _plan(samples, geometry)
    lengths = [height * width * 3 for height, width in sizes]
    index_bytes = _INDEX_BYTES * (len(samples) + 1)
    wanted = sum(lengths) + index_bytes
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with room.lock():
            free = room.free(wanted)
            if free < index_bytes:
                raise _Bound(errno.ENOSPC, "the bound leaves no room for decoded images")
            offsets, total = _place(lengths, free - index_bytes)
            file = room.make(temporary)
            try:
                _reserve(file.fileno(), total + index_bytes)
            except OSError:
                file.close()
                raise
        with file:
            target = np.memmap(file, dtype=np.uint8, mode="r+", shape=(total + index_bytes,))
            dropped |= _decode_all(samples, geometry, sizes, offsets, dropped, target)
            target.flush()
            del target
            facts = {"offsets": offsets, "sizes": sizes, "dropped": dropped, "wanted": wanted}
            _write_index(file, total, facts)
            room.keep(file, temporary, path)
            files.sync_folder(path.parent)
            return Cache(path, samples, geometry)
    finally:
        temporary.unlink(missing_ok=True)


def _place(lengths: Sequence[int], room: int) -> tuple[list[int], int]:
    """Where each image goes, in order, as long as there is room; and the bytes taken."""
    offsets, total = [], 0
    for length in lengths:
        fits = total + length <= room
        offsets.append(total if fits else _NOT_KEPT)
        total += length if fits else 0
    return offsets, total


def _reserve(handle: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.truncate(handle, size)


def _decode_all(
    samples: Sequence[Sample],
    geometry: Geometry,
    sizes: Sequence[tuple[int, int]],
    offsets: Sequence[int],
    skip: dict[int, str],
    target: Pixels,
) -> dict[int, str]:
    """Decode every image into its place; those without a place are looked at all the same, so that it is
    known which can be read."""

    def one(index: int, image: Image.Image) -> str | None:
        try:
            pixels = _seen(geometry, samples[index]).pixels(image)
        except images.ImageError as error:
            return _cut(str(error))
        if pixels.shape[:2] != tuple(sizes[index]):
            return "its header and its pixels disagree about the size"
        start = offsets[index]
        if start >= 0:
            target[start : start + pixels.size] = pixels.reshape(-1)
        return None

    def of_file(path: Path, indexes: list[int]) -> list[tuple[int, str | None]]:
        # The regions of an image stand in a row; it is decoded once for all of them.
        heartbeat.beat(_DECODING)
        try:
            with images.open_header(path) as image:
                return [(index, one(index, image)) for index in indexes]
        except images.ImageError as error:
            return [(index, _cut(str(error))) for index in indexes]

    todo = [index for index in range(len(samples)) if index not in skip]
    of_files = [(path, list(part)) for path, part in groupby(todo, key=lambda index: samples[index].path)]
    with ThreadPoolExecutor(cpu_threads()) as pool:
        found = pool.map(lambda file: of_file(*file), of_files)
        return {index: reason for file in found for index, reason in file if reason}


def _write_index(file: BinaryIO, start: int, facts: dict[str, Any]) -> None:
    index = json.dumps(facts, ensure_ascii=False).encode("utf-8", "replace")
    file.seek(start)
    file.write(index + len(index).to_bytes(8, "little") + _MARK)
    file.truncate()
    file.flush()
    os.fsync(file.fileno())


def _read_index(file: BinaryIO, whole: int) -> dict[str, Any]:
    file.seek(max(0, whole - 16))
    tail = file.read(16)
    if tail[8:] != _MARK:
        raise ValueError("not a finished cache")
    length = int.from_bytes(tail[:8], "little")
    file.seek(whole - 16 - length)
    found: dict[str, Any] = json.loads(file.read(length))
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _cut(reason: str) -> str:
    return reason.encode("utf-8", "replace")[:_REASON_BYTES].decode("utf-8", "ignore")
