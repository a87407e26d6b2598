"""torchvision's detectors as the loop uses them: batches come resized, normalised and padded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.poolers import LevelMapper

from amlocal.trainers.data.objects import Objects
from amlocal.trainers.models.detector import Detections, Detector, Sizes
from amlocal.trainers.models.roi_pool import RoiPool

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_LEVELS = (2, 5)
"""The pyramid's levels that objects are pooled from: 2**2 to 2**5 pixels a cell."""
_MASK_SPREAD = 0.001

Seen = tuple[ImageList, dict[str, Tensor]]
"""A batch and its features by level."""


class TorchvisionDetector(Detector):
    """What torchvision's detectors have in common; names of tensors are torchvision's own.

    `heads`: how the names of those tensors begin whose shape follows from the number of labels. `has_masks`:
    targets must have masks, and detections have them.
    """

    # torchvision pads with zeros after it has normalised.
    fill = (255 * MEAN[0], 255 * MEAN[1], 255 * MEAN[2])
    heads: tuple[str, ...] = ()
    has_masks = False
    backbone: Any

    def losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Objects]) -> dict[str, Tensor]:
        return self._losses(self._see(images, sizes), targets)

    def detect(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        return self._detect(self._see(images, sizes))

    def examine(
        self, images: Tensor, sizes: Sizes, targets: Sequence[Objects]
    ) -> tuple[dict[str, Tensor], list[Detections]]:
        """`losses` and `detect` with one pass through the backbone."""
        seen = self._see(images, sizes)
        return self._losses(seen, targets), self._detect(seen)

    def _see(self, images: Tensor, sizes: Sizes) -> Seen:
        return ImageList(images, list(sizes)), self.backbone(images)

    @abstractmethod
    def _losses(self, seen: Seen, targets: Sequence[Objects]) -> dict[str, Tensor]: ...

    @abstractmethod
    def _detect(self, seen: Seen) -> list[Detections]: ...


class Rcnn(TorchvisionDetector):
    """Faster R-CNN, and Mask R-CNN where the heads have a branch for masks.

    Label 0 is the background in there, so labels move by one on their way in and out.
    """

    heads = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")

    def __init__(self, network: FasterRCNN) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = network.backbone, network.rpn, network.roi_heads
        self.has_masks = bool(self.roi_heads.has_mask())
        for name in ("box_roi_pool", "mask_roi_pool"):
            if (given := getattr(self.roi_heads, name)) is not None:
                pool = RoiPool.like(given)
                setattr(self.roi_heads, name, pool)
                # torchvision infers both from its first batch, wrongly when that is small and much padded.
                pool.scales = [2.0**-level for level in range(_LEVELS[0], _LEVELS[1] + 1)]
                pool.map_levels = LevelMapper(*_LEVELS)
        if self.has_masks:
            # As Mask R-CNN's authors begin. torchvision's wide start is made for trained features: on random
            # ones the loss of the masks began at ten times a coin's, and training exploded.
            logits = self.roi_heads.mask_predictor.mask_fcn_logits
            nn.init.normal_(logits.weight, std=_MASK_SPREAD)
        for part in (self.rpn.head, self.roi_heads.box_predictor, self.roi_heads.mask_predictor):
            if part is not None:
                part.register_forward_hook(_in_float32)

    def _losses(self, seen: Seen, targets: Sequence[Objects]) -> dict[str, Tensor]:
        images, features = seen
        wanted = [_target(objects, first_label=1, masks=self.has_masks) for objects in targets]
        with _as_if(True, self.rpn, self.roi_heads):
            proposals, of_proposals = self.rpn(images, features, wanted)
            _, of_objects = self.roi_heads(features, proposals, images.image_sizes, wanted)
        return {**of_objects, **of_proposals}

    def _detect(self, seen: Seen) -> list[Detections]:
        images, features = seen
        with _as_if(False, self.rpn, self.roi_heads):
            proposals, _ = self.rpn(images, features)
            found, _ = self.roi_heads(features, proposals, images.image_sizes)
        return [
            Detections(
                one["boxes"],
                one["labels"] - 1,
                one["scores"],
                one["masks"].squeeze(1) if self.has_masks else None,
            )
            for one in found
        ]


class Retina(TorchvisionDetector, RetinaNet):
    """RetinaNet. Every label has a score of its own, so there is no background."""

    heads = ("head.classification_head.cls_logits.",)

    def _losses(self, seen: Seen, targets: Sequence[Objects]) -> dict[str, Tensor]:
        _, outputs, anchors = self._outputs(seen)
        wanted = [_target(objects, first_label=0, masks=False) for objects in targets]
        found: dict[str, Tensor] = self.compute_loss(wanted, outputs, anchors)
        return found

    def _detect(self, seen: Seen) -> list[Detections]:
        cells, outputs, anchors = self._outputs(seen)
        each = self.anchor_generator.num_anchors_per_location()
        lengths = [number * anchor for number, anchor in zip(cells, each, strict=True)]
        found = self.postprocess_detections(
            {name: list(output.split(lengths, dim=1)) for name, output in outputs.items()},
            [list(one.split(lengths)) for one in anchors],
            seen[0].image_sizes,
        )
        return [Detections(one["boxes"], one["labels"], one["scores"]) for one in found]

    def _outputs(self, seen: Seen) -> tuple[list[int], dict[str, Tensor], list[Tensor]]:
        """Cells of each level, what the head says, and the anchors of each image."""
        images, features = seen
        maps = list(features.values())
        outputs = {name: output.float() for name, output in self.head(maps).items()}
        cells = [int(one.shape[-2]) * int(one.shape[-1]) for one in maps]
        return cells, outputs, self.anchor_generator(images, maps)


def _target(objects: Objects, *, first_label: int, masks: bool) -> dict[str, Tensor]:
    target = {"boxes": objects.boxes, "labels": objects.labels + first_label}
    if masks:
        if objects.masks is None:
            raise ValueError("Mask R-CNN learns from masks, and these objects have none")
        target["masks"] = objects.masks
    return target


def _in_float32(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """Under autocast boxes would be computed in bfloat16, which cannot tell 1000 from 1003 pixels."""
    if isinstance(output, Tensor):
        return output.float()
    return type(output)(_in_float32(module, args, part) for part in output)


@contextmanager
def _as_if(training: bool, *parts: nn.Module) -> Iterator[None]:
    """Let `parts` themselves, not what they are made of, take the way of training or of evaluation."""
    before = [part.training for part in parts]
    for part in parts:
        part.training = training
    try:
        yield
    finally:
        for part, was in zip(parts, before, strict=True):
            part.training = was
