"""With which parameters AutoMode first tries a model: by what it starts from, and by the size of the data.

Random weights need many small steps, so few images mean small batches and many epochs; pretrained ones keep
the documented defaults but for data so small that an epoch would have only a few steps. Nothing that the
user fixed is touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from amlocal.compat import names
from amlocal.compat.names import Model
from amlocal.emulator.jobs.automode.facts import MODEL, SIZE, Facts, Start

CROPS = ("training_crop_size", "validation_crop_size", "validation_resize_size")
EPOCHS, BATCH, RATE = "number_of_epochs", "training_batch_size", "learning_rate"
_TRANSFORMERS = ("vit", "huggingface")
_STEPS = 1000
"""Steps that a classifier with random weights should take."""
_BATCHES = ((400, 16), (5000, 32), (20000, 64), (math.inf, 2**31))
"""Batches for fewer than so many images."""
_FEWEST_STEPS = 10
_MOST_EPOCHS = 60
_MULTIPLE = 32
_LEAST_SIDE: Mapping[Start, int] = {"random": 64, "pretrained": 160}
_SGD_RATE = 0.05 / 78
"""Learning rate of plain SGD for each image of the batch: 0.02 for 32."""
_WEIGHED = ("norm_macro_recall",)
"""Primary metrics in which every class counts alike."""
IMBALANCED = 3.0


def is_classifier(facts: Facts) -> bool:
    """Whether the task gives labels to whole images."""
    return CROPS[0] in names.hyperparameters(facts.task)


def is_transformer(row: Model) -> bool:
    """Whether the network needs far more images than others when it starts from random weights."""
    return row.family in _TRANSFORMERS


def recipe(facts: Facts, row: Model, start: Start, variant: Mapping[str, Any]) -> dict[str, Any]:
    """The sample with which a model is tried first, without what is fixed. `variant`: its model_size."""
    sample: dict[str, Any] = {MODEL: row.name, **variant}
    if is_classifier(facts):
        sample |= _classifier(facts, row, start)
    else:
        sample |= _detector(facts, row, start)
    return {key: value for key, value in sample.items() if key not in facts.fixed}


def side(facts: Facts, start: Start) -> int | None:
    """The crop that suits the images; None where the default does, or the user chose a size."""
    if facts.median_side is None or any(name in facts.fixed for name in CROPS):
        return None
    default = int(names.hyperparameters(facts.task)[CROPS[0]].default)
    wanted = math.ceil(facts.median_side / _MULTIPLE) * _MULTIPLE
    wanted = max(_LEAST_SIDE[start], wanted)
    return wanted if wanted < default else None


def sized(pixels: int) -> dict[str, int]:
    """The three sizes of a classifier for a crop of so many pixels."""
    return {CROPS[0]: pixels, CROPS[1]: pixels, CROPS[2]: round(pixels * 8 / 7)}


def _classifier(facts: Facts, row: Model, start: Start) -> dict[str, Any]:
    rows, images = names.hyperparameters(facts.task), facts.train_images
    usual = int(rows[BATCH].default_for(row.name))
    sample: dict[str, Any] = {}
    batch = int(facts.fixed.get(BATCH, usual))
    if start == "random":
        if BATCH not in facts.fixed:
            batch = min(usual, next(size for most, size in _BATCHES if images < most))
        steps = math.ceil(images / batch)
        usual_epochs = int(rows[EPOCHS].default_for(row.name))
        epochs = min(_MOST_EPOCHS, max(usual_epochs, math.ceil(_STEPS / steps)))
        sample = {BATCH: batch, EPOCHS: epochs}
        # Early on, scores of random weights jump about.
        sample["early_stopping_patience"] = max(5, epochs // 3)
        if is_transformer(row):
            sample |= {"optimizer": "adamw", RATE: 0.0005, "weight_decay": 0.05}
        elif facts.fixed.get("optimizer", "sgd") == "sgd":
            sample[RATE] = _rounded(_SGD_RATE * batch)
        else:
            sample[RATE] = 0.001
    elif BATCH not in facts.fixed and images < _FEWEST_STEPS * usual:
        batch = max(4, 2 ** int(math.log2(max(4.0, images / _FEWEST_STEPS))))
        sample = {BATCH: batch}
        # Smaller batches are noisier; the rate goes down with their square root.
        rate = float(rows[RATE].default_for(row.name))
        sample[RATE] = _rounded(rate * math.sqrt(batch / usual))
    pixels = side(facts, start)
    if pixels is not None and row.family not in ("seresnext",):
        sample |= sized(pixels)
    if facts.imbalance >= IMBALANCED and facts.metric in _WEIGHED:
        sample["weighted_loss"] = 1
    return sample


def _detector(facts: Facts, row: Model, start: Start) -> dict[str, Any]:
    rows = names.hyperparameters(facts.task)
    usual = int(rows[EPOCHS].default_for(row.name))
    sample: dict[str, Any] = {EPOCHS: usual}
    if start == "random":
        sample = {EPOCHS: 2 * usual, "early_stopping_patience": 10}
    if facts.median_side is not None:
        # Small images are enlarged somewhat, which helps with small objects, but not to the default size.
        key, share, least = ("image_size", 1.0, 320) if row.builder == "yolo" else ("min_size", 1.125, 256)
        wanted = max(least, math.ceil(share * facts.median_side / _MULTIPLE) * _MULTIPLE)
        if wanted < int(rows[key].default):
            sample[key] = wanted
    return sample


def _rounded(value: float) -> float:
    """Two significant digits: a rate that a user can read and repeat."""
    return float(f"{value:.2g}")


def with_epochs(sample: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """The sample with another number of epochs, and the patience that goes with it."""
    changed = {**sample, EPOCHS: epochs}
    if "early_stopping_patience" in sample:
        changed["early_stopping_patience"] = max(5, epochs // 3)
    return changed


def variants(facts: Facts, name: str) -> list[dict[str, Any]]:
    """The samples' parts that tell the networks of one name apart: a model_size each, or none."""
    row = names.hyperparameters(facts.task).get(SIZE)
    if row is None or name not in row.only_models or SIZE in facts.fixed:
        return [{}]
    return [{SIZE: size} for size in row.choices]
