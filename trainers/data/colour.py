"""Brightness, contrast, saturation and hue of a batch, each image by its own number.

Images are floats in [0, 1], (n, 3, height, width), and are changed in place, with few passes over memory. The
results are those of torchvision's functions for one image and one number.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GREY = (0.2989, 0.587, 0.114)


def _each(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, like.dtype).view(-1, 1, 1, 1)


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Images times a factor each."""
    return images.mul_(_each(factors, images)).clamp_(0, 1)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the mean grey of each image."""
    factor = _each(factors, images)
    mean = images.mean((2, 3), keepdim=True)
    grey = _GREY[0] * mean[:, 0:1] + _GREY[1] * mean[:, 1:2] + _GREY[2] * mean[:, 2:3]
    return images.mul_(factor).add_(grey * (1 - factor)).clamp_(0, 1)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with each image's grey version."""
    factor = _each(factors, images)
    grey = images[:, 0:1] * _GREY[0]
    grey.add_(images[:, 1:2], alpha=_GREY[1]).add_(images[:, 2:3], alpha=_GREY[2])
    return images.mul_(factor).add_(grey.mul_(1 - factor)).clamp_(0, 1)


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue by a part of a full turn (-0.5 to 0.5) each.

    On the colour circle, six units round, red stands at 0, green at 2, blue at 4. A channel is largest within
    one unit of its own place and smallest from two units on, in between it goes straight from one to the
    other.
    """
    red, green, blue = images.split(1, 1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    # Each place is scaled by chroma until the one division; without chroma it is 0 and does not matter.
    place = torch.where(
        high == red,
        green - blue,
        torch.where(high == green, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)),
    )
    place.div_(chroma.clamp_min(1e-12)).add_(6 * _each(turns, images))
    place.sub_((place * (1 / 6)).round_(), alpha=6)
    # Three minus the distance round the circle from red, green and blue; it matters between 1 (two units away
    # or more) and 2 (one unit or less).
    near = torch.cat((place, place - 2, place + 2), 1).abs_().sub_(3).abs_().clamp_(1, 2)
    return torch.addcmul(low - chroma, chroma, near, out=images)
