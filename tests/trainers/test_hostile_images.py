"""Odd images that are real give the right pixels; everything else a reason, in little memory and without
changing Pillow."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from amlocal.trainers.data import images

UNDO: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, channels: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).integers(0, 256, (height, width, channels), dtype=np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2, more: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + more + data + chunk(b"IEND", b"")


@pytest.fixture(autouse=True)
def pillow_stays_as_it_is() -> Any:
    def state() -> list[Any]:
        return [
            Image.MAX_IMAGE_PIXELS,
            ImageFile.LOAD_TRUNCATED_IMAGES,
            PngImagePlugin.MAX_TEXT_CHUNK,
            PngImagePlugin.MAX_TEXT_MEMORY,
        ]

    before = state()
    yield
    assert state() == before


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", UNDO)
def test_every_orientation_gives_the_pixels_of_the_upright_image(kind: str, turn: int) -> None:
    upright = noise(6, 4)
    exif = Image.Exif()
    exif[0x0112] = turn
    lossless = {"lossless": True} if kind == "WEBP" else {}
    stored = Image.fromarray(np.ascontiguousarray(UNDO[turn](upright)))
    data = encoded(stored, kind, exif=exif, **lossless)
    assert np.array_equal(np.asarray(images.open_image(data)), upright)
    assert images.upright_size(images.open_header(data)) == (6, 4)


def test_cmyk_as_adobe_inverts_it() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.asarray(images.open_image(data))[8, 8].tolist() == pytest.approx([255, 0, 0], abs=4)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_sixteen_bit_png_keeps_its_high_bytes(colour: int, channels: int) -> None:
    values = np.array([[[0x1234, 0x5678, 0x9ABC, 0xFFFF][:channels]] * 3] * 2, dtype=">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    found = np.asarray(images.open_image(png(3, 2, rows, 16, colour)))
    expected = [0x12, 0x12, 0x12] if channels == 2 else [0x12, 0x56, 0x9A]
    assert found.shape == (2, 3, 3)
    assert found[1, 2].tolist() == expected


def test_sixteen_bit_colour_tiff_keeps_its_high_bytes() -> None:
    pixels = struct.pack("<6H", 0x1234, 0x5678, 0x9ABC, 0xFF00, 0, 0x8000)
    tags = [
        (256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 220), (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    data = b"II*\0" + struct.pack("<IH", 8, len(tags))
    data += b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 0)
    data = data.ljust(200, b"\0") + struct.pack("<3H", 16, 16, 16)
    data = data.ljust(220, b"\0") + pixels
    assert np.asarray(images.open_image(data)).tolist() == [[[0x12, 0x56, 0x9A], [0xFF, 0, 0x80]]]


def test_a_jpeg_of_several_pictures_gives_the_first() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.asarray(images.open_image(data))[8, 8].tolist() == pytest.approx([255, 0, 0], abs=4)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 2)])
def test_tiny_images_are_scored(size: tuple[int, int]) -> None:
    opened = images.open_image(encoded(Image.new("RGB", size, (9, 8, 7)), "PNG"))
    assert opened.size == size
    assert (images.for_validation(opened, 36, 32).reshape(-1, 3) == (9, 8, 7)).all()


@pytest.mark.parametrize("upright", [True, False])
def test_a_line_of_pixels_is_cut_as_an_ordinary_image_is(
    upright: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Image.fromarray(noise(3, 200) if upright else noise(200, 3))
    expected = images.for_validation(line, 36, 32).astype(int)
    monkeypatch.setattr(images, "_RESIZED_PIXELS", 100)
    found = images.for_validation(line, 36, 32).astype(int)
    assert found.shape == expected.shape == (32, 32, 3)
    assert np.abs(found - expected).max() <= 1


def test_of_very_large_images_one_is_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    free: list[bool] = []
    decode = images.decode

    def watched(image: Image.Image) -> Image.Image:
        free.append(not images._ONE_AT_A_TIME.locked())
        return decode(image)

    monkeypatch.setattr(images, "decode", watched)
    monkeypatch.setattr(images, "_LARGE", 99)
    for side in (9, 10):
        images.open_image(encoded(Image.new("RGB", (side, side)), "PNG"))
    assert free == [True, False]
    assert not images._ONE_AT_A_TIME.locked()


JPEG = encoded(Image.fromarray(noise(64, 64)), "JPEG")
ARCHIVE = io.BytesIO()
with zipfile.ZipFile(ARCHIVE, "w") as _file:
    _file.writestr("image.png", b"\x89PNG\r\n\x1a\n")

NOT_IMAGES = {
    "empty": b"",
    "text": b"no image",
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "html": b"<!DOCTYPE html><html><body><img src=x></body></html>",
    "zip": ARCHIVE.getvalue(),
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "photoshop": b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + b"\0" * 80,
    "fits": b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =   8".ljust(80) + b"END".ljust(2720),
    "ppm": b"P6 1 1 255\n\1\2\3",
    "ico": encoded(Image.new("RGB", (16, 16)), "ICO"),
    "jpeg2000": encoded(Image.new("RGB", (16, 16)), "JPEG2000"),
    "half a jpeg": JPEG[: len(JPEG) // 2],
    "start of a jpeg": JPEG[:20],
    "half a png": encoded(Image.fromarray(noise(64, 64)), "PNG")[:6000],
    "png of no pixels": png(0, 5, b""),
    "png that promises more": png(3000, 3000, b"\0" * 100),
    "gif of 65535 x 65535": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";",
    "bmp of a negative width": b"BM"
    + struct.pack("<IHHIIiiHH", 100, 0, 0, 54, 40, -5, 5, 1, 24)
    + b"\0" * 60,
    "tiff of many tags": b"II*\0"
    + struct.pack("<IH", 8, 65535)
    + b"\xff\xff\4\0\xff\xff\xff\x7f\0\0\0\0" * 20,
    "tiff that refers to itself": b"II*\0" + struct.pack("<IHI", 8, 0, 8),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_image_has_a_reason(name: str) -> None:
    with pytest.raises(images.ImageError) as error:
        images.open_image(NOT_IMAGES[name])
    assert 5 < len(str(error.value)) < 250


def test_large_texts_and_profiles_neither_hurt_nor_cost_a_real_image() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    exif[0x0112] = 3
    data = encoded(Image.fromarray(noise(4, 4)), "PNG", exif=exif)
    assert np.array_equal(np.asarray(images.open_image(data)), noise(4, 4)[::-1, ::-1])


BOMB = zlib.compress(b"\0" * 300_000_000, 9)
BOMBS = {
    "50,000 x 50,000 png": png(50_000, 50_000, b"\0" * 100),
    "text": png(1, 1, b"\0\1\2\3", more=chunk(b"zTXt", b"a\0\0" + BOMB)),
    "international text": png(1, 1, b"\0\1\2\3", more=chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)),
    "profile": png(1, 1, b"\0\1\2\3", more=chunk(b"iCCP", b"a\0\0" + BOMB)),
    "tags": NOT_IMAGES["tiff of many tags"],
    "more rows than promised": png(2, 2, b"\0" * 200_000_000),
}
MEASURE = """
import json, sys
from pathlib import Path
from amlocal.trainers.data import images
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) // 1024
found = {}
for path in map(Path, sys.argv[1:]):
    data = path.read_bytes()
    before = peak()
    try:
        answer = list(images.for_validation(images.open_image(data), 36, 32).shape)
    except ValueError as error:
        answer = str(error)
    found[path.name] = [answer, peak() - before]
line = images.Image.new("L", (1, 3_000_000))
before = peak()
found["line"] = [list(images.for_validation(line.convert("RGB"), 256, 224).shape), peak() - before]
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bombs_take_little_memory(tmp_path: Path) -> None:
    for number, data in enumerate(BOMBS.values()):
        (tmp_path / str(number)).write_bytes(data)
    paths = [str(tmp_path / str(number)) for number in range(len(BOMBS))]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(run.stdout)
    assert len(found) == len(BOMBS) + 1
    assert all(growth < 256 for _, growth in found.values()), found
    assert "more than 178,956,970 pixels" in found["0"][0]
    assert found["line"][0] == [224, 224, 3]
    assert found[str(len(BOMBS) - 1)][0] == [32, 32, 3]
