"""Images that are read only when they are needed, with as many decoded ones kept as fit.

The file: a mark, a table with one record (offset, height, width, checksum) for each image, then the pixels in
the order in which images were first asked for. Several processes and trials fill one file together: a place
at its end is given out under the folder's lock, and the record is completed when the pixels are written. A
record whose pixels do not have its checksum, as a power cut may leave it, counts as empty. Pixels that find
no more room are decoded again at each access.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from amlocal.trainers.data.geometry import Geometry
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.room import TEMPORARY, Room, hold
from amlocal.trainers.data.samples import Sample
from amlocal.trainers.progress import say, warn

_MARK = b"amlslot1"
_RECORD = struct.Struct("<QIII4x")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

Decode = Callable[[Sample, Geometry], Pixels]


class Streamed:
    """Pixels by position in `samples`. Nothing is read before it is asked for, so nothing is dropped
    beforehand: an image that cannot be read raises ImageError, at each access."""

    decodes = True

    def __init__(
        self,
        samples: Sequence[Sample],
        geometry: Geometry,
        room: Room,
        noun: str,
        decode: Decode,
        file: BinaryIO | None,
    ) -> None:
        self.dropped: dict[int, str] = {}
        self.sizes: Sequence[Sequence[int]] | None = None
        self._samples = samples
        self._geometry = geometry
        self._room = room
        self._noun = noun
        self._decode = decode
        self._file = file
        self._told = threading.Lock()
        self._full = file is None
        # Records whose checksum this process has found right, so that it is computed once only.
        self._known: dict[int, tuple[int, int, int]] = {}

    def __getitem__(self, index: int) -> Pixels:
        """(height, width, 3) uint8, perhaps read-only. Raises ImageError."""
        kept = self._kept(index)
        if kept is not None:
            return kept
        pixels = self._decode(self._samples[index], self._geometry)
        if not self._full:
            self._keep(index, pixels)
        return pixels

    def _kept(self, index: int) -> Pixels | None:
        if self._file is None:
            return None
        handle = self._file.fileno()
        known = self._known.get(index)
        if known is not None:
            offset, height, width = known
            return _pixels(os.pread(handle, height * width * 3, offset), height, width)
        offset, height, width, checksum = self._record(handle, index)
        if not offset or not height:
            return None
        data = os.pread(handle, height * width * 3, offset)
        if len(data) != height * width * 3 or zlib.crc32(data) != checksum:
            return None
        self._known[index] = offset, height, width
        return _pixels(data, height, width)

    def _keep(self, index: int, pixels: Pixels) -> None:
        assert self._file is not None
        handle = self._file.fileno()
        height, width = pixels.shape[:2]
        data = np.ascontiguousarray(pixels).tobytes()
        try:
            with self._room.lock():
                if self._record(handle, index)[0]:
                    return  # another process keeps it
                if self._room.free(len(data)) < len(data):
                    self._tell("cache_max_gb leaves room for no more")
                    return
                offset = os.fstat(handle).st_size
                os.ftruncate(handle, offset + len(data))
                self._write(handle, index, (offset, 0, 0, 0))
            _write_all(handle, data, offset)
            self._write(handle, index, (offset, height, width, zlib.crc32(data)))
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._tell(f"{self._room.folder} has no room for more")

    def _tell(self, why: str) -> None:
        with self._told:
            if not self._full:
                self._full = True
                warn(f"{why} decoded {self._noun} images; every epoch decodes the others again")

    def _record(self, handle: int, index: int) -> tuple[int, int, int, int]:
        found: tuple[int, int, int, int] = _RECORD.unpack(os.pread(handle, _RECORD.size, _at(index)))
        return found

    def _write(self, handle: int, index: int, record: tuple[int, int, int, int]) -> None:
        os.pwrite(handle, _RECORD.pack(*record), _at(index))


def open_streamed(
    path: Path, samples: Sequence[Sample], geometry: Geometry, room: Room, noun: str, decode: Decode
) -> Streamed:
    """Images read one at a time, sharing the file `path` with whoever else has it. The caller holds the lock
    of `path`."""
    say(f"streaming {len(samples)} {noun} images: each is read when it is first needed")
    file = _opened(path, len(samples), room)
    store = Streamed(samples, geometry, room, noun, decode, file)
    if file is None:
        warn(f"cache_max_gb leaves no room for decoded {noun} images; every epoch decodes them again")
    return store


def _opened(path: Path, images: int, room: Room) -> BinaryIO | None:
    """The file, made if need be; None when there is no room even for its table."""
    found = _found(path, images, room)
    if found is not None:
        return found
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with room.lock():
            if room.free(_at(images)) < _at(images):
                return None
            file = room.make(temporary)
            _write_all(file.fileno(), _MARK + bytes(_at(images) - len(_MARK)), 0)
        room.keep(file, temporary, path)
        return file
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        return None
    finally:
        temporary.unlink(missing_ok=True)


def _found(path: Path, images: int, room: Room) -> BinaryIO | None:
    """The file of an earlier process, unless it is none, or is beyond the bound and unused."""
    try:
        most = room.most(path)
        if most is not None and path.stat().st_size > most:
            with room.lock():
                room.remove(path)
        file = hold(path, write=True)
    except FileNotFoundError:
        return None
    if os.pread(file.fileno(), len(_MARK), 0) != _MARK or os.fstat(file.fileno()).st_size < _at(images):
        file.close()
        return None
    with room.lock():
        room.free(0)
    return file


def _at(index: int) -> int:
    return len(_MARK) + index * _RECORD.size


def _pixels(data: bytes, height: int, width: int) -> Pixels:
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _write_all(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
