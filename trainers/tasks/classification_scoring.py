"""Scoring with a finished multi-class classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from amlocal.compat import names
from amlocal.trainers import registry
from amlocal.trainers.data import augment, images


class Predictor:
    """A finished classifier: images in, one {"probs", "labels"} per image out, classes in label order."""

    _BATCH = 80
    _LARGEST = 8192
    _OLD_NAMES: Mapping[str, str] = {"resize_size": "valid_resize_size", "crop_size": "valid_crop_size"}

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self._labels: list[str] = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        self._resize, self._crop = self._sizes(folder / "settings.json")
        row = names.model(description["task"], description["model_name"])
        network = registry.builder(row.builder)(row, len(self._labels), None)
        from safetensors.torch import load_model

        load_model(network.module, folder / "model.safetensors", strict=True)
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

    @torch.inference_mode()
    def predict(self, rows: Sequence[bytes]) -> list[dict[str, Any]]:
        """Score encoded images. Raises ValueError naming the row that is no image."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(rows), self._BATCH):
            pixels = [self._pixels(start + i, row) for i, row in enumerate(rows[start : start + self._BATCH])]
            batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
            probabilities = self._model(self._normalise(batch)).softmax(1)
            found += [{"probs": row, "labels": list(self._labels)} for row in probabilities.tolist()]
        return found

    def _pixels(self, number: int, row: bytes) -> images.Pixels:
        try:
            return images.for_validation(images.open_image(row), self._resize, self._crop)
        except images.ImageError as error:
            raise ValueError(f"row {number}: {error}") from error
