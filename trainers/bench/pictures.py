"""Images to measure with: made here, or a folder of the user's."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from amlocal.trainers import files
from amlocal.trainers.data import images
from amlocal.trainers.device import cpu_threads
from amlocal.trainers.errors import TrainingError

CLASSES = 10
_SIZES = ((500, 375), (375, 500), (500, 333), (500, 500))
"""Width and height of photographs as data sets for classification have them."""
_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".jfif"})
_VALIDATION = 8
_COARSE = (12, 16, 3)


@dataclass(frozen=True)
class Pictures:
    """Image files and the number of each one's class."""

    paths: list[Path]
    targets: list[int]
    source: str

    @property
    def classes(self) -> int:
        return max(self.targets) + 1

    def write_manifests(self, folder: Path, labels: Sequence[Any] | None = None) -> tuple[Path, Path]:
        """Manifests for training (all images) and validation (some of them). `labels`: what stands in each
        image's row; else the name of its class."""
        each = [f"class {target:02d}" for target in self.targets] if labels is None else labels
        rows = [
            {"path": str(path), "etag": "", "label": label, "source": f"bench.jsonl:{number}"}
            for number, (path, label) in enumerate(zip(self.paths, each, strict=True), 1)
        ]
        lines = [json.dumps(row) + "\n" for row in rows]
        manifests = folder / "training.jsonl", folder / "validation.jsonl"
        files.write_text(manifests[0], "".join(lines))
        files.write_text(manifests[1], "".join(lines[:_VALIDATION]))
        return manifests


def make(folder: Path, count: int) -> Pictures:
    """`count` JPEG files of about 60 kB each: smooth noise, fine grain and shapes; always the same ones."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05d}.jpg" for number in range(count)]
    with ThreadPoolExecutor(cpu_threads()) as pool:
        for path, data in zip(paths, pool.map(jpeg, range(count)), strict=True):
            path.write_bytes(data)
    return Pictures(paths, [number % CLASSES for number in range(count)], f"{count} made JPEG files")


def jpeg(number: int) -> bytes:
    """The JPEG file of picture `number`."""
    random = np.random.default_rng(number)
    width, height = _SIZES[number % len(_SIZES)]
    coarse = random.integers(0, 256, _COARSE, dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for shape in _shapes(random, width, height):
        (draw.ellipse if shape.round else draw.rectangle)(shape.box, fill=shape.colour)
    grain = random.normal(0, 8, (height, width, 1))
    pixels = (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=90)
    return target.getvalue()


@dataclass(frozen=True)
class Shape:
    """An ellipse or a rectangle: left, top, right, bottom in pixels, perhaps beyond the image's edge."""

    round: bool
    box: tuple[int, int, int, int]
    colour: tuple[int, ...]


def shapes(number: int) -> tuple[tuple[int, int], list[Shape]]:
    """Width and height of picture `number`, and what is drawn on it, the topmost last."""
    random = np.random.default_rng(number)
    random.integers(0, 256, _COARSE, dtype=np.uint8)
    width, height = _SIZES[number % len(_SIZES)]
    return (width, height), _shapes(random, width, height)


def _shapes(random: np.random.Generator, width: int, height: int) -> list[Shape]:
    found = []
    for _ in range(12):
        x, y = int(random.integers(width)), int(random.integers(height))
        w, h = (int(n) for n in random.integers(10, 150, 2))
        colour = tuple(int(c) for c in random.integers(0, 256, 3))
        found.append(Shape(bool(random.random() < 0.5), (x, y, x + w, y + h), colour))
    return found


def find(folder: Path, count: int | None) -> Pictures:
    """The readable images below `folder`, at most `count`; the folders directly below it are the classes.

    Raises TrainingError when there are none.
    """
    if not folder.is_dir():
        raise TrainingError(f"--data {folder} is not a folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not found:
        raise TrainingError(f"--data {folder} holds no images ({', '.join(sorted(_SUFFIXES))})")
    chosen = [path for path in _spread(found, count or len(found)) if _readable(path)]
    if not chosen:
        raise TrainingError(f"--data {folder}: none of {len(found)} images can be read")
    tops = [path.relative_to(folder).parts[0] for path in chosen]
    names = {name: index for index, name in enumerate(sorted(set(tops)))}
    # Without folders for classes any two labels do: it is speed that is measured.
    plain = len(names) == len(chosen) or len(names) == 1
    targets = [n % 2 if plain else names[top] for n, top in enumerate(tops)]
    return Pictures(chosen, targets, f"{len(chosen)} images of {folder}")


def _readable(path: Path) -> bool:
    try:
        images.open_header(path).close()
    except images.ImageError:
        return False
    return True


def _spread(paths: Sequence[Path], count: int) -> list[Path]:
    step = max(1.0, len(paths) / count)
    return [paths[int(n * step)] for n in range(min(count, len(paths)))]
