"""Decode once: the pixels of a whole data set in one file, mapped read-only by every epoch and every trial.

Layout of the file: the pixels of each image (height, width, 3) uint8 one after the other, then a JSON index,
then 16 bytes (length of the index, mark). It is built in a temporary file whose space is reserved first,
under a lock, fsynced and renamed; to evict it, unlink it. The name is a hash of every image's path, size and
etag, the decoder's version and rules, and the geometry.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from amlocal.trainers import files
from amlocal.trainers.data import images
from amlocal.trainers.data.samples import Dropped, Sample
from amlocal.trainers.device import cpu_threads
from amlocal.trainers.locking import locked
from amlocal.trainers.progress import say, warn

_MARK = b"amlcach1"
Pixels = npt.NDArray[np.uint8]


class Geometry(Protocol):
    """Which pixels of an image are kept. Implementations are frozen dataclasses: their repr goes into the
    key."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of the result for an upright image."""

    def pixels(self, image: Image.Image) -> Pixels:
        """The result for an opened, not yet decoded image. Raises ImageError."""


@dataclass(frozen=True)
class Validation:
    """Exactly what validation and scoring feed to the network."""

    resize: int
    crop: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        return self.crop, self.crop

    def pixels(self, image: Image.Image) -> Pixels:
        return images.for_validation(images.decode(image), self.resize, self.crop)


@dataclass(frozen=True)
class Training:
    """The whole image, its short side reduced to `short` (at least twice the crop); small images stay as they
    are."""

    short: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        if min(width, height) > self.short:
            width, height = images.short_side_size(width, height, self.short)
        return height, width

    def pixels(self, image: Image.Image) -> Pixels:
        height, width = self.size(*images.upright_size(image))
        decoded = images.decode(image, at_least=self.short)
        if decoded.size != (width, height):
            decoded = decoded.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        return np.asarray(decoded)


class Store(Protocol):
    """Pixels by position in the list of samples it was made from."""

    dropped: dict[int, str]

    def __getitem__(self, index: int) -> Pixels: ...


class Cache:
    """A finished cache file, mapped read-only. Raises ValueError when the file is not one."""

    def __init__(self, path: Path) -> None:
        whole = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, whole - 16))
            tail = file.read(16)
            if tail[8:] != _MARK:
                raise ValueError(f"{path} is not a finished cache")
            length = int.from_bytes(tail[:8], "little")
            file.seek(whole - 16 - length)
            index = json.loads(file.read(length))
        self._offsets: list[int] = index["offsets"]
        self._sizes: list[list[int]] = index["sizes"]
        self.dropped: dict[int, str] = {int(key): reason for key, reason in index["dropped"].items()}
        self._map = (
            np.memmap(path, dtype=np.uint8, mode="r") if whole > 16 + length else np.empty(0, np.uint8)
        )

    def __getitem__(self, index: int) -> Pixels:
        height, width = self._sizes[index]
        start = self._offsets[index]
        return self._map[start : start + height * width * 3].reshape(height, width, 3)


class Uncached:
    """The same pixels, decoded at each access; for disks without room."""

    def __init__(self, samples: Sequence[Sample], geometry: Geometry) -> None:
        self._samples = samples
        self._geometry = geometry
        _, self.dropped = _plan(samples, geometry)
        for index in range(len(samples)):
            if index not in self.dropped:
                try:
                    self[index]
                except images.ImageError as error:
                    self.dropped[index] = str(error)

    def __getitem__(self, index: int) -> Pixels:
        with images.open_header(self._samples[index].path) as image:
            return self._geometry.pixels(image)


def key(samples: Sequence[Sample], geometry: Geometry) -> str:
    """Name of the cache for these samples: changes with any file, the decoder, or the geometry."""
    digest = hashlib.sha256(f"{images.DECODER}\n{geometry!r}\n".encode())
    for sample in samples:
        try:
            size = sample.path.stat().st_size
        except OSError:
            size = -1
        digest.update(f"{sample.path}\0{size}\0{sample.etag}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def open_store(
    samples: Sequence[Sample], geometry: Geometry, folder: Path, noun: str
) -> tuple[Store, list[Dropped]]:
    """The pixels of `samples`, built if need be, and the samples that cannot be read. `noun` is for the
    log."""
    path = folder / f"{key(samples, geometry)}.u8"
    store: Store
    with locked(path.with_suffix(".lock"), f"it is decoding the {noun} images"):
        try:
            store = Cache(path)
        except (FileNotFoundError, ValueError):
            try:
                _build(path, samples, geometry, noun)
                store = Cache(path)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                warn(
                    f"no room for decoded images in {folder}; every epoch decodes them again, which is slower"
                )
                store = Uncached(samples, geometry)
    dropped = [
        Dropped(samples[i].source, f"{samples[i].path.name}: {r}") for i, r in sorted(store.dropped.items())
    ]
    return store, dropped


def _plan(samples: Sequence[Sample], geometry: Geometry) -> tuple[list[tuple[int, int]], dict[int, str]]:
    """Result sizes from the headers alone, and the images whose header is no good."""
    sizes: list[tuple[int, int]] = []
    dropped: dict[int, str] = {}
    for index, sample in enumerate(samples):
        try:
            with images.open_header(sample.path) as image:
                sizes.append(geometry.size(*images.upright_size(image)))
        except images.ImageError as error:
            sizes.append((0, 0))
            dropped[index] = str(error)
    return sizes, dropped


def _build(path: Path, samples: Sequence[Sample], geometry: Geometry, noun: str) -> None:
    say(f"decoding {len(samples)} {noun} images once")
    sizes, dropped = _plan(samples, geometry)
    lengths = [height * width * 3 for height, width in sizes]
    offsets = [0, *np.cumsum(lengths, dtype=np.int64).tolist()][:-1] if lengths else []
    total = sum(lengths)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w+b") as file:
            if total:
                _reserve(file.fileno(), total)
                target = np.memmap(temporary, dtype=np.uint8, mode="r+", shape=(total,))
                dropped |= _decode_all(samples, geometry, sizes, offsets, dropped, target)
                target.flush()
                del target
            file.seek(total)
            facts: dict[str, Any] = {"offsets": offsets, "sizes": sizes, "dropped": dropped}
            index = json.dumps(facts).encode()
            file.write(index + len(index).to_bytes(8, "little") + _MARK)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        files.sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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
    def one(index: int) -> str | None:
        try:
            with images.open_header(samples[index].path) as image:
                pixels = geometry.pixels(image)
        except images.ImageError as error:
            return str(error)
        if pixels.shape[:2] != tuple(sizes[index]):
            return "its header and its pixels disagree about the size"
        start = offsets[index]
        target[start : start + pixels.size] = pixels.reshape(-1)
        return None

    todo = [index for index in range(len(samples)) if index not in skip]
    with ThreadPoolExecutor(cpu_threads()) as pool:
        return {index: reason for index, reason in zip(todo, pool.map(one, todo), strict=True) if reason}
