"""Writes an MLTable folder of labelled images: whole, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amlocal.compat.azureml_uri import UriError, clean_path, is_azureml, parse
from amlocal.compat.mltable_file import SAMPLE
from amlocal.emulator.cli import CommandError
from amlocal.emulator.cli.convert_pictures import Done, Picture, Pictures

ROWS = "train_annotations.jsonl"
"""The name that the documentation's MLTable file reads."""
IMAGES = "images"


def write(read: Pictures, images: Path, target: Path, image_url: str | None) -> Done:
    """The folder `target` from what was read. Raises CommandError when no image can be used, and OSError."""
    left_out = list(read.left_out)
    if image_url is not None:
        _check(image_url)
    if image_url is None and not images.is_dir():
        raise CommandError(f"{images} is no folder; say where the images are with --images.")
    with _staging(target) as staged:
        rows = list(_rows(read, images, staged, image_url, left_out))
        if not rows:
            shown = f" For example: {left_out[0]}" if left_out else ""
            raise CommandError(f"not one image can be used.{shown}")
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (staged / ROWS).write_text(lines, encoding="utf-8")
        (staged / "MLTable").write_text(SAMPLE, encoding="utf-8")
        staged.chmod(0o755)
        staged.rename(target)
    labels = [one["label"] for row in rows for one in row["label"]]
    return Done(len(rows), len(labels), len(set(labels)), left_out)


def _check(image_url: str) -> None:
    try:
        if not is_azureml(image_url):
            raise UriError(image_url, "is not an azureml reference.", show_forms=True)
        parse(f"{image_url.rstrip('/')}/1.jpg")
    except UriError as error:
        raise CommandError(f"--image-url: {error}") from error


def _rows(
    read: Pictures, images: Path, staged: Path, image_url: str | None, left_out: list[str]
) -> Iterator[dict[str, Any]]:
    root = images.resolve()
    for picture in read.pictures:
        try:
            name = clean_path(picture.name.replace("\\", "/"))
        except UriError as error:
            left_out.append(f"image {picture.name[:200]!r}: {error.reason}")
            continue
        if image_url is None:
            address = name if name.startswith(f"{IMAGES}/") else f"{IMAGES}/{name}"
            reason = _copy(root, name, staged / address)
            if reason:
                left_out.append(f"image {name}: {reason}")
                continue
        else:
            address = f"{image_url.rstrip('/')}/{name}"
        yield _row(picture, address)


def _row(picture: Picture, address: str) -> dict[str, Any]:
    details = {"width": f"{picture.width}px", "height": f"{picture.height}px"}
    kind = Path(picture.name).suffix.lstrip(".").lower()
    return {"image_url": address, "image_details": {"format": kind, **details}, "label": picture.objects}


def _copy(root: Path, name: str, target: Path) -> str:
    """Copies an image; why not, where that cannot be."""
    source = root / name
    try:
        real = source.resolve(strict=True)
    except (OSError, RuntimeError):
        return f"there is no such file in {root}"
    if not real.is_relative_to(root):
        return f"it is a link that leaves {root}"
    if not real.is_file():
        return "it is no plain file"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real, target)
    return ""


@contextlib.contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, gone at the end unless it was renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=f".{os.getpid()}", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
