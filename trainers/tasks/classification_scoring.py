"""Scoring with a finished image classifier, multi-class or multi-label."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_model
from torch import nn

from amlocal.compat.model_rows import is_huggingface
from amlocal.trainers.data import augment, images
from amlocal.trainers.models.network import rebuild
from amlocal.trainers.spec import MULTILABEL
from amlocal.trainers.tasks.targets import targets

WEIGHTS = "model.safetensors"


class Predictor:
    """A finished classifier: images in, one {"probs", "labels"} per image out, classes in label order.

    The steps are those of validation, in fp32. For multi-class the probabilities of an image sum to 1; for
    multi-label each stands for itself. `description` is the model's model.json: task, model_name and, for a
    network that is not in our table, the `facts` to build it from. Raises ValueError for a settings.json that
    cannot be used.
    """

    _BATCH = 80
    _BATCH_PIXELS = 80 * 512 * 512
    _LARGEST = 8192
    _OLD_NAMES: Mapping[str, str] = {"resize_size": "valid_resize_size", "crop_size": "valid_crop_size"}

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self._labels: list[str] = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        self._resize, self._crop = self._sizes(folder / "settings.json")
        # Fewer at a time where the crops are large, so that memory stays in bounds.
        self._batch = max(1, min(self._BATCH, self._BATCH_PIXELS // self._crop**2))
        self._targets = targets(description["task"] == MULTILABEL)
        self._whole = is_huggingface(description["model_name"])
        network = rebuild(
            description["task"],
            description["model_name"],
            len(self._labels),
            self._crop,
            description.get("facts"),
        )
        self._check(network.module, folder, description["model_name"])
        load_model(network.module, folder / WEIGHTS, strict=True)
        self._model: nn.Module = network.module.eval()
        self._normalise = augment.Normalise(network.mean, network.std, torch.device("cpu"))

    def _sizes(self, path: Path) -> tuple[int, int]:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(f"{path} must hold a JSON object")
        settings = {self._OLD_NAMES.get(key, key): value for key, value in settings.items()}
        found = []
        for key, default in (("valid_resize_size", 256), ("valid_crop_size", 224)):
            value = settings.get(key, default)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= self._LARGEST:
                raise ValueError(
                    f"{path}: {key} is {value!r}; it must be a whole number from 1 to {self._LARGEST}"
                )
            found.append(value)
        return found[0], found[1]

    def _check(self, module: nn.Module, folder: Path, name: str) -> None:
        """A network that is built for one image size has other tensors for another."""
        own = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (no mapping)
                there = tuple(file.get_slice(key).get_shape())
                if own.get(key, there) != there:
                    raise ValueError(
                        f"{folder / WEIGHTS} does not fit {name} with {len(self._labels)} labels at "
                        f"valid_crop_size {self._crop}: {key} is {there} in the file and {own[key]} in the "
                        "network. A network of one image size takes only the valid_crop_size that it was "
                        f"trained with; set that in {folder / 'settings.json'}."
                    )

    @torch.inference_mode()
    def predict(self, rows: Sequence[bytes]) -> list[dict[str, Any]]:
        """Score encoded images. Raises ValueError naming the row that is no image."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(rows), self._batch):
            some = rows[start : start + self._batch]
            pixels = np.stack([self._pixels(start + i, row) for i, row in enumerate(some)])
            batch = self._normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))
            probabilities = self._targets.probabilities(self._model(batch).double())
            found += [{"probs": row, "labels": list(self._labels)} for row in probabilities.tolist()]
        return found

    def _pixels(self, number: int, row: bytes) -> images.Pixels:
        try:
            return images.for_validation(images.open_image(row), self._resize, self._crop, whole=self._whole)
        except images.ImageError as error:
            raise ValueError(f"row {number}: {error}") from error
