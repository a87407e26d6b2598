"""Loader of our MLflow models (`loader_module`): plain files in, a predictor with `predict` out; no
pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from amlocal.trainers import registry
from amlocal.trainers.registry import DESCRIPTION
from amlocal.trainers.serving.cells import COLUMN, image_bytes

__all__ = ["COLUMN", "DESCRIPTION", "ImageModel", "image_bytes"]


class ImageModel:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, folder: Path) -> None:
        self._predictor = registry.restored(folder)

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row of results per row of `model_input`, whose column "image" holds base64 text, an image's
        bytes, or JSON text with `image_base64`.

        Raises ValueError naming the row (from 0) that is none of them.
        """
        if not isinstance(model_input, pd.DataFrame) or COLUMN not in model_input.columns:
            raise ValueError(f'the input must be a table with a column "{COLUMN}"')
        explained = self._predictor.explained
        cells = enumerate(model_input[COLUMN].tolist())
        rows = [image_bytes(number, value, explained=explained) for number, value in cells]
        return pd.DataFrame(self._predictor.predict(rows), index=model_input.index)


def _load_pyfunc(path: str) -> ImageModel:
    """MLflow's entry: `path` is the model's artifacts folder."""
    return ImageModel(Path(path))
