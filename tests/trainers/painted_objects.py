"""Images of squares and discs on noise, and manifests that say where they are."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"disc": (220, 60, 40), "square": (40, 90, 220)}
_CORNERS = 16


def scene(
    path: Path, number: int, objects: int = 2, size: tuple[int, int] = (64, 48)
) -> list[dict[str, Any]]:
    """Paint an image of `size` (width, height) with at most three objects side by side; returns its label as
    the manifest has it, with polygons. The same for the same arguments."""
    source = np.random.default_rng(number)
    width, height = size
    noise = source.integers(90, 150, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    draw = ImageDraw.Draw(image)
    found = []
    for place in range(objects):
        label = sorted(COLOURS)[int(source.integers(2))]
        radius = float(source.integers(7, 10)) * height / 48
        x = (place + 0.5) * width / objects + float(source.integers(-1, 2))
        y = height / 2 + float(source.integers(-8, 9)) * height / 48
        corners = _corners(label, x, y, radius)
        draw.polygon(corners, fill=COLOURS[label])
        found.append(_annotation(label, corners, size))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return found


def _corners(label: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    if label == "square":
        return [
            (x - radius, y - radius),
            (x + radius, y - radius),
            (x + radius, y + radius),
            (x - radius, y + radius),
        ]
    turns = [2 * math.pi * corner / _CORNERS for corner in range(_CORNERS)]
    return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]


def _annotation(label: str, corners: list[tuple[float, float]], size: tuple[int, int]) -> dict[str, Any]:
    shares = [(min(max(x / size[0], 0), 1), min(max(y / size[1], 0), 1)) for x, y in corners]
    xs, ys = [x for x, _ in shares], [y for _, y in shares]
    return {
        "label": label,
        "box": [min(xs), min(ys), max(xs), max(ys)],
        "crowd": False,
        "polygon": [[value for corner in shares for value in corner]],
    }


def write_objects(path: Path, rows: Iterable[tuple[Path, list[dict[str, Any]]]], *, polygons: bool) -> Path:
    """A manifest as the server writes it."""
    lines = []
    for number, (image, label) in enumerate(rows, 1):
        kept = label if polygons else [{k: v for k, v in one.items() if k != "polygon"} for one in label]
        lines.append(
            {"path": str(image), "etag": f"e{number}", "label": kept, "source": f"{path.stem}.jsonl:{number}"}
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def scenes(folder: Path, half: str, number: int, start: int, *, polygons: bool, background: int = 0) -> Path:
    """A manifest of `number` painted images, the last `background` of them without objects."""
    rows = [
        (
            folder / half / f"{n}.png",
            scene(folder / half / f"{n}.png", start + n, 0 if n >= number - background else 1 + n % 2),
        )
        for n in range(number)
    ]
    return write_objects(folder / f"{half}.json", rows, polygons=polygons)


def spec_file(folder: Path, name: str, sets: dict[str, Path], given: dict[str, Any], **fields: Any) -> Path:
    """The spec of a quick trial of a detector; returns its path."""
    segmentation = fields.get("task") == "image-instance-segmentation"
    quick = {
        "model_name": "maskrcnn_resnet18_fpn" if segmentation else "fasterrcnn_resnet18_fpn",
        "number_of_epochs": 3,
        "training_batch_size": 4,
        "validation_batch_size": 2,
        "min_size": 48,
        "max_size": 96,
        "learning_rate": 0.02,
        "warmup_cosine_lr_warmup_epochs": 1,
        "random_seed": 7,
    }
    spec = {
        "schema": 1,
        "run_id": name,
        "task": "image-object-detection",
        "primary_metric": "mean_average_precision",
        "parameters": quick | given,
        "advanced_settings": {"pretrained": False},
        "train_manifest": str(sets["train"]),
        "validation_manifest": str(sets["validation"]),
        "validation_data_size": None,
        "data_report": None,
        "artifacts_dir": str(folder / name / "artifacts"),
        "state_dir": str(folder / name / "state"),
        "cache_dir": str(folder / "cache"),
        "weights_dir": str(folder / "weights"),
        "missing_weights": "error",
        "attempt": 1,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(spec | fields))
    return path
