"""Detections as endpoints answer them.

Source of the form: "Data schemas to train computer vision models", data schema for online scoring, in Azure
Machine Learning's documentation. `export_as_image` is documented without the form of its answer; here every
box gets "mask": base64 text of an image of the size at which the network saw the picture, white where the
object is, beside its polygon.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from amlocal.trainers.metrics.masks import stretched
from amlocal.trainers.models.detector import Detections
from amlocal.trainers.tasks.detection_settings import Settings
from amlocal.trainers.tasks.polygons import outlines

_DIGITS = 6
_WHITE = 255


def answer(
    found: Detections, height: int, width: int, labels: Sequence[str], settings: Settings, *, masks: bool
) -> dict[str, Any]:
    """The answer for one image, of which `found` is in pixels at this size; `masks`: with polygons."""
    sides = np.array([width, height, width, height])
    corners = (found.boxes.double().numpy() / sides).clip(0.0, 1.0).round(_DIGITS).tolist()
    boxes = []
    for i, (box, label, score) in enumerate(
        zip(corners, found.labels.tolist(), found.scores.tolist(), strict=True)
    ):
        one: dict[str, Any] = {
            "box": dict(zip(("topX", "topY", "bottomX", "bottomY"), box, strict=True)),
            "label": labels[label],
            "score": score,
        }
        if masks:
            one |= _outlined(found, i, height, width, settings)
        boxes.append(one)
    return {"boxes": boxes}


def _outlined(found: Detections, i: int, height: int, width: int, settings: Settings) -> dict[str, Any]:
    if found.masks is None:
        raise ValueError("a model of instance segmentation must give masks")
    mask, top, left = found.masks[i], 0, 0
    if found.whole:
        part: npt.NDArray[np.bool_] = (mask[:height, :width] >= settings.mask_threshold).numpy()
    else:
        box = found.boxes[i].tolist()
        part, top, left = stretched(mask, box, height, width, settings.mask_threshold)
    corner, sides = np.array([left, top]), np.array([width, height])
    shares = [
        ((outline + corner) / sides).clip(0.0, 1.0).round(_DIGITS)
        for outline in outlines(part, settings.most_points)
    ]
    one: dict[str, Any] = {"polygon": [share.flatten().tolist() for share in shares]}
    if settings.image_format is not None:
        one["mask"] = _image(part, top, left, height, width, settings.image_format)
    return one


def _image(part: npt.NDArray[np.bool_], top: int, left: int, height: int, width: int, kind: str) -> str:
    canvas = np.zeros((height, width), dtype=np.uint8)
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = _WHITE * part.astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
