"""mmcv's operators by way of torchvision and PyTorch, so that MMDetection needs no compiler.

The package mmcv-lite is mmcv without its compiled part, `mmcv._ext`. Here that part is stood in for, and the
operators that MMDetection's detectors use are replaced by torchvision's, or by a few lines of PyTorch with
the same result. An operator that is not replaced says so where it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

_PART = "mmcv._ext"


class MissingOperator(NotImplementedError):
    """The network needs an operator that only a compiled mmcv has."""


def install() -> None:
    """Give mmcv its operators; before mmdet is imported. Where mmcv was compiled nothing is changed."""
    if _PART in sys.modules or find_spec(_PART) is not None:
        return
    stand_in = _Extension(_PART)
    stand_in.__spec__ = ModuleSpec(_PART, None)
    sys.modules[_PART] = stand_in
    package = import_module("mmcv.ops")
    for module, operator in _REPLACED.items():
        name = operator.__name__
        setattr(import_module(f"mmcv.ops.{module}"), name, operator)
        setattr(package, name, operator)
    attention: Any = import_module("mmcv.ops.multi_scale_deform_attn")
    plain = attention.multi_scale_deformable_attn_pytorch

    def attend(
        value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor, step: int
    ) -> Any:
        return plain(value, shapes, places, weights)

    attention.MultiScaleDeformableAttnFunction.apply = attend


class _Extension(ModuleType):
    """Has every function: those below, and others that say that they are missing."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _OWN:
            return _OWN[name]

        def missing(*args: object, **kwargs: object) -> None:
            raise MissingOperator(f"the operator {name} needs a compiled mmcv")

        return missing


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Positions of the boxes that stay, best first. With `offset` 1 a side is one longer than its difference,
    which is as if right and bottom lay one further."""
    if offset:
        bboxes = bboxes + bboxes.new_tensor([0, 0, offset, offset])
    return torchvision.ops.nms(bboxes.float(), scores.float(), iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Positions, best first; `dets` gets box and lowered score of each. Method 0 removes what overlaps, 1
    lowers its score in proportion to the overlap, 2 by a Gaussian."""
    grown = boxes + boxes.new_tensor([0, 0, offset, offset])
    left, lowered, order = torch.arange(len(boxes)), scores.clone(), []
    while len(left):
        best = int(lowered[left].argmax())
        chosen = int(left[best])
        dets[len(order), :4], dets[len(order), 4] = boxes[chosen], lowered[chosen]
        order.append(chosen)
        left = torch.cat((left[:best], left[best + 1 :]))
        overlap = torchvision.ops.box_iou(grown[chosen : chosen + 1], grown[left])[0]
        if method == 2:
            lowered[left] *= torch.exp(-(overlap**2) / sigma)
        else:
            kept = torch.zeros_like(overlap) if method == 0 else 1 - overlap
            lowered[left] *= torch.where(overlap >= iou_threshold, kept, torch.ones_like(overlap))
        left = left[lowered[left] >= min_score]
    return torch.tensor(order, dtype=torch.int64)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes that overlap the best one of them, which stands first."""
    left = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(left):
        overlap = torchvision.ops.box_iou(dets[left[:1], :4], dets[left, :4])[0]
        near = overlap >= iou_threshold
        near[0] = True
        groups.append(left[near].tolist())
        left = left[~near]
    return groups


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: Any,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    pool_mode: str = "avg",
    aligned: bool = True,
) -> Tensor:
    """mmcv's `roi_align`. Samples are averaged; taking the largest needs a compiled mmcv."""
    if pool_mode != "avg":
        raise MissingOperator("roi_align with pool_mode max needs a compiled mmcv")
    found: Tensor = torchvision.ops.roi_align(
        input, rois.type_as(input), output_size, spatial_scale, sampling_ratio or -1, aligned
    )
    return found


def roi_pool(input: Tensor, rois: Tensor, output_size: Any, spatial_scale: float = 1.0) -> Tensor:
    """mmcv's `roi_pool`."""
    found: Tensor = torchvision.ops.roi_pool(input, rois.type_as(input), output_size, spatial_scale)
    return found


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: bool = False,
    im2col_step: int = 32,
) -> Tensor:
    """mmcv's `deform_conv2d`; torchvision reads both numbers of groups off the shapes."""
    found: Tensor = torchvision.ops.deform_conv2d(
        input.type_as(offset), offset, weight.type_as(offset), None, stride, padding, dilation
    )
    return found


def modulated_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """mmcv's `modulated_deform_conv2d`."""
    found: Tensor = torchvision.ops.deform_conv2d(
        input.type_as(offset),
        offset,
        weight.type_as(offset),
        None if bias is None else bias.type_as(offset),
        stride,
        padding,
        dilation,
        mask.type_as(offset),
    )
    return found


def masked_conv2d(
    features: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """A convolution whose result is kept where the mask (n, height, width) is above 0, and is 0 elsewhere."""
    return F.conv2d(features, weight, bias, stride, padding) * (mask > 0)[:, None]


def carafe(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """Enlarged features: each result is a sum over the neighbours of the place it comes from, weighed by
    `masks` (n, groups x kernel^2, height, width of the result)."""
    n, channels, height, width = features.shape
    around = F.unfold(features, kernel_size, padding=kernel_size // 2)
    around = around.view(n, channels * kernel_size**2, height, width)
    around = F.interpolate(around, scale_factor=scale_factor, mode="nearest")
    size = around.shape[2:]
    around = around.view(n, group_size, channels // group_size, kernel_size**2, *size)
    return (around * masks.view(n, group_size, 1, kernel_size**2, *size)).sum(3).view(n, channels, *size)


def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """mmcv's focal loss: `input` (n, classes), `target` (n,) class numbers, `classes` being background."""
    classes = input.shape[1]
    wanted = F.one_hot(target.clamp(max=classes), classes + 1)[:, :classes].type_as(input)
    loss = torchvision.ops.sigmoid_focal_loss(input, wanted, alpha, gamma, reduction="none")
    if weight is not None:
        loss = loss * weight
    if reduction == "mean":
        # mmcv divides by the number of rows.
        return loss.sum() / max(1, len(input))
    return loss.sum() if reduction == "sum" else loss


_OWN: dict[str, Callable[..., Any]] = {"nms": nms, "softnms": softnms, "nms_match": nms_match}
_REPLACED: dict[str, Callable[..., Any]] = {
    "roi_align": roi_align,
    "roi_pool": roi_pool,
    "deform_conv": deform_conv2d,
    "modulated_deform_conv": modulated_deform_conv2d,
    "masked_conv": masked_conv2d,
    "carafe": carafe,
    "focal_loss": sigmoid_focal_loss,
}
"""Modules of mmcv.ops, and what stands in them."""
