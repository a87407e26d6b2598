"""Pooling of objects from a feature pyramid (RoIAlign), with a faster way back on CPUs.

Source of what is computed: He et al., "Mask R-CNN", section 3, as torchvision.ops.roi_align does it without
`aligned`. torchvision's gradient on a CPU runs in one thread and weighs every sample again for each channel;
it took a third of the training step of Faster R-CNN with ResNet-18. Pooling is linear in the features, so
here its gradient is one product with a sparse matrix of those weights, in all threads, and always summed in
the same order.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign, roi_align

# Said once by every process that makes a sparse matrix; nobody who trains can do anything about it.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


class RoiPool(MultiScaleRoIAlign):
    """torchvision's pooling, with the same numbers; it has no weights of its own.

    `scales` and `map_levels` must be set before it is used.
    """

    @classmethod
    def like(cls, pool: MultiScaleRoIAlign) -> RoiPool:
        """One of the same levels, output size and samples per cell."""
        return cls(list(pool.featmap_names), list(pool.output_size), pool.sampling_ratio)

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Features (objects, channels, height, width) of the boxes (objects, 4 in pixels) of each image."""
        maps = [x[name] for name in self.featmap_names if name in x]
        learns = torch.is_grad_enabled() and any(one.requires_grad for one in maps)
        if not learns or maps[0].device.type != "cpu" or self.sampling_ratio <= 0:
            pooled: Tensor = super().forward(x, boxes, image_shapes)
            return pooled
        assert self.scales is not None and self.map_levels is not None
        rois = torch.cat([F.pad(box, (1, 0), value=float(image)) for image, box in enumerate(boxes)])
        levels = self.map_levels(boxes)
        height, width = self.output_size
        result = maps[0].new_zeros(len(rois), maps[0].shape[1], height, width)
        for level, (features, scale) in enumerate(zip(maps, self.scales, strict=True)):
            which = torch.where(levels == level)[0]
            if len(which):
                found = _Pool.apply(features, rois[which], (height, width), scale, self.sampling_ratio)
                result[which] = found.to(result.dtype)
        return result


class _Pool(torch.autograd.Function):
    """`roi_align` of one level. Boxes get no gradient, as in torchvision."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        ctx: Any, features: Tensor, rois: Tensor, size: tuple[int, int], scale: float, samples: int
    ) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.facts = tuple(features.shape), size, scale, samples
        pooled: Tensor = roi_align(features, rois, size, scale, samples)
        return pooled

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (rois,) = ctx.saved_tensors
        (images, channels, height, width), size, scale, samples = ctx.facts
        cells, weights = _weights(rois, (height, width), size, scale, samples)
        above = gradients[0].permute(0, 2, 3, 1).reshape(-1, channels)
        each = len(cells) // len(above)
        order = torch.argsort(cells, stable=True)
        starts = torch.zeros(images * height * width + 1, dtype=torch.long)
        starts[1:] = torch.bincount(cells, minlength=images * height * width).cumsum(0)
        matrix = torch.sparse_csr_tensor(
            starts,
            order // each,
            weights[order].to(above.dtype),
            size=(images * height * width, len(above)),
            check_invariants=False,
        )
        found = (matrix @ above).view(images, height, width, channels).permute(0, 3, 1, 2)
        return found, None, None, None, None


def _weights(
    rois: Tensor, shape: tuple[int, int], size: tuple[int, int], scale: float, samples: int
) -> tuple[Tensor, Tensor]:
    """Which cells of the (image, height, width) features each cell of the output reads, and with what weight;
    (4 * samples ** 2) for each, output by output."""
    height, width = shape
    left, top, right, bottom = (rois[:, 1:] * scale).unbind(1)
    rows, of_rows = _axis(top, (bottom - top).clamp(min=1), size[0], height, samples)
    columns, of_columns = _axis(left, (right - left).clamp(min=1), size[1], width, samples)
    first = rois[:, 0].long().view(-1, 1, 1, 1, 1) * height
    cells = (first + rows[:, :, None, :, None]) * width + columns[:, None, :, None, :]
    weights = of_rows[:, :, None, :, None] * of_columns[:, None, :, None, :]
    return cells.reshape(-1), weights.reshape(-1)


def _axis(start: Tensor, length: Tensor, bins: int, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Along one axis: (objects, bins, 2 * samples) positions and their weights. Samples lie evenly in a bin,
    and each is mixed of its two neighbours; beyond one cell outside nothing is there."""
    steps = (torch.arange(bins * samples, dtype=start.dtype) + 0.5) / samples
    at = start[:, None] + steps * (length / bins)[:, None]
    inside = (at >= -1) & (at <= size)
    at = at.clamp(min=0)
    low = at.long().clamp(max=size - 1)
    part = torch.where(low >= size - 1, torch.zeros_like(at), at - low)
    mixed = torch.stack((1 - part, part), -1) * inside[..., None] / samples
    neighbours = torch.stack((low, (low + 1).clamp(max=size - 1)), -1)
    shape = len(start), bins, 2 * samples
    return neighbours.reshape(shape), mixed.reshape(shape)
