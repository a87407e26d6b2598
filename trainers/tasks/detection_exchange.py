"""What several processes found, brought together: as lines of JSON, which nobody can hide code in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from amlocal.trainers import distributed
from amlocal.trainers.metrics.masks import RLE
from amlocal.trainers.metrics.objects import Found, Truth


class Compared(NamedTuple):
    """One image of a half of the data, by its position there: what is in it and what was found."""

    image: int
    truth: Truth
    found: Found


def gathered(mine: Sequence[Compared]) -> list[Compared]:
    """The images of all processes, in the order of the data."""
    if distributed.current().size == 1:
        return sorted(mine, key=lambda row: row.image)
    text = "".join(json.dumps(_packed(row)) + "\n" for row in mine)
    sent = torch.from_numpy(np.frombuffer(text.encode("ascii"), dtype=np.uint8).copy())
    lines = distributed.gather(sent).numpy().tobytes().decode("ascii").splitlines()
    return sorted((_unpacked(json.loads(line)) for line in lines), key=lambda row: row.image)


def _packed(row: Compared) -> dict[str, Any]:
    truth, found = row.truth, row.found
    return {
        "image": row.image,
        "size": [truth.height, truth.width],
        "truth": [truth.boxes.tolist(), truth.labels.tolist(), truth.crowd.tolist(), _texts(truth.masks)],
        "found": [found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), _texts(found.masks)],
    }


def _unpacked(row: dict[str, Any]) -> Compared:
    height, width = row["size"]
    boxes, labels, crowd, masks = row["truth"]
    truth = Truth(_boxes(boxes), _numbers(labels), np.array(crowd, dtype=bool), _codes(masks), height, width)
    boxes, labels, scores, masks = row["found"]
    found = Found(_boxes(boxes), _numbers(labels), np.array(scores, dtype=np.float64), _codes(masks))
    return Compared(row["image"], truth, found)


def _boxes(rows: list[list[float]]) -> Any:
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _numbers(rows: list[int]) -> Any:
    return np.array(rows, dtype=np.int64)


def _texts(masks: list[RLE] | None) -> list[Any] | None:
    return None if masks is None else [[*mask["size"], mask["counts"].decode("ascii")] for mask in masks]


def _codes(rows: list[Any] | None) -> list[RLE] | None:
    if rows is None:
        return None
    return [{"size": [height, width], "counts": text.encode("ascii")} for height, width, text in rows]
