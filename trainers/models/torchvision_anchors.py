"""Anchors that are made once for each size of a batch."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

_MOST = 32
"""A batch of 800 x 1333 pixels takes 4 MB."""


class KeptAnchors(AnchorGenerator):
    """torchvision's anchors, the last ones kept; always float32, whatever the features are: bfloat16 cannot
    tell 1000 from 1003 pixels."""

    def __init__(self, sizes: Any, aspect_ratios: Any) -> None:
        super().__init__(sizes, aspect_ratios)
        self._kept: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """One tensor (anchors, 4) for every image of the batch, the same one: it must not be written to."""
        device = feature_maps[0].device
        height, width = (int(side) for side in image_list.tensors.shape[-2:])
        grids = tuple((int(map_.shape[-2]), int(map_.shape[-1])) for map_ in feature_maps)
        key = (device, height, width, grids)
        found = self._kept.get(key)
        if found is None:
            # Made under inference mode it could not be used in training.
            with torch.inference_mode(False), torch.no_grad():
                found = self._make(device, height, width, grids)
            self._kept[key] = found
            if len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return [found] * len(image_list.image_sizes)

    def _make(
        self, device: torch.device, height: int, width: int, grids: tuple[tuple[int, int], ...]
    ) -> Tensor:
        self.set_cell_anchors(torch.float32, device)
        strides = [
            [torch.tensor(height // rows, device=device), torch.tensor(width // columns, device=device)]
            for rows, columns in grids
        ]
        return torch.cat(self.grid_anchors([list(grid) for grid in grids], strides))
