"""Networks of MMDetection's model zoo, trained and asked by our own loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amlocal.compat import names
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import loading, mmdet_operators, mmdet_package
from amlocal.trainers.models.detector import Detections, Detector, Sizes
from amlocal.trainers.models.network import Network, Stages

_SCORE, _OVERLAP, _MOST = 0.3, 0.5, 100
_STRIDE = 32
_FINEST = 8
"""Pixels between the places of a transformer's finest level, at most."""
_TRAINED = "trained"
_BODY = ("network.backbone.", "network.neck.")


def build(row: names.Model, classes: int, weights: Path | None, options: Mapping[str, Any]) -> Network:
    """A network of the zoo for `classes`, by `row.architecture` (a config's path below the zoo's folder), and
    `weights` (safetensors, MMDetection's names) but what depends on the number of classes.

    Raises TrainingError where mmdet is not installed, cannot build the network without a compiled mmcv, or
    the file belongs to another network.
    """
    package = mmdet_package.load()
    trained = weights is not None or bool(options.get(_TRAINED))
    described = mmdet_package.description(row.architecture, classes, trained=trained)
    score = float(options.get("box_score_threshold", _SCORE))
    most = int(options.get("box_detections_per_image", _MOST))
    _limit(described.get("test_cfg"), score, float(options.get("nms_iou_threshold", _OVERLAP)), most)
    pixels = described.pop("data_preprocessor", None) or {}
    try:
        network = package.models.build(described)
        network.init_weights()
        for part in network.modules():
            # Its `predict` asks for a loss that it does not have.
            if type(part).__name__ == "SSDHead":
                part.loss_cls = None
            if hasattr(part, "rtm_reg"):
                _open(part)
    except Exception as error:
        # What a network of the zoo raises where something is missing is its own affair.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TrainingError(f"{row.name} ({row.architecture}) cannot be built: {reason}") from error
    inputs = _Inputs(pixels)
    module = MmdetDetector(network, inputs, score=score, most=most)
    if weights is not None:
        _load(module, weights, row.name)
    return Network(module, inputs.mean, inputs.std, _stages(network.backbone))


def _open(head: Any) -> None:
    """Let RTMDet's boxes begin two cells wide.

    Its losses weigh an object by how well the boxes that were found overlap it, and both ask for as much
    score. Begun without a width, as in the small networks, an object that no box overlaps is never learned.
    The large ones, whose distances are exponentials, begin like this.
    """
    if getattr(head, "exp_on_reg", False):
        return
    for layer in head.rtm_reg.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.ones_(layer.bias)


class _Inputs:
    """What a network's data_preprocessor says of its inputs, for RGB pixels / 255."""

    def __init__(self, described: Mapping[str, Any]) -> None:
        # Files are read as BGR there, so a network that does not turn them wants BGR.
        self.bgr = not described.get("bgr_to_rgb", False)
        mean = _three(described.get("mean") or (0.0, 0.0, 0.0), self.bgr)
        std = _three(described.get("std") or (1.0, 1.0, 1.0), self.bgr)
        self.beside = beside = float(described.get("pad_value") or 0)
        self.stride = int(described.get("pad_size_divisor") or 1)
        self.mean = (mean[0] / 255, mean[1] / 255, mean[2] / 255)
        self.std = (std[0] / 255, std[1] / 255, std[2] / 255)
        # It pads what is normalised already.
        self.fill = (beside * std[0] + mean[0], beside * std[1] + mean[1], beside * std[2] + mean[2])


def _three(values: Sequence[float], bgr: bool) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return (third, second, first) if bgr else (first, second, third)


class MmdetDetector(Detector):
    """A network of MMDetection. Its tensors have their names there, after "network."."""

    no_onnx = "MMDetection's networks are written by its own tool, MMDeploy, of which amlocal makes no use"

    def __init__(self, network: nn.Module, inputs: _Inputs, *, score: float, most: int) -> None:
        super().__init__()
        self.network: Any = network
        self.stride = max(_STRIDE, inputs.stride)
        self.fill = inputs.fill
        self.score_threshold = score
        self.most = most
        self._bgr = inputs.bgr
        self._beside = inputs.beside
        self._least = _least_side(network, self.stride)

    def losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Objects]) -> dict[str, Tensor]:
        """The network's own losses, those of several stages or layers of one name together."""
        images = self._ordered(images)
        samples = [self._sample(images, size, found) for size, found in zip(sizes, targets, strict=True)]
        with _explained(), self._learning():
            raw = self.network.loss(images, samples)
        sums: dict[str, Tensor] = {}
        for name, value in raw.items():
            # Beside losses there are numbers for the log, such as an accuracy.
            if "loss" in name:
                several = value if isinstance(value, list | tuple) else [value]
                short = name.rpartition(".")[2]
                mean = torch.stack([one.float().mean() for one in several]).sum()
                sums[short] = sums[short] + mean if short in sums else mean
        return sums

    def detect(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        images = self._ordered(images)
        samples = [self._sample(images, size, None) for size in sizes]
        with _explained():
            found = self.network.predict(images, samples, rescale=False)
        return [self._chosen(one.pred_instances, size) for one, size in zip(found, sizes, strict=True)]

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """Inside, what has a loss believes to be in training mode: some heads answer with less in evaluation
        mode, and then miss it. The layers below, which normalise or drop, stay as they are."""
        asleep = [
            part
            for part in self.network.modules()
            if not part.training and callable(getattr(part, "loss", None))
        ]
        for part in asleep:
            part.training = True
        try:
            yield
        finally:
            for part in asleep:
                part.training = False

    def _ordered(self, images: Tensor) -> Tensor:
        """With the channels that the network wants, padded at the right and the bottom to what it needs."""
        height, width = images.shape[2:]
        if min(height, width) < self._least:
            beside = (0, max(0, self._least - width), 0, max(0, self._least - height))
            images = functional.pad(images, beside, value=self._beside)
        return images.flip(1) if self._bgr else images

    def _sample(self, images: Tensor, size: tuple[int, int], truth: Objects | None) -> Any:
        package = mmdet_package.load()
        whole = (images.shape[2], images.shape[3])
        sample = package.sample(
            metainfo={
                "img_shape": tuple(size),
                "ori_shape": tuple(size),
                "pad_shape": whole,
                "batch_input_shape": whole,
                "scale_factor": (1.0, 1.0),
                "flip": False,
                # Corner networks take off what was padded at the left and the top: nothing.
                "border": (0, size[0], 0, size[1]),
            }
        )
        if truth is not None:
            sample.gt_instances = package.instances(bboxes=truth.boxes, labels=truth.labels)
            if truth.masks is not None:
                masks = torch.zeros(len(truth), *whole, dtype=torch.uint8)
                masks[:, : size[0], : size[1]] = truth.masks.cpu()
                sample.gt_instances.masks = package.bitmaps(masks.numpy(), *whole)
        return sample

    def _chosen(self, found: Any, size: tuple[int, int]) -> Detections:
        height, width = size
        scores, order = found.scores.float().sort(descending=True)
        boxes = found.bboxes.float()[order]
        edge = boxes.new_tensor([width, height, width, height])
        boxes = boxes.clamp(min=0).minimum(edge)
        masks = None
        if "masks" in found:
            masks = torch.as_tensor(found.masks, device=boxes.device)[order][:, :height, :width].float()
        answer = Detections(boxes, found.labels[order], scores, masks, whole=masks is not None)
        good = (scores > self.score_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        return answer.pick(good.nonzero().flatten()[: self.most])


def _least_side(network: Any, stride: int) -> int:
    """Of a transformer that begins with the best ones of all places: pixels on which there are as many as it
    wants. 0 for other networks."""
    if not getattr(network, "as_two_stage", False):
        return 0
    side = _FINEST * math.ceil(math.sqrt(network.num_queries))
    return -(-side // stride) * stride


class _explained:
    """An operator that is missing ends the trial with its name, not with a traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, mmdet_operators.MissingOperator):
            raise TrainingError(str(error)) from error


def _limit(test: Any, score: float, overlap: float, most: int) -> None:
    """Put the trial's thresholds where a network has some; proposals keep their own."""
    if isinstance(test, list | tuple):
        for one in test:
            _limit(one, score, overlap, most)
    if not isinstance(test, dict):
        return
    if "score_thr" in test:
        test["score_thr"] = score
    if isinstance(test.get("nms"), dict):
        if "iou_threshold" in test["nms"]:
            test["nms"]["iou_threshold"] = overlap
        if "max_per_img" in test:
            test["max_per_img"] = most
    for key, inner in test.items():
        if key not in ("rpn", "rpn_proposal", "nms"):
            _limit(inner, score, overlap, most)


def _stages(backbone: Any) -> Stages:
    """The stem, then the stages, from input to output."""
    layers = getattr(backbone, "stages", None)
    if isinstance(layers, nn.ModuleList):
        first = getattr(backbone, "patch_embed", None)
        return (*(((first,),) if first is not None else ()), *((layer,) for layer in layers))
    several = getattr(backbone, "res_layers", None)
    if several:
        later = [getattr(backbone, name) for name in several]
        stem = tuple(part for part in backbone.children() if not any(part is layer for layer in later))
        return (stem, *((layer,) for layer in later))
    return tuple((part,) for part in backbone.children())


def _load(module: MmdetDetector, path: Path, name: str) -> None:
    tensors = {f"network.{key}": tensor for key, tensor in loading.read(path).items()}
    own = module.state_dict()
    fitting = {key: t for key, t in tensors.items() if key in own and own[key].shape == t.shape}
    missing = [key for key in own if key not in fitting and "num_batches_tracked" not in key]
    # Only what answers may depend on the number of classes.
    wrong = [key for key in missing if key.startswith(_BODY) or key not in tensors]
    if wrong:
        raise TrainingError(
            f"{path} does not fit {name}: {len(wrong)} tensors are missing or have another shape, "
            f"e.g. {wrong[0].removeprefix('network.')}"
        )
    module.load_state_dict(fitting, strict=False)
