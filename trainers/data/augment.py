"""Augmentation of training images, a whole batch at a time, and normalisation.

Azure's recipe for classification: a random resized crop; a mirror image with probability 1/2; with
probability 1/2 brightness, contrast, saturation (each +-40 %) and hue (+-0.4 of a turn). Every image draws
its own numbers; the order of the four colour changes is drawn once per batch. All randomness comes from the
CPU generator given, so a seed repeats it whatever the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amlocal.trainers.data import colour
from amlocal.trainers.data.batches import to_device
from amlocal.trainers.data.crops import DeviceCrops, crop_box, crop_boxes, random_resized_crops, resized_crops
from amlocal.trainers.data.crops import sizes_of as _sizes_of
from amlocal.trainers.data.images import Pixels

__all__ = [
    "Augmentation",
    "DeviceCrops",
    "Normalise",
    "crop_box",
    "flip_and_jitter",
    "random_resized_crops",
]

_JITTER = 0.4
_NUMBERS_AT_ONCE = 2**18
"""On the CPU colours are changed for so many numbers at a time, 1 MiB, which stay in a core's own cache."""


@dataclass(frozen=True)
class Changes:
    """What was drawn for a batch: which images are mirrored; which are recoloured, by which numbers
    (brightness, contrast, saturation, hue), in which order of the four."""

    flips: Tensor
    chosen: Tensor
    numbers: Tensor
    order: list[int]

    @classmethod
    def draw(cls, n: int, generator: torch.Generator) -> Changes:
        """Changes of `n` images."""
        draws = torch.rand(n, 6, generator=generator)
        order = torch.randperm(4, generator=generator).tolist()
        chosen = torch.nonzero(draws[:, 1] < 0.5).squeeze(1)
        numbers = (draws[chosen, 2:6] * 2 - 1) * _JITTER
        numbers[:, :3] += 1
        return cls(draws[:, 0] < 0.5, chosen, numbers, order)


class Augmentation:
    """The whole recipe for batches that end up on one device, with as much of the work there as possible."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._size = size
        self._device = device
        self._crops = DeviceCrops(size, device) if device.type == "cuda" else None

    def __call__(self, images: Sequence[Pixels], generator: torch.Generator) -> Tensor:
        """Images of any sizes (height, width, 3) become (n, 3, size, size) floats in [0, 1] on the device."""
        boxes = crop_boxes(_sizes_of(images), generator)
        changes = Changes.draw(len(images), generator)
        if self._crops is None:
            crops = _mirror(resized_crops(images, boxes, self._size), changes.flips)
        else:
            crops = self._crops.resized(images, boxes, changes.flips)
        return _jitter(crops.float().div_(255), changes)


def flip_and_jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror and colour changes, each image by its own draws: uint8 or [0, 1] becomes floats in [0, 1].

    The images given may be changed.
    """
    changes = Changes.draw(len(images), generator)
    images = _mirror(images, changes.flips)
    return _jitter(images.float().div_(255) if images.dtype == torch.uint8 else images, changes)


def _mirror(images: Tensor, flips: Tensor) -> Tensor:
    where = to_device(torch.nonzero(flips).squeeze(1), images.device)
    if len(where):
        images[where] = images[where].flip(3)
    return images


def _jitter(images: Tensor, changes: Changes) -> Tensor:
    if not len(changes.chosen):
        return images
    where, numbers = (to_device(part, images.device) for part in (changes.chosen, changes.numbers))
    part = images[where].contiguous()
    step = len(part)
    if images.device.type == "cpu":
        step = max(1, _NUMBERS_AT_ONCE // part[0].numel())
    for start in range(0, len(part), step):
        some = part[start : start + step]
        for index in changes.order:
            _CHANGES[index](some, numbers[start : start + step, index])
    images[where] = part
    return images


_CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    colour.brightness,
    colour.contrast,
    colour.saturation,
    colour.hue,
)


class Normalise:
    """uint8 or [0, 1] images minus mean, by deviation, per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Float images, normalised."""
        if images.dtype == torch.uint8:
            images = images.float().div_(255)
        return (images - self._mean) / self._std
