"""Images of plain colours, and manifests of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (30, 170, 60), "red": (210, 40, 40)}


def paint(path: Path, label: str, number: int, size: tuple[int, int] = (48, 40)) -> Path:
    """A noisy plain image whose colour is its class; the same for the same arguments."""
    noise = np.random.default_rng(number).integers(-30, 31, (size[1], size[0], 3))
    pixels = (np.array(COLOURS[label]) + noise).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=92)
    return path


def write_manifest(path: Path, rows: Iterable[tuple[Path, Any]]) -> Path:
    """A manifest as the server writes it."""
    lines = [
        {"path": str(image), "etag": f"e{n}", "label": label, "source": f"{path.stem}.jsonl:{n}"}
        for n, (image, label) in enumerate(rows, 1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
