"""settings.json of a detector: what a user may edit of a finished model, under Azure's names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amlocal.compat import names
from amlocal.trainers.data.tiling import Grid
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.tasks.detection_data import SEGMENTATION

LARGEST = 8192
"""Side of an image as the network sees it, in pixels; more would be a slip that fills the memory."""
_SIDES = ("min_size", "max_size", "image_size")
_MOST_TILES = 400
_IMAGE_TYPES = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "bmp": "BMP"}
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "")
_MOST_POINTS = 100_000


@dataclass(frozen=True)
class Settings:
    """What the file says, with defaults for what it does not.

    `parameters`: hyperparameters by their names in YAML, as the network is built from them. `grid`: the tiles
    that are looked at besides the whole image; `tile_threshold`: from which overlap (IoU) on two boxes of
    different tiles are one. The rest is about masks: from which probability on a pixel belongs to the object,
    how many points a polygon may have, and the format (Pillow's name) in which masks are given as images too,
    None = not at all.
    """

    parameters: Mapping[str, Any]
    grid: Grid | None
    tile_threshold: float
    mask_threshold: float
    most_points: int
    image_format: str | None


def read(path: Path, task: str, model_name: str, trained: Mapping[str, Any]) -> Settings:
    """Keys that are not known are ignored, as Azure does; what the file does not say is as in `trained`, the
    parameters of the training. Raises ValueError saying which value cannot be used and what would do."""
    given = _object(path)
    rows = names.hyperparameters(task)
    try:
        known = {name: value for name, value in trained.items() if name in rows}
        parameters = names.effective(task, model_name, known | _parameters(given, task))
        for name in _SIDES:
            value = parameters.get(name)
            if value is not None and value > LARGEST:
                raise names.BadParameter(name, value, f"at most {LARGEST}")
        grid = None
        if parameters["tile_grid_size"] is not None and task != SEGMENTATION:  # Azure's rule
            grid = Grid.parse(parameters["tile_grid_size"], parameters["tile_overlap_ratio"])
            if grid.columns * grid.rows > _MOST_TILES:
                value = parameters["tile_grid_size"]
                raise names.BadParameter("tile_grid_size", value, f"at most {_MOST_TILES} tiles")
        return Settings(
            parameters,
            grid,
            parameters["tile_predictions_nms_threshold"],
            _mask_threshold(given),
            _most_points(given),
            _image_format(given),
        )
    except names.BadParameter as error:
        # The file's name for it, not the YAML's.
        name = rows[error.parameter].trainer if error.parameter in rows else error.parameter
        raise ValueError(f"{path}: {names.BadParameter(name, error.value, error.allowed)}") from error
    except TrainingError as error:
        raise ValueError(f"{path}: {error}") from error


def _object(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return settings


def _parameters(given: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Hyperparameters are known here by the name of Azure's trainer (box_score_thresh) or of the YAML
    (box_score_threshold); where both are given, the first counts."""
    rows = names.hyperparameters(task)
    wanted = (*_SIDES, "model_size", "box_score_threshold", "nms_iou_threshold", "box_detections_per_image")
    tiles = ("tile_grid_size", "tile_overlap_ratio", "tile_predictions_nms_threshold")
    found = {}
    for name in (*wanted, *tiles):
        if name not in rows:
            continue
        for key in (rows[name].trainer, name):
            if given.get(key) is not None:
                found[name] = given[key]
                break
    return found


def _mask_threshold(given: Mapping[str, Any]) -> float:
    name = "mask_pixel_score_threshold"
    value = given.get(name, 0.5)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise names.BadParameter(name, value, "a number from 0 to 1")
    return float(value)


def _most_points(given: Mapping[str, Any]) -> int:
    name = "max_number_of_polygon_points"
    value = given.get(name, 100)
    if isinstance(value, bool) or not isinstance(value, int) or not 3 <= value <= _MOST_POINTS:
        raise names.BadParameter(name, value, f"a whole number from 3 to {_MOST_POINTS}")
    return value


def _image_format(given: Mapping[str, Any]) -> str | None:
    wanted = given.get("export_as_image", False)
    text = str(wanted).strip().lower()
    if text not in (*_TRUE, *_FALSE):
        raise names.BadParameter("export_as_image", wanted, "true or false")
    kind = given.get("image_type", "jpg")
    if not isinstance(kind, str) or kind.lower() not in _IMAGE_TYPES:
        raise names.BadParameter("image_type", kind, "jpg, png or bmp")
    return _IMAGE_TYPES[kind.lower()] if text in _TRUE else None
