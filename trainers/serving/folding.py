"""Batch normalisations folded into the convolutions before them."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(module: nn.Module, example: Any) -> int:
    """Fold, in place, every batch normalisation that takes what a convolution put out; returns how many.

    Which follows which is seen in a forward pass of `example`, not guessed from names. A convolution whose
    outputs go elsewhere too would be folded wrongly, so the answers must be compared afterwards.
    """
    pairs = _pairs(module, example)
    names = {part: name for name, part in module.named_modules()}
    for normalisation, convolution in pairs.items():
        _put(module, names[convolution], fuse_conv_bn_eval(convolution, normalisation))
        _put(module, names[normalisation], _rest(normalisation))
    return len(pairs)


def _pairs(module: nn.Module, example: Any) -> dict[Any, Any]:
    made: dict[int, nn.Module] = {}
    kept: list[Any] = []  # so that no number of an object is given out twice
    follows: Counter[tuple[Any, Any]] = Counter()
    runs: Counter[nn.Module] = Counter()

    def after(part: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        runs[part] += 1
        kept.append(output)
        if isinstance(part, nn.Conv2d):
            made[id(output)] = part
        elif given and id(given[0]) in made and _foldable(part):
            follows[part, made[id(given[0])]] += 1

    kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.BatchNorm2d, *_frozen())
    hooks = [part.register_forward_hook(after) for part in module.modules() if isinstance(part, kinds)]
    try:
        with torch.no_grad():
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
    # Each time the one ran, the other took what it put out, and nothing else did.
    takers = Counter(c for _, c in follows)
    return {bn: c for (bn, c), times in follows.items() if runs[bn] == runs[c] == times and takers[c] == 1}


def _foldable(part: nn.Module) -> bool:
    # timm's own kind also drops and activates; of other kinds it is not known what else they do.
    return _plain(part) or (hasattr(part, "drop") and hasattr(part, "act"))


def _plain(part: nn.Module) -> bool:
    return type(part) is nn.BatchNorm2d or isinstance(part, _frozen())


def _frozen() -> tuple[type[nn.Module], ...]:
    """torchvision's kind of normalisation that does not learn; a network that has it has it imported."""
    module = sys.modules.get("torchvision.ops.misc")
    return () if module is None else (module.FrozenBatchNorm2d,)


def _rest(normalisation: Any) -> nn.Module:
    if _plain(normalisation):
        return nn.Identity()
    return nn.Sequential(normalisation.drop, normalisation.act)


def _put(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, part)
