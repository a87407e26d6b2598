"""yolov5: ultralytics' YOLOv5u definitions, trained and asked by our own loop.

YOLOv5u has no anchors and no objectness: a score is the class's alone, where Azure's yolov5, of an older
generation, multiplies the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from amlocal.compat import names
from amlocal.trainers.data.affine import FILL
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import loading, yolo_package
from amlocal.trainers.models.detector import Detections, Detector, Sizes
from amlocal.trainers.models.network import Network

SCALES = {"small": "s", "medium": "m", "large": "l", "extra_large": "x", "xlarge": "x"}
"""model_size, and the letter by which the definitions know it."""
_SIZE = "medium"
_SCORE, _OVERLAP = 0.1, 0.5
_MOST = 300
_MOST_CANDIDATES = 30_000
_FREEZABLE = 10
"""layers_to_freeze counts along model.0 to model.9, the backbone."""
_GAINS = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
"""How the losses are weighed against each other; those that the published YOLOv5u weights were trained with.
Azure's belong to another loss."""


def build(row: names.Model, classes: int, weights: Path | None, options: Mapping[str, Any]) -> Network:
    """A yolov5 of `options["model_size"]` for `classes`, and `weights` (safetensors, ultralytics' names) but
    their last layer of classes.

    Raises TrainingError where the file is no safetensors file or belongs to another size, or ultralytics is
    not installed.
    """
    size = str(options.get("model_size") or _SIZE)
    if size not in SCALES:
        raise TrainingError(f"model_size is {size!r}; it must be one of {', '.join(SCALES)}")
    network = yolo_package.load().yolov5(SCALES[size], classes)
    module = YoloDetector(
        network,
        score=float(options.get("box_score_threshold", _SCORE)),
        overlap=float(options.get("nms_iou_threshold", _OVERLAP)),
    )
    if weights is not None:
        _load(module, weights, f"{row.name} with model_size {size} (yolov5{SCALES[size]}u)")
    stages = tuple((module.model[position],) for position in range(_FREEZABLE))
    return Network(module, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), stages)


class YoloDetector(Detector):
    """YOLOv5u. Its tensors have the names that they have in ultralytics' own DetectionModel."""

    stride = 32
    fill = (float(FILL),) * 3
    averaged = True
    """The running average of its weights is what is kept of a training (Azure's rule)."""

    def __init__(self, network: Any, *, score: float, overlap: float) -> None:
        super().__init__()
        self.model = network.model
        # Not registered: the layers belong to `model`, this knows only how they hang together.
        object.__setattr__(self, "_network", network)
        self.score_threshold = score
        self.nms_iou_threshold = overlap
        self.strides = tuple(int(stride) for stride in network.stride.tolist())
        network.args = _GAINS
        self._criterion: tuple[torch.device, Any] | None = None
        self.train(self.training)

    def train(self, mode: bool = True) -> YoloDetector:
        super().train(mode)
        # The head has no layer of its own that behaves otherwise; so it always answers with raw numbers.
        self.model[-1].training = True
        return self

    def losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Objects]) -> dict[str, Tensor]:
        """`box`, `cls` and `dfl`, as ultralytics logs them: means over the batch's objects.

        Their gradient is that many times larger as there are images, as in the trainers of yolov5, so that
        the usual learning rates mean what they mean there.
        """
        raw = self._raw(images)
        with torch.autocast(images.device.type, enabled=False):
            found = self._loss_of(images.device).loss(raw, _targets(targets, images))[0]
        mean = found.detach() / len(images)
        box, cls, dfl = (mean + found - found.detach()).unbind()
        return {"box": box, "cls": cls, "dfl": dfl}

    def detect(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        boxes, scores = self.decoded(images)
        best, labels = scores.max(2)
        each = zip(boxes, best, labels, sizes, strict=True)
        return [self._chosen(box, score, label, size) for box, score, label, size in each]

    def decoded(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Every candidate: boxes (n, a, 4) as left, top, right, bottom in pixels, not cut at the edges, and
        the score of each class (n, a, classes)."""
        raw = self._raw(images)
        points, steps = self._grid(raw["feats"])
        n, sides, a = raw["boxes"].shape
        shares = raw["boxes"].reshape(n, 4, sides // 4, a).softmax(2)
        reach = torch.arange(sides // 4, device=images.device, dtype=torch.float32).view(1, 1, -1, 1)
        distances = (shares * reach).sum(2).transpose(1, 2) * steps
        boxes = torch.cat((points - distances[..., :2], points + distances[..., 2:]), 2)
        return boxes, raw["scores"].sigmoid().transpose(1, 2)

    def _raw(self, images: Tensor) -> dict[str, Any]:
        """The head's numbers as float32, and one channel of each feature map, for their sizes."""
        raw = self._network(images)
        return {
            "boxes": raw["boxes"].float(),
            "scores": raw["scores"].float(),
            "feats": [level[:, :1].float() for level in raw["feats"]],
        }

    def _grid(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The middle of every cell (a, 2) and the cell's side (a, 1), in pixels."""
        points, steps = [], []
        for level, stride in zip(levels, self.strides, strict=True):
            height, width = level.shape[2:]
            x = (torch.arange(width, device=level.device, dtype=torch.float32) + 0.5) * stride
            y = (torch.arange(height, device=level.device, dtype=torch.float32) + 0.5) * stride
            points.append(torch.stack((x.repeat(height), y.repeat_interleave(width)), 1))
            steps.append(torch.full((height * width, 1), float(stride), device=level.device))
        return torch.cat(points), torch.cat(steps)

    def _chosen(self, boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int]) -> Detections:
        height, width = size
        edge = torch.tensor([width, height, width, height], device=boxes.device, dtype=boxes.dtype)
        boxes = boxes.clamp(min=0).minimum(edge)
        good = (scores > self.score_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, scores, labels = boxes[good], scores[good], labels[good]
        if len(scores) > _MOST_CANDIDATES:
            most = scores.topk(_MOST_CANDIDATES).indices
            boxes, scores, labels = boxes[most], scores[most], labels[most]
        kept = batched_nms(boxes, scores, labels, self.nms_iou_threshold)[:_MOST]
        return Detections(boxes[kept], labels[kept], scores[kept])

    def _loss_of(self, device: torch.device) -> Any:
        if self._criterion is None or self._criterion[0] != device:
            self._criterion = (device, yolo_package.load().loss(self._network))
        return self._criterion[1]


def _targets(targets: Sequence[Objects], images: Tensor) -> dict[str, Tensor]:
    """The objects of a batch as ultralytics' loss wants them: middle, width and height as shares of the
    batch's width and height."""
    height, width = images.shape[2:]
    counts = torch.tensor([len(found) for found in targets], device=images.device)
    boxes = torch.cat([found.boxes for found in targets])
    shape = torch.tensor([width, height, width, height], device=images.device, dtype=torch.float32)
    shares = torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1) / shape
    return {
        "batch_idx": torch.arange(len(targets), device=images.device).repeat_interleave(counts).float(),
        "cls": torch.cat([found.labels for found in targets]).float(),
        "bboxes": shares,
    }


def _load(module: YoloDetector, path: Path, what: str) -> None:
    tensors = loading.read(path)
    head = module.model[-1]
    # The last layer of classes is always new: the file's are not the trial's, even where their number agrees.
    new = tuple(
        f"model.{len(module.model) - 1}.cv3.{level}.{len(branch) - 1}."
        for level, branch in enumerate(head.cv3)
    )
    own = module.state_dict()
    usable = {name: tensor for name, tensor in tensors.items() if not name.startswith(new)}
    missing = [n for n in own if n not in usable and not n.startswith(new) and "num_batches_tracked" not in n]
    alien = [n for n in usable if n not in own or own[n].shape != usable[n].shape]
    if missing or alien:
        raise TrainingError(
            f"{path} does not fit {what}: {len(missing)} tensors are missing and {len(alien)} do not belong "
            f"or have another shape, e.g. {(missing + alien)[0]}"
        )
    module.load_state_dict(usable, strict=False)
