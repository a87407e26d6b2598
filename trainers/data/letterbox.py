"""An image in the middle of a grey square, its longest side that of the square."""

from __future__ import annotations

from amlocal.trainers.data.affine import Part, View, painted, seen
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.objects import Objects

STRIDE = 32


def network_side(image_size: int) -> int:
    """`image_size` rounded up to a multiple of 32, what yolov5 can be fed."""
    return max(1, -(-image_size // STRIDE)) * STRIDE


def placed(pixels: Pixels, objects: Objects, size: int) -> Part:
    """Where an image lies in a square with sides of `size`, from whole pixels on."""
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    left, top = (size - round(width * scale)) // 2, (size - round(height * scale)) // 2
    return Part(pixels, objects, left, top, scale)


def letterbox(pixels: Pixels, objects: Objects, size: int) -> tuple[Pixels, Objects, Part]:
    """The square (size, size, 3), the objects in it, and the part that tells how to get back: a box in pixels
    of the image is (box - (left, top)) / scale."""
    part, view = placed(pixels, objects, size), View(size, 1.0, size)
    return painted([part], view), seen([part], view), part
