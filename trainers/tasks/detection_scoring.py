"""Scoring with a finished detector: boxes, and outlines where it segments."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import load_model
from torch import nn

from amlocal.compat import names
from amlocal.trainers.data import images, tiling
from amlocal.trainers.data.detection_batches import collate
from amlocal.trainers.data.geometry import OfRegion
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.models.blank import blank
from amlocal.trainers.models.detector import Detector
from amlocal.trainers.models.network import Network, rebuild
from amlocal.trainers.tasks import detection_settings, detection_training
from amlocal.trainers.tasks.detection_answers import answer
from amlocal.trainers.tasks.detection_data import SEGMENTATION
from amlocal.trainers.tasks.detection_views import Group, Inputs, Prepared, Seeing, Seen, View, difference
from amlocal.trainers.tasks.stepwise import Stepwise

WEIGHTS = "model.safetensors"
TRAINED = "trained"
"""Of the options of torchvision's builder: normalisation is the one that goes with trained weights."""


class Predictor(Stepwise):
    """A finished detector: images in, one {"boxes": [...]} per image out, best first.

    A box is {"box": {"topX", "topY", "bottomX", "bottomY"}, "label", "score"}, with "polygon" where the model
    segments, all in shares (0 to 1) of the image. The steps are those of validation, in fp32. `description`
    is the model's model.json. Raises ValueError for a settings.json that cannot be used.
    """

    explained: ClassVar[bool] = False
    """Whether answers of this task can be explained."""
    engines: ClassVar[tuple[str, ...]] = ("eager", "channels_last", "folded", "folded_channels_last")
    """Those that can run a network of images of any size."""
    _MOST = 16
    _PIXELS = 4 * 800 * 1333
    _PROBED_SCORE = 0.0

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.labels: list[str] = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        task, model = description["task"], description["model_name"]
        self.name = f"{task}, {model}"
        self._masks = task == SEGMENTATION
        trained = description.get("options") or {}
        self._settings = settings = detection_settings.read(folder / "settings.json", task, model, trained)
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            there = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        # Normalisation that was trained has counted batches; that of loaded weights stayed as it was.
        counted = any(key.endswith("num_batches_tracked") for key in there)
        options = {**settings.parameters, TRAINED: trained.get(TRAINED, not counted)}
        with blank():
            network = rebuild(task, model, len(self.labels), options, description.get("facts"))
        detector = network.module
        if not isinstance(detector, Detector):
            raise ValueError(f"{model} is no model of {task}")
        self._check(detector, there, folder, model)
        load_model(detector, folder / WEIGHTS, strict=True)
        self._network: Network = network
        self.module: nn.Module = Seeing(detector).eval()
        self._stride, self._fill = detector.stride, detector.fill
        self._geometry = detection_training.geometry(names.restored(task, model, None), settings.parameters)
        self._regions = settings.grid.regions() if settings.grid else []
        height, width = self._geometry.size(1333, 800)
        self.shape = (3, height, width)
        """Of one image of common proportions as the network takes it."""
        tiles = f", {settings.grid.columns} x {settings.grid.rows} tiles" if settings.grid else ""
        self.facts = f"{len(self.labels)} labels, images of about {width} x {height} pixels{tiles}"
        at_once = max(1, min(self._MOST, self._PIXELS // (height * width)))
        self._views_at_once = at_once
        self.limit = max(1, at_once // (1 + len(self._regions)))
        """Most images of one batch."""

    def _check(self, module: nn.Module, there: Mapping[str, Any], folder: Path, name: str) -> None:
        own = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        for key, shape in there.items():
            if own.get(key, shape) != shape:
                size = self._settings.parameters.get("model_size")
                with_size = f" of model_size {size}" if size else ""
                raise ValueError(
                    f"{folder / WEIGHTS} does not fit {name}{with_size} with {len(self.labels)} labels: "
                    f"{key} is {shape} in the file and {own[key]} in the network. A network cannot become "
                    f"another one in {folder / 'settings.json'}."
                )

    def prepare(self, row: bytes) -> Prepared:
        """What the network is to see of one encoded image. Raises ImageError, a ValueError."""
        opened = images.open_image(row)
        views = [View(self._geometry.pixels(opened))]
        for region in self._regions:
            views.append(View(OfRegion(self._geometry, region).pixels(opened), region))
        return Prepared(tuple(views))

    def inputs(self, prepared: Sequence[Prepared], device: torch.device) -> Inputs:
        """What `module` takes for prepared images, on `device`."""
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        views = [view.pixels for one in prepared for view in one.views]
        for position, pixels in enumerate(views):
            height, width = pixels.shape[:2]
            alike[-(-height // self._stride), -(-width // self._stride)].append(position)
        groups = []
        for same in alike.values():
            for start in range(0, len(same), self._views_at_once):
                which = same[start : start + self._views_at_once]
                groups.append(self._group(which, [views[position] for position in which], device))
        return Inputs(tuple(prepared), tuple(groups))

    def _group(self, which: Sequence[int], pixels: Sequence[Pixels], device: torch.device) -> Group:
        batch = collate(
            [(one, _NOTHING) for one in pixels],
            stride=self._stride,
            fill=self._fill,
            mean=self._network.mean,
            std=self._network.std,
            device=device,
            channels_last=False,
            masks=False,
        )
        return Group(tuple(which), batch.images, batch.sizes)

    def finish(self, outputs: Seen) -> list[dict[str, Any]]:
        """The answers for what the network put out."""
        found = []
        for prepared, detections in zip(outputs.prepared, outputs.detections, strict=True):
            height, width = prepared.views[0].pixels.shape[:2]
            seen = detections[0]
            if len(prepared.views) > 1:
                parts = [
                    tiling.Part(one, (view.pixels.shape[0], view.pixels.shape[1]), view.region)
                    for view, one in zip(prepared.views, detections, strict=True)
                ]
                seen = tiling.merged(parts, self._settings.tile_threshold)
            found.append(answer(seen, height, width, self.labels, self._settings, masks=self._masks))
        return found

    @contextmanager
    def probing(self) -> Iterator[None]:
        """While engines are compared: the network puts out what it is least sure of as well, since of random
        pictures it would say nothing else."""
        before = [
            (part, name, getattr(part, name))
            for part in self.module.modules()
            for name in ("score_thresh", "score_threshold")
            if isinstance(getattr(part, name, None), float | int)
        ]
        for part, name, _ in before:
            setattr(part, name, self._PROBED_SCORE)
        try:
            yield
        finally:
            for part, name, value in before:
                setattr(part, name, value)

    def comparable(self, outputs: Seen) -> bool:
        """Whether there is anything in them that other outputs of the same images can be compared with."""
        return any(len(one) for each in outputs.detections for one in each)

    def difference(self, outputs: Seen, reference: Seen) -> float:
        """How far the answers for two outputs of the same images are apart; see `detection_views`."""
        return difference(outputs, reference)


_NOTHING = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
