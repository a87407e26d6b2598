"""Opening an image, one way for training and scoring, and the validation geometry.

EXIF orientation is applied, 16-bit and floating-point images are scaled to 8 bit, everything becomes RGB; of
a file with several frames the first is taken. Transparency is dropped, as Azure's trainer does. The formats
are those that Azure documents (JPEG, PNG, BMP, TIFF) and GIF and WebP; Pillow knows many more, some of which
start other programs.
"""

from __future__ import annotations

import io
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL

# The formats, so that Pillow need not load all that it knows to find them.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

MAX_PIXELS = 178_956_970
"""More are refused from the header, before anything is decoded; Pillow's own hard limit."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP")

RULES = "rgb8,exif,2"
DECODER = f"pillow-{PIL.__version__};{RULES}"
"""Changes whenever the same file could give other pixels; part of the cache's key."""

_LARGE = 2**25
_ONE_AT_A_TIME = threading.Lock()
_RESIZED_PIXELS = 2**24
"""Of an image that would have more once resized, only the part that is kept is resized."""
_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})

Pixels = npt.NDArray[np.uint8]


class Tally:
    """A number that several threads may count up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self) -> None:
        with self._lock:
            self.value += 1


DECODES = Tally()
"""How many times this process has decoded an image; for checking that images are not decoded in vain."""


class ImageError(ValueError):
    """The file or bytes cannot be used as an image; the text is the reason to show."""


def open_header(source: Path | bytes) -> Image.Image:
    """Open lazily and check the size in the header. Raises ImageError."""
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except FileNotFoundError as error:
        raise ImageError("file not found") from error
    except UnidentifiedImageError as error:
        raise ImageError("not an image in a known format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, ... for malformed headers
        raise ImageError(f"unreadable header ({_short(error)})") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} is more than {MAX_PIXELS:,} pixels")
    if width < 1 or height < 1:
        raise ImageError("the image has no pixels")
    return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after the EXIF orientation, without decoding."""
    width, height = image.size
    # Pillow gives a TIFF's size as it will be once decoded, upright.
    turned = image.format != "TIFF" and _orientation(image) in _TURNED
    return (height, width) if turned else (width, height)


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # a broken EXIF block must not cost the image
        return None


def decode(image: Image.Image, *, at_least: int | None = None) -> Image.Image:
    """Decode an opened image to upright 8-bit RGB. Raises ImageError.

    With `at_least`, a JPEG may be decoded at a reduced scale whose short side is not below it: faster, and
    for training only, since the pixels differ.
    """
    DECODES.add()
    try:
        if at_least is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
            image.draft(None, _draft_size(image.size, at_least))
        image.load()
        turned = _orientation(image) not in (None, 1)
        return _rgb(ImageOps.exif_transpose(image) if turned else image)
    except Exception as error:  # truncated or malformed data shows as many kinds of exception
        raise ImageError(f"cannot be decoded ({_short(error)})") from error


def open_image(source: Path | bytes) -> Image.Image:
    """An upright 8-bit RGB image from a file or bytes. Raises ImageError.

    Of very large images one at a time is decoded, so that several callers do not need gigabytes together.
    """
    with open_header(source) as image:
        width, height = image.size
        with _ONE_AT_A_TIME if width * height > _LARGE else nullcontext():
            return decode(image)


def _draft_size(size: tuple[int, int], at_least: int) -> tuple[int, int]:
    width, height = size
    scale = at_least / min(width, height)
    return max(1, int(width * scale) + 1), max(1, int(height * scale) + 1)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bit(np.asarray(image))).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _eight_bit(values: npt.NDArray[Any]) -> Pixels:
    """Sixteen-bit grey by its high byte; wider ranges by their own largest value; fractions times 255."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # whatever its byte order
        return (values >> 8).astype(np.uint8)
    numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(0)
    largest = float(numbers.max(initial=0.0))
    if values.dtype.kind == "f" and largest <= 1.0:
        return (numbers * 255.0 + 0.5).astype(np.uint8)
    if largest <= 255.0:
        return numbers.astype(np.uint8)
    top = 65535.0 if largest <= 65535.0 else largest
    return (numbers * (255.0 / top)).astype(np.uint8)


def short_side_size(width: int, height: int, short: int) -> tuple[int, int]:
    """Width and height when the short side becomes `short`; the long side is rounded down, as torchvision
    does."""
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def for_validation(image: Image.Image, resize: int, crop: int, *, whole: bool = False) -> Pixels:
    """Resize the short side, cut `crop` x `crop` from the middle (black where the image is smaller); with
    `whole` nothing is cut, and both sides become `crop`.

    The same steps as torchvision's Resize and CenterCrop on a PIL image. Returns (crop, crop, 3).
    """
    if whole:
        return np.asarray(image.resize((crop, crop), Image.Resampling.BILINEAR))
    size = short_side_size(*image.size, resize)
    if size[0] * size[1] > max(_RESIZED_PIXELS, 4 * resize**2):
        image = _middle(image, size, crop)
    elif size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    if height < crop or width < crop:
        up, left = max(0, crop - height) // 2, max(0, crop - width) // 2
        down, right = max(0, crop - height) - up, max(0, crop - width) - left
        pixels = np.pad(pixels, ((up, down), (left, right), (0, 0)))
        height, width = pixels.shape[:2]
    top, left = round((height - crop) / 2.0), round((width - crop) / 2.0)
    return pixels[top : top + crop, left : left + crop]


def _middle(image: Image.Image, size: tuple[int, int], crop: int) -> Image.Image:
    """What the middle `crop` x `crop` of the image, resized to `size`, comes from. A line of pixels would
    otherwise become a picture of gigabytes."""
    kept, box = [], []
    for whole, side in zip(size, image.size, strict=True):
        wanted = min(whole, crop)
        start = round((whole - wanted) / 2.0)
        kept.append(wanted)
        box.append((start * side / whole, (start + wanted) * side / whole))
    (left, right), (top, bottom) = box
    return image.resize((kept[0], kept[1]), Image.Resampling.BILINEAR, box=(left, top, right, bottom))


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
