"""What a trial will take: seconds and bytes, predicted from the model's operations and the machine.

The rates are those measured on this project's reference machine (README of tests/bench): resnet18 at 224
pixels in fp32 trains 12.1 images/s on two cores, so one core does 33 x 10^9 multiply-adds a second; of a
GPU, a cautious constant is taken. They need not be right: `automode` corrects what is predicted by what the
first trials took.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from amlocal.compat import names
from amlocal.compat.names import Model
from amlocal.emulator.jobs.automode.facts import MODEL, SIZE, Facts

_PASSES = 3.0
"""A training step costs three times a forward pass: forward, gradients of values, gradients of weights."""
_CORE = 33.0
_GPU = 8000.0
"""10^9 multiply-adds a second of one core and of one GPU."""
_EFFICIENCY: Mapping[str, float] = {"mobilenet": 0.18, "resnest": 0.5, "seresnext": 0.5, "yolov5": 0.7}
"""How much of that a family reaches; 1 for the others. Measured: mobilenet."""
_START = 12.0
"""Seconds for imports, building, charts and the exported model."""
_STEP = 0.002
"""Seconds that a processor's optimizer step takes for each million parameters: it reads and writes all."""
_UNKNOWN = 50.0
"""Millions of parameters of a network of which nothing is known."""
_GMACS_OF_A_MILLION = 0.2
_BASE = 600 * 2**20
"""Bytes of a process that has imported torch."""
_HELD = 28 * 2**20
"""Bytes that a training step holds for one image and 10^9 multiply-adds."""
_SIZES: Mapping[str, tuple[float, float]] = {
    "small": (9.1, 12.0),
    "medium": (25.1, 32.1),
    "large": (53.2, 67.5),
    "extra_large": (97.2, 123.3),
}
"""Millions of parameters and 10^9 multiply-adds at 640 pixels of yolov5u, as ultralytics lists them."""
_YOLO_AREA = 640.0 * 640.0
_DETECTOR_AREA = 608.0 * 800.0
"""Pixels of the image for which models.toml counts a detector's operations."""


def whole(facts: Facts, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of a trial with this sample, by the model's rules for sizes; fixed ones win."""
    given = {**sample, **facts.fixed}
    model = str(given.get(MODEL) or names.default_model(facts.task))
    given.pop(MODEL, None)
    values = names.effective(facts.task, model, given)
    names.apply_size_rules(names.model(facts.task, model), values, given)
    return values


def parameters(row: Model, values: Mapping[str, Any]) -> float:
    """Millions of parameters."""
    if row.builder == "yolo":
        return _SIZES[values[SIZE]][0]
    return row.parameters or _UNKNOWN


def gmacs(row: Model, values: Mapping[str, Any]) -> float:
    """10^9 multiply-adds of one image at the trial's size."""
    if row.builder == "yolo":
        return _SIZES[values[SIZE]][1] * float(values["image_size"]) ** 2 / _YOLO_AREA
    known = row.gmacs or (row.parameters or _UNKNOWN) * _GMACS_OF_A_MILLION
    if "training_crop_size" in values:
        return known * (float(values["training_crop_size"]) / (row.image_size or 224)) ** 2
    # A detector's images keep their shape, taken as 4:3 here: the shorter side is min_size, the longer one
    # at most max_size.
    longer = min(float(values["min_size"]) * 4 / 3, float(values["max_size"]))
    return known * longer * longer * 0.75 / _DETECTOR_AREA


def seconds(facts: Facts, sample: Mapping[str, Any], *, epochs: int | None = None) -> float:
    """How long a trial with this sample will take, by `epochs` where given."""
    values = whole(facts, sample)
    row = names.model(facts.task, values[MODEL])
    count = int(values["number_of_epochs"]) if epochs is None else epochs
    return _START + count * _epoch(facts, row, values)


def epochs_within(facts: Facts, sample: Mapping[str, Any], limit: float) -> int:
    """The most epochs that end within `limit` seconds; 0 where not one does."""
    values = whole(facts, sample)
    row = names.model(facts.task, values[MODEL])
    return max(0, math.floor((limit - _START) / _epoch(facts, row, values)))


def _epoch(facts: Facts, row: Model, values: Mapping[str, Any]) -> float:
    rate = (_GPU if facts.gpu else _CORE * facts.cores) * _EFFICIENCY.get(row.family, 1.0)
    passes = _PASSES * facts.train_images + facts.validation_images / max(
        1, int(values["evaluation_frequency"])
    )
    steps = math.ceil(facts.train_images / values["training_batch_size"])
    update = 0.0 if facts.gpu else _STEP * parameters(row, values) * steps
    return passes * gmacs(row, values) / rate + update


def memory(facts: Facts, sample: Mapping[str, Any]) -> float:
    """Bytes that a trial with this sample will take: weights four times (gradients and the optimizer's two),
    and what a step holds."""
    values = whole(facts, sample)
    row = names.model(facts.task, values[MODEL])
    weights = parameters(row, values) * 1e6 * 4 * 4
    return _BASE + weights + int(values["training_batch_size"]) * gmacs(row, values) * _HELD


def room(facts: Facts) -> float | None:
    """Bytes that one trial may take; None: not known."""
    if facts.gpu:
        return None if facts.gpu_memory is None else facts.gpu_memory * 0.9
    return None if facts.memory is None else facts.memory * 0.8 / max(1, facts.max_concurrent)
