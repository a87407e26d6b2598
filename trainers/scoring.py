"""Loader of our MLflow models (`loader_module`): plain files in, a predictor with `predict` out; no
pickle."""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import pandas as pd

from amlocal.trainers import registry

DESCRIPTION = "model.json"
COLUMN = "image"


class ImageModel:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, folder: Path) -> None:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        self._predictor = registry.predictor(description["task"])(folder, description)

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row of results per row of `model_input`, whose column "image" holds base64 text or an image's
        bytes.

        Raises ValueError naming the row (from 0) that is neither.
        """
        if not isinstance(model_input, pd.DataFrame) or COLUMN not in model_input.columns:
            raise ValueError(f'the input must be a table with a column "{COLUMN}"')
        rows = [image_bytes(number, value) for number, value in enumerate(model_input[COLUMN].tolist())]
        return pd.DataFrame(self._predictor.predict(rows), index=model_input.index)


def image_bytes(number: int, value: object) -> bytes:
    """The encoded image in one cell. Raises ValueError naming the row."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str):
        raise ValueError(f"row {number}: expected base64 text or bytes, not {type(value).__name__}")
    try:
        # base64.encodebytes, which the public samples use, breaks its lines.
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"row {number}: not base64 text ({error})") from error


def _load_pyfunc(path: str) -> ImageModel:
    """MLflow's entry: `path` is the model's artifacts folder."""
    return ImageModel(Path(path))
