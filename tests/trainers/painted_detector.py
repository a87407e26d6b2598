"""A detector that sees what tests paint: rectangles and discs of pure colours on a dark ground."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor, nn

from amlocal.trainers.data.objects import Objects
from amlocal.trainers.models.detector import Detections, Detector, Sizes
from amlocal.trainers.models.network import Network

LABELS = ["blue", "green", "red"]
CHANNELS = {"red": 0, "green": 1, "blue": 2}
DETECTION, SEGMENTATION = "image-object-detection", "image-instance-segmentation"
SIDE = 28


class Painted(Detector):
    """Finds every patch of a pure colour. Its score is 0.9 of the share of its box that it fills: 0.9 for a
    rectangle, about 0.7 for a disc."""

    stride = 32

    def __init__(self, options: Mapping[str, Any], masks: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None])
            self.conv.bias.zero_()  # type: ignore[union-attr]
        self.score_thresh = float(options["box_score_threshold"])
        self.most = int(options["box_detections_per_image"])
        self.masks = masks
        self.seen: list[tuple[tuple[int, ...], list[tuple[int, int]]]] = []

    def losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Objects]) -> dict[str, Tensor]:
        return {"none": self.conv(images).sum() * 0}

    def detect(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        self.seen.append((tuple(images.shape), list(sizes)))
        looked = self.norm(self.conv(images))
        return [self._one(one.numpy(), size) for one, size in zip(looked.cpu(), sizes, strict=True)]

    def _one(self, pixels: Any, size: tuple[int, int]) -> Detections:
        rows: list[tuple[float, list[float], int, Tensor]] = []
        for label, name in enumerate(LABELS):
            own = pixels[CHANNELS[name]] > 0.6
            for other in set(CHANNELS.values()) - {CHANNELS[name]}:
                own &= pixels[other] < 0.4
            numbered, _ = ndimage.label(own[: size[0], : size[1]])
            for number, (down, across) in enumerate(ndimage.find_objects(numbered), 1):
                mine = numbered[down, across] == number
                box = [float(v) for v in (across.start, down.start, across.stop, down.stop)]
                inside = torch.from_numpy(mine).float()[None, None]
                mask = nn.functional.interpolate(inside, (SIDE, SIDE), mode="bilinear")[0, 0]
                rows.append((0.9 * float(mine.mean()), box, label, mask))
        good = [row for row in rows if row[0] > self.score_thresh]
        rows = sorted(good, key=lambda row: -row[0])[: self.most]
        return Detections(
            torch.tensor([row[1] for row in rows]).reshape(-1, 4),
            torch.tensor([row[2] for row in rows], dtype=torch.int64),
            torch.tensor([row[0] for row in rows]),
            torch.stack([row[3] for row in rows]) if self.masks and rows else self._none(),
        )

    def _none(self) -> Tensor | None:
        return torch.zeros(0, SIDE, SIDE) if self.masks else None


def build(row: Any, classes: int, weights: Path | None, options: Mapping[str, Any]) -> Network:
    """In the place of torchvision's builder."""
    assert classes == len(LABELS)
    module = Painted(options, masks=row.name.startswith("maskrcnn"))
    return Network(module, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), ())


def write_model(folder: Path, task: str = DETECTION, **settings: Any) -> dict[str, Any]:
    """A model's files in `folder`; returns its model.json."""
    name = "maskrcnn_resnet50_fpn" if task == SEGMENTATION else "fasterrcnn_resnet50_fpn"
    folder.mkdir(exist_ok=True)
    options = {"box_score_threshold": 0.3, "box_detections_per_image": 100}
    save_file(dict(Painted(options, masks=False).state_dict()), folder / "model.safetensors")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    (folder / "settings.json").write_text(json.dumps({"min_size": 96, "max_size": 128} | settings))
    description = {"schema": 1, "task": task, "model_name": name, "facts": None}
    (folder / "model.json").write_text(json.dumps(description))
    return description


def scene(
    width: int, height: int, *things: tuple[str, str, tuple[float, float, float, float]], kind: str = "PNG"
) -> bytes:
    """An encoded picture of ("rectangle" or "ellipse", colour, box in shares)."""
    image = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(image)
    for shape, colour, (left, top, right, bottom) in things:
        box = (left * width, top * height, right * width - 1, bottom * height - 1)
        fill = tuple(255 if CHANNELS[colour] == channel else 0 for channel in range(3))
        getattr(pen, shape)(box, fill=fill)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def as_mask(polygon: Sequence[Sequence[float]], width: int, height: int) -> Any:
    """(height, width) bool: the polygon of an answer, drawn."""
    image = Image.new("1", (width, height))
    for part in polygon:
        points = [(x * width, y * height) for x, y in zip(part[0::2], part[1::2], strict=True)]
        ImageDraw.Draw(image).polygon(points, fill=1)
    return np.asarray(image)
