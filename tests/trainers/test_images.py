from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torchvision.transforms as T
from PIL import Image

from amlocal.trainers.data import images


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack((x * 3 % 256, y * 5 % 256, (x + y) * 2 % 256), 2).astype(np.uint8))


def test_exif_orientation_is_applied_and_known_from_the_header() -> None:
    image = gradient(40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, "PNG", exif=exif)
    opened = images.open_image(data)
    assert opened.size == (20, 40)
    assert np.array_equal(np.asarray(opened), np.rot90(np.asarray(image), -1))
    assert images.upright_size(images.open_header(data)) == (20, 40)


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    pixels = np.asarray(images.open_image(encoded(Image.fromarray(values), "PNG")))
    assert pixels.tolist() == [[[0] * 3, [1] * 3, [128] * 3, [255] * 3]]
    tiff = np.asarray(images.open_image(encoded(Image.fromarray(values), "TIFF")))
    assert np.array_equal(tiff, pixels)


def test_fractions_and_wide_integers_are_scaled() -> None:
    fractions = Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32))
    assert np.asarray(images.open_image(encoded(fractions, "TIFF")))[0, :, 0].tolist() == [0, 128, 255, 0]
    wide = Image.fromarray(np.array([[0, 35000, 70000]], dtype=np.int32))
    assert np.asarray(images.open_image(encoded(wide, "TIFF")))[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "P", "1", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    opened = images.open_image(encoded(Image.new("RGB", (5, 4), (200, 200, 200)).convert(mode), kind))
    assert (opened.mode, opened.size) == ("RGB", (5, 4))
    assert abs(int(np.asarray(opened).mean()) - 200) <= 4 or mode == "1"


def test_cmyk_jpeg_and_transparent_palette() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.asarray(images.open_image(encoded(cmyk, "JPEG")))[8, 8].tolist() == pytest.approx(
        [254, 0, 0], abs=3
    )
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    data = encoded(palette, "PNG", transparency=0)
    assert np.asarray(images.open_image(data))[0, 0].tolist() == [10, 200, 30]


def test_of_several_frames_the_first_counts() -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(images.open_image(data))[0, 0].tolist() == [255, 0, 0]


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(60000, 60000), (13500, 13500)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pixel_bombs_are_refused_from_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(images.ImageError, match=r"more than 178,956,970 pixels"):
        images.open_header(huge_png(*size))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "not an image in a known format"),
        (b"", "not an image in a known format"),
        (huge_png(100, 100), "cannot be decoded"),
        (encoded(gradient(64, 64), "JPEG")[:400], "cannot be decoded|unreadable header|not an image"),
    ],
)
def test_unreadable_bytes_have_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(images.ImageError, match=reason):
        images.open_image(data)


def test_a_missing_file_has_a_reason(tmp_path: Path) -> None:
    with pytest.raises(images.ImageError, match="file not found"):
        images.open_image(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("size", "resize", "crop"),
    [((64, 48), 40, 32), ((31, 57), 40, 33), ((40, 40), 40, 40), ((30, 20), 16, 24), ((200, 21), 37, 36)],
)
def test_validation_geometry_is_torchvisions(size: tuple[int, int], resize: int, crop: int) -> None:
    image = gradient(*size)
    theirs = T.Compose([T.Resize(resize), T.CenterCrop(crop)])(image)
    assert np.array_equal(images.for_validation(image, resize, crop), np.asarray(theirs))
