"""Augmentation of training images, a whole batch at a time, and normalisation.

Azure's recipe: a random crop of 8 to 100 % of the area with aspect 3/4 to 4/3, resized to the crop size; a
mirror image with probability 1/2; with probability 1/2 brightness, contrast, saturation (each +-40 %) and hue
(+-0.4 of a turn). Every image draws its own numbers; the order of the four colour changes is drawn once per
batch. All randomness comes from the generator given, so a seed repeats it whatever the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from amlocal.trainers.data.images import Pixels

_AREA = (0.08, 1.0)
_ASPECT = (3.0 / 4.0, 4.0 / 3.0)
_JITTER = 0.4
_TRIES = 10


def crop_box(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height, width of a random crop; after ten misfits the largest middle one of allowed
    aspect."""
    draws = torch.rand(_TRIES, 4, generator=generator).tolist()
    low, high = math.log(_ASPECT[0]), math.log(_ASPECT[1])
    for area_draw, aspect_draw, top_draw, left_draw in draws:
        area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * area_draw)
        aspect = math.exp(low + (high - low) * aspect_draw)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w
    ratio = width / height
    w, h = width, height
    if ratio < _ASPECT[0]:
        h = round(width / _ASPECT[0])
    elif ratio > _ASPECT[1]:
        w = round(height * _ASPECT[1])
    return (height - h) // 2, (width - w) // 2, h, w


def random_resized_crops(images: Sequence[Pixels], size: int, generator: torch.Generator) -> Tensor:
    """One random crop of each image, (n, 3, size, size) uint8, bilinear with antialiasing."""
    out = torch.empty(len(images), size, size, 3, dtype=torch.uint8)
    for position, image in enumerate(images):
        top, left, height, width = crop_box(image.shape[0], image.shape[1], generator)
        # A copy: mapped pixels are read-only, which a tensor cannot be.
        cut = torch.from_numpy(np.array(image[top : top + height, left : left + width]))
        planes = cut.permute(2, 0, 1).unsqueeze(0)
        if (height, width) != (size, size):
            planes = F.interpolate(planes, size=(size, size), mode="bilinear", antialias=True)
        out[position] = planes[0].permute(1, 2, 0)
    return out.permute(0, 3, 1, 2)


def flip_and_jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror and colour changes of images in [0, 1], each image by its own draws."""
    n = len(images)
    draws = torch.rand(n, 6, generator=generator)
    order = torch.randperm(4, generator=generator).tolist()
    flip = (draws[:, 0] < 0.5).to(images.device).view(n, 1, 1, 1)
    images = torch.where(flip, images.flip(3), images)
    chosen = torch.nonzero(draws[:, 1] < 0.5).squeeze(1)
    if not len(chosen):
        return images
    factors = (draws[chosen, 2:5] * 2 - 1) * _JITTER + 1
    turns = (draws[chosen, 5] * 2 - 1) * _JITTER
    where = chosen.to(images.device)
    part = images[where]
    changes: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: brightness(x, factors[:, 0]),
        lambda x: contrast(x, factors[:, 1]),
        lambda x: saturation(x, factors[:, 2]),
        lambda x: hue(x, turns),
    )
    for index in order:
        part = changes[index](part)
    images = images.clone() if images._base is not None else images
    images[where] = part
    return images


def _each(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, like.dtype).view(-1, 1, 1, 1)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Images in [0, 1] times a factor each."""
    return (images * _each(factors, images)).clamp_(0, 1)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the mean grey of each image."""
    mean = _grey(images).mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean.expand_as(images), images, _each(factors, images)).clamp_(0, 1)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with each image's grey version."""
    return torch.lerp(_grey(images).expand_as(images), images, _each(factors, images)).clamp_(0, 1)


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue by a part of a full turn (-0.5 to 0.5) each, through HSV."""
    value, _ = images.max(1)
    chroma = value - images.min(1).values
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    red, green, blue = images.unbind(1)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    sector = torch.where(chroma == 0, torch.zeros_like(sector), sector)
    sector = sector + 6.0 * turns.to(images.device, images.dtype).view(-1, 1, 1)

    def channel(shift: float) -> Tensor:
        k = (sector + shift) % 6.0
        return value - chroma * torch.minimum(k, 4.0 - k).clamp(0, 1)

    return torch.stack((channel(5.0), channel(3.0), channel(1.0)), 1).clamp_(0, 1)


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
