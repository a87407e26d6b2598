from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torchvision.transforms as T
from PIL import Image

from amlocal.trainers.data import cache, images
from amlocal.trainers.data.samples import Sample


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


SUFFIXES = ["jpg", "jpeg", "png", "jpe", "jfif", "bmp", "tif", "tiff"]


@pytest.mark.parametrize("suffix", [*SUFFIXES, "JPG", "TIFF"])
def test_every_documented_format_is_read_from_a_file(tmp_path: Path, suffix: str) -> None:
    image = gradient(48, 40)
    path = tmp_path / f"image.{suffix}"
    image.save(path)  # Pillow chooses the format by the suffix
    found = np.asarray(images.open_image(path)).astype(int)
    assert found.shape == (40, 48, 3)
    lossy = suffix.lower().startswith("j")
    assert np.abs(found - np.asarray(image).astype(int)).mean() < (12 if lossy else 1e-9)
    assert (Image.open(path).format == "JPEG") == lossy


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    gradient(20, 10).save(tmp_path / "image.jpg", "PNG")
    assert np.array_equal(np.asarray(images.open_image(tmp_path / "image.jpg")), np.asarray(gradient(20, 10)))


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_orientation_of_a_jpeg_is_turned_upright(tmp_path: Path, turn: int) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255  # white in the upper left corner
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = Image.fromarray(np.ascontiguousarray(undo[turn](upright)))
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    found = np.asarray(images.open_image(tmp_path / "turned.jpg"))
    assert found.shape == (32, 48, 3)
    assert found[4:12, 4:20].min() > 240
    assert found[20:, :].max() < 15
    assert images.upright_size(images.open_header(tmp_path / "turned.jpg")) == (48, 32)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bit_tiff_of_either_byte_order_keeps_its_shades(mode: str) -> None:
    values = np.array([[0, 256, 512, 65535]], dtype="<u2" if mode == "I;16" else ">u2")
    image = Image.frombytes(mode, (4, 1), values.tobytes())
    assert np.asarray(images.open_image(encoded(image, "TIFF")))[0, :, 0].tolist() == [0, 1, 2, 255]
    dark = Image.frombytes(mode, (4, 1), (values // 256).astype(values.dtype).tobytes())
    assert np.asarray(images.open_image(encoded(dark, "TIFF")))[0, :, 0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_animated_files_give_their_first_frame(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    path = tmp_path / "moving"
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(path).n_frames == 3
    assert np.asarray(images.open_image(path))[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit_images_are_black_and_white(kind: str) -> None:
    image = Image.new("1", (9, 2))
    image.putpixel((3, 1), 1)
    found = np.asarray(images.open_image(encoded(image, kind)))
    assert found.shape == (2, 9, 3)
    assert sorted(set(found.reshape(-1).tolist())) == [0, 255]
    assert found[1, 3].tolist() == [255, 255, 255]


def test_transparency_is_dropped_and_the_colours_under_it_stay() -> None:
    grey = Image.merge("LA", [Image.new("L", (4, 4), 77), Image.new("L", (4, 4), 0)])
    assert np.asarray(images.open_image(encoded(grey, "PNG")))[0, 0].tolist() == [77, 77, 77]
    colour = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert np.asarray(images.open_image(encoded(colour, "PNG")))[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_documented_format_goes_through_the_store_alike(tmp_path: Path, suffix: str) -> None:
    gradient(48, 40).save(tmp_path / f"image.{suffix}")
    row = Sample(tmp_path / f"image.{suffix}", "e", ("a",), "t.jsonl:1")
    for stream in (False, True):
        store, dropped = cache.open_store(
            [row], cache.Validation(36, 32), tmp_path / "cache", "test", stream=stream
        )
        assert dropped == []
        assert np.array_equal(store[0], images.for_validation(images.open_image(row.path), 36, 32))


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


def test_a_whole_image_is_squeezed_where_the_model_wants_that() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 200
    image = Image.fromarray(pixels)
    squeezed = images.for_validation(image, 10, 10, whole=True)
    assert squeezed.shape == (10, 10, 3)
    assert squeezed[:, :4].max() == 0 and squeezed[:, 6:].min() == 200
    cut = images.for_validation(image, 20, 10)
    assert cut[:, :5].max() == 0 and cut[:, 5:].min() == 200
