"""Pickled content is found whatever a file is called; nothing is unpickled, plain files stay plain."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.endpoints import pickles


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/amlocal-pickle-was-loaded",)


def zipped(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


def tarred(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def npy(dtype: str) -> bytes:
    import numpy

    out = io.BytesIO()
    numpy.save(out, numpy.zeros(3, dtype=dtype), allow_pickle=True)
    return out.getvalue()


EVIL = pickle.dumps(Evil(), 4)
PICKLED: dict[str, Callable[[], bytes]] = {
    **{f"protocol {number}": lambda n=number: pickle.dumps(Evil(), n) for number in range(6)},  # type: ignore[misc]
    "plain values, protocol 4": lambda: pickle.dumps({"a": [1.0]}, 4),
    "text before its end": lambda: b"cos\nsystem\n(S'true'\ntR and no pickle any more",
    "zlib": lambda: zlib.compress(EVIL),
    "gzip": lambda: gzip.compress(EVIL),
    "bz2": lambda: bz2.compress(EVIL),
    "xz": lambda: lzma.compress(EVIL),
    "lzma": lambda: lzma.compress(EVIL, format=lzma.FORMAT_ALONE),
    "lz4": lambda: b"\x04\x22\x4d\x18" + b"x" * 50,
    "torch.save": lambda: zipped("archive/data.pkl", EVIL),
    "renamed in a zip": lambda: zipped("weights.bin", EVIL),
    "zip in a zip": lambda: zipped("inner.bin", zipped("weights.bin", EVIL)),
    "tar": lambda: tarred("weights.bin", EVIL),
    "tar.gz": lambda: gzip.compress(tarred("weights.bin", EVIL)),
    "numpy objects": lambda: npy("O"),
    "broken zip": lambda: b"PK\x03\x04" + b"\0" * 100,
}
PLAIN: dict[str, Callable[[], bytes]] = {
    "text": lambda: b"config\nfoo\nbar: 1\n",
    "text like opcodes": lambda: b"cat\ndog\nRabbit\n",
    "json": lambda: b'{"a": [1, 2, {"b": null}]}',
    "empty": lambda: b"",
    "numbers": lambda: npy("f8"),
    "safetensors": lambda: (
        b"\x40\x00\x00\x00\x00\x00\x00\x00" + b'{"w":{"dtype":"F32"}}'.ljust(64) + bytes(64)
    ),
    "onnx": lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.0.0",
    "zip": lambda: zipped("config.json", b"{}"),
    "gzip": lambda: gzip.compress(b"some text"),
    "png": lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
}


@pytest.mark.parametrize("kind", PICKLED)
def test_found(tmp_path: Path, kind: str) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "innocent.txt").write_bytes(PICKLED[kind]())
    found = pickles.find(tmp_path, {})
    assert found is not None and found.startswith("deep/innocent.txt: ")
    assert not Path("/tmp/amlocal-pickle-was-loaded").exists()


@pytest.mark.parametrize("kind", PLAIN)
def test_not_found(tmp_path: Path, kind: str) -> None:
    (tmp_path / "data.bin").write_bytes(PLAIN[kind]())
    assert pickles.find(tmp_path, {}) is None
    assert pickles.find(tmp_path / "data.bin", {}) is None


def test_a_bomb_is_read_only_at_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(zlib.compress(bytes(64 * 1024**2)))
    assert pickles.find(tmp_path, {}) is None


def test_a_name_or_a_loader_is_enough(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"")
    assert pickles.find(tmp_path, {}) == "model.pkl: its name is that of a pickle"
    (tmp_path / "model.pkl").unlink()

    def loader(name: str, **more: str) -> dict[str, Any]:
        return {"python_function": {"data": {"loader_module": name, **more}}}

    assert "mlflow.sklearn" in str(pickles.find(tmp_path, loader("mlflow.sklearn")))
    assert "python_model" in str(pickles.find(tmp_path, loader("mlflow.pyfunc.model", python_model="p")))
    assert pickles.find(tmp_path, loader("mlflow.pyfunc.model")) is None
    assert pickles.find(tmp_path, loader("amlocal.trainers.scoring")) is None


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside, model = tmp_path / "outside", tmp_path / "model"
    outside.mkdir()
    model.mkdir()
    (model / "link").symlink_to(outside)
    assert "no plain file" in str(pickles.find(model, {}))
