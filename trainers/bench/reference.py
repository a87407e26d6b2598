"""The loop that torchvision's documentation shows for detectors: its own network, which resizes and
normalises inside; a Dataset that decodes a file and flips it; a DataLoader with batches of like shape; SGD
with a linear warm-up; the loss read at every step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_masks
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import retinanet_resnet50_fpn
from torchvision.transforms import v2

from amlocal.trainers.bench import scenes
from amlocal.trainers.bench.measuring import Window, window
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.layouts import Layout

_WARM = 1000
"""Steps of the warm-up."""
_SHAPES = 3
"""Groups of batches on either side of square."""
_STAGES = 5

Target = dict[str, Any]


def network(name: str, classes: int, sides: tuple[int, int]) -> nn.Module:
    """torchvision's own network of our `name`, with random weights, for images resized to `sides` (the
    shorter one, and at most the longer one, in pixels)."""
    resized = {"min_size": sides[0], "max_size": sides[1]}
    kind, body, _ = name.split("_")
    if kind == "retinanet":
        found: nn.Module = retinanet_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=classes, **resized
        )
        return found
    backbone = resnet_fpn_backbone(
        backbone_name=body, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=_STAGES
    )
    return {"fasterrcnn": FasterRCNN, "maskrcnn": MaskRCNN}[kind](backbone, classes + 1, **resized)


class Files(Dataset[tuple[Tensor, Target]]):
    """Opens and decodes one image file at each access, with its objects; labels begin with `first`."""

    def __init__(self, paths: Sequence[Path], *, first: int, masks: bool) -> None:
        self._paths = list(paths)
        self._first = first
        self._masks = masks
        self._transform = v2.Compose(
            [v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float, scale=True), v2.ToPureTensor()]
        )
        self.shapes = [_size(path) for path in self._paths]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        with Image.open(self._paths[index]) as opened:
            image = tv_tensors.Image(v2.functional.pil_to_tensor(opened.convert("RGB")))
        height, width = image.shape[-2:]
        things = scenes.things(index)
        shares = torch.tensor([one.box for one in things])
        boxes = shares * torch.tensor([width, height, width, height])
        target: Target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.tensor([one.label + self._first for one in things]),
            "image_id": index,
            "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            "iscrowd": torch.zeros(len(things), dtype=torch.int64),
        }
        if self._masks:
            target["masks"] = tv_tensors.Mask(_drawn(things, height, width))
        found: tuple[Tensor, Target] = self._transform(image, target)
        return found


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _drawn(things: Sequence[scenes.Thing], height: int, width: int) -> Tensor:
    masks = []
    for one in things:
        polygon = [value for x, y in one.corners for value in (x * width, y * height)]
        masks.append(coco_masks.decode(coco_masks.frPyObjects([polygon], height, width))[:, :, 0])
    return torch.from_numpy(np.stack(masks))


class Grouped(Sampler[list[int]]):
    """Full batches in a random order, their images of like shape; what fills none of these is put together as
    it comes."""

    def __init__(self, shapes: Sequence[tuple[int, int]], batch: int) -> None:
        self._groups = [round(_SHAPES * math.log2(width / height)) for width, height in shapes]
        self._batch = batch

    def __iter__(self) -> Iterator[list[int]]:
        waiting: dict[int, list[int]] = defaultdict(list)
        for index in torch.randperm(len(self._groups)).tolist():
            group = waiting[self._groups[index]]
            group.append(index)
            if len(group) == self._batch:
                yield list(group)
                group.clear()
        left = [index for group in waiting.values() for index in group]
        for start in range(0, len(left) - self._batch + 1, self._batch):
            yield left[start : start + self._batch]


def _columns(items: Sequence[tuple[Tensor, Target]]) -> tuple[Any, ...]:
    return tuple(zip(*items, strict=True))


class Reference:
    """The documented loop on some files."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        files: Files,
        *,
        batch: int,
        workers: int,
        device: torch.device,
        layout: Layout,
    ) -> None:
        self.name = name
        self.workers = workers
        self._device = device
        self._layout = layout
        self._model = model.to(memory_format=layout.memory_format).to(device)
        self._loader = DataLoader(
            files,
            batch_sampler=Grouped(files.shapes, batch),
            num_workers=workers,
            collate_fn=_columns,
        )

    def window(self, seconds: float) -> Window:
        weights = [weight for weight in self._model.parameters() if weight.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=1e-5, momentum=0.9, weight_decay=1e-4)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-3, total_iters=_WARM)
        scaler = self._layout.scaler(self._device)
        self._model.train()

        def step(batch: tuple[Sequence[Tensor], Sequence[Target]]) -> int:
            images = [image.to(self._device) for image in batch[0]]
            targets = [
                {key: v.to(self._device) if isinstance(v, Tensor) else v for key, v in target.items()}
                for target in batch[1]
            ]
            with self._layout.autocast(self._device):
                losses = self._model(images, targets)
                loss = torch.stack([*losses.values()]).sum()
            if not math.isfinite(loss.item()):
                raise TrainingError(f"the loss of torchvision's own loop is {loss.item()}")
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            warm.step()
            return len(images)

        source = self._endless()
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = False
        try:
            return window(source, step, seconds, self._device)
        finally:
            torch.backends.cudnn.benchmark = before
            # Ends the workers, which would else work on into the next one's time.
            source.close()

    def _endless(self) -> Any:
        def batches() -> Iterator[Any]:
            while True:
                yield from self._loader

        return batches()
