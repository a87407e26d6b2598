"""Scoring with a finished image classifier, multi-class or multi-label."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_model
from torch import Tensor, nn

from amlocal.compat.model_rows import is_huggingface
from amlocal.trainers.data import augment, images
from amlocal.trainers.models.blank import blank
from amlocal.trainers.models.network import rebuild
from amlocal.trainers.spec import MULTILABEL
from amlocal.trainers.tasks.stepwise import Stepwise
from amlocal.trainers.tasks.targets import targets

WEIGHTS = "model.safetensors"


class Predictor(Stepwise):
    """A finished classifier: images in, one {"probs", "labels"} per image out, classes in label order.

    The steps are those of validation, in fp32. For multi-class the probabilities of an image sum to 1; for
    multi-label each stands for itself. `description` is the model's model.json: task, model_name and, for a
    network that is not in our table, the `facts` to build it from. Raises ValueError for a settings.json that
    cannot be used.
    """

    explained: ClassVar[bool] = True
    """Whether answers of this task can be explained."""
    engines: ClassVar[tuple[str, ...] | None] = None
    """Those that can run the network; None: whichever there are."""
    _BATCH = 80
    _BATCH_PIXELS = 80 * 512 * 512
    _LARGEST = 8192
    _OLD_NAMES: Mapping[str, str] = {"resize_size": "valid_resize_size", "crop_size": "valid_crop_size"}
    _DEFAULTS: Mapping[str, int] = {"valid_resize_size": 256, "valid_crop_size": 224, "train_crop_size": 224}

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.labels: list[str] = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        self.name = f"{description['task']}, {description['model_name']}"
        sizes = self._sizes(folder / "settings.json")
        self._resize, self._crop = sizes["valid_resize_size"], sizes["valid_crop_size"]
        self.shape = (3, self._crop, self._crop)
        """Of one image as the network takes it."""
        self.facts = f"{len(self.labels)} labels, {self._crop} x {self._crop} pixels"
        # Fewer at a time where the crops are large, so that memory stays in bounds.
        self.limit = max(1, min(self._BATCH, self._BATCH_PIXELS // self._crop**2))
        """Most images of one batch."""
        self._targets = targets(description["task"] == MULTILABEL)
        self._whole = is_huggingface(description["model_name"])
        with blank():
            network = rebuild(
                description["task"],
                description["model_name"],
                len(self.labels),
                self._crop,
                description.get("facts"),
            )
        self._check(network.module, folder, description["model_name"])
        load_model(network.module, folder / WEIGHTS, strict=True)
        self.module: nn.Module = network.module.eval()
        self._statistics = (network.mean, network.std)
        self._normalise = {"cpu": augment.Normalise(*self._statistics, torch.device("cpu"))}

    def _sizes(self, path: Path) -> dict[str, int]:
        """The documented keys; of an old and a new name in one file the new one counts. Others are ignored,
        as Azure does."""
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} cannot be read as JSON: {error}") from error
        if not isinstance(settings, dict):
            raise ValueError(f"{path} must hold a JSON object")
        sizes = dict(self._DEFAULTS)
        for key in (*self._OLD_NAMES, *self._DEFAULTS):
            if key not in settings:
                continue
            value = settings[key]
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= self._LARGEST:
                raise ValueError(
                    f"{path}: {key} is {value!r}; it must be a whole number from 1 to {self._LARGEST}"
                )
            sizes[self._OLD_NAMES.get(key, key)] = value
        return sizes

    def _check(self, module: nn.Module, folder: Path, name: str) -> None:
        """A network that is built for one image size has other tensors for another."""
        own = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (no mapping)
                there = tuple(file.get_slice(key).get_shape())
                if own.get(key, there) != there:
                    raise ValueError(
                        f"{folder / WEIGHTS} does not fit {name} with {len(self.labels)} labels at "
                        f"valid_crop_size {self._crop}: {key} is {there} in the file and {own[key]} in the "
                        "network. A network of one image size takes only the valid_crop_size that it was "
                        f"trained with; set that in {folder / 'settings.json'}."
                    )

    def prepare(self, row: bytes) -> images.Pixels:
        """The pixels (height, width, 3) of one encoded image. Raises ImageError, a ValueError."""
        opened = images.open_image(row)
        return images.for_validation(opened, self._resize, self._crop, whole=self._whole)

    def inputs(self, prepared: Sequence[images.Pixels], device: torch.device) -> Tensor:
        """What the network takes for prepared images: (images, 3, height, width), float, on `device`."""
        if device.type not in self._normalise:
            self._normalise[device.type] = augment.Normalise(*self._statistics, device)
        pixels = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2)
        return self._normalise[device.type](pixels.to(device))

    def finish(self, outputs: Tensor) -> list[dict[str, Any]]:
        """The answers for what the network put out."""
        rows = self._probabilities(outputs).tolist()
        return [{"probs": row, "labels": list(self.labels)} for row in rows]

    def probing(self) -> AbstractContextManager[None]:
        """While engines are compared."""
        return nullcontext()

    def difference(self, outputs: Tensor, reference: Tensor) -> float:
        """How far the answers for two outputs of the same images are apart: the largest difference of a
        probability, infinite where one is no number."""
        apart = (self._probabilities(outputs) - self._probabilities(reference)).abs()
        return float("inf") if apart.isnan().any() else apart.max().item()

    def _probabilities(self, outputs: Tensor) -> Tensor:
        return self._targets.probabilities(outputs.cpu().double())
