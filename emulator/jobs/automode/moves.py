"""How a trial can be varied: one parameter a step up or down, or another optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amlocal.compat import names
from amlocal.compat.names import Model
from amlocal.emulator.jobs.automode import recipes
from amlocal.emulator.jobs.automode.facts import MODEL, Facts, Start
from amlocal.emulator.jobs.automode.recipes import BATCH, CROPS, EPOCHS, RATE

LADDER = (64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512, 640, 800, 1024, 1280)
_FACTOR = 3.0
_ADAPTIVE_MOST = 0.01
_PLAIN_MOST = 0.5
_MOST_EPOCHS = 200
_BATCHES = (4, 256)
_DECAY_MOST = 0.05
_STAGES: Mapping[str, tuple[int, ...]] = {
    "resnet": (0, 1, 2, 3),
    "resnest": (0, 1, 2, 3),
    "seresnext": (0, 1, 2, 3),
    "mobilenet": (0, 4, 8, 12),
    "vit": (0, 4, 8, 10),
    "yolov5": (0, 5, 10),
    "fasterrcnn": (0, 2, 3),
    "maskrcnn": (0, 2, 3),
    "retinanet": (0, 2, 3),
}
"""Values of layers_to_freeze that are worth a trial, by family; it counts stages of the backbone."""
_ADAPTIVE = ("adam", "adamw")


@dataclass(frozen=True)
class Move:
    """One change: `keys` are all parameters that it may change, `first` the one that says in which direction
    (`up` None: to another value of no order)."""

    keys: tuple[str, ...]
    up: bool | None
    changes: Mapping[str, Any]

    @property
    def first(self) -> str:
        return self.keys[0]

    def told(self, values: Mapping[str, Any]) -> str:
        """The change in words, from what the trial before had."""
        value = self.changes[self.first]
        before = "none" if values[self.first] is None else values[self.first]
        return f"{self.first} {value} instead of {before}"


def moves(facts: Facts, row: Model, start: Start, values: Mapping[str, Any]) -> list[Move]:
    """What can be changed of a trial with these values, most promising first; nothing that is fixed.

    From random weights larger rates and longer training come first, from pretrained ones smaller rates and
    frozen layers.
    """
    rate_up, rate_down = list(_rate(values, True)), list(_rate(values, False))
    longer = list(_epochs(values))
    larger, smaller = list(_size(facts, row, values, True)), list(_size(facts, row, values, False))
    fewer, more = list(_batch(values, False)), list(_batch(values, True))
    optimizer, decay = list(_optimizer(start, values)), list(_decay(values))
    weighed = list(_weighed(facts, values))
    if start == "random":
        order = [rate_up, longer, optimizer, weighed, rate_down, larger, fewer, decay, smaller, more]
    else:
        frozen, thawed = list(_freeze(row, values, True)), list(_freeze(row, values, False))
        order = [rate_down, frozen, longer, larger, weighed, rate_up, optimizer, fewer, thawed, smaller]
    taken = set(facts.fixed)
    return [move for group in order for move in group if not taken.intersection(move.keys)]


def direction(move: Move, before: Any, after: Any) -> bool:
    """Whether a change of the move's first parameter goes the same way."""
    if before == after:
        return False
    if move.up is None:
        return bool(after == move.changes[move.first])
    low = -1 if before is None else before
    return bool(((-1 if after is None else after) > low) is move.up)


def _rate(values: Mapping[str, Any], up: bool) -> Iterator[Move]:
    most = _ADAPTIVE_MOST if values["optimizer"] in _ADAPTIVE else _PLAIN_MOST
    rate = values[RATE] * _FACTOR if up else values[RATE] / _FACTOR
    if 0 < rate <= most:
        yield Move((RATE,), up, {RATE: float(f"{rate:.2g}")})


def _epochs(values: Mapping[str, Any]) -> Iterator[Move]:
    count = min(_MOST_EPOCHS, 2 * values[EPOCHS])
    if count > values[EPOCHS]:
        keys = (EPOCHS, "early_stopping_patience")
        patience = max(5, count // 3, values["early_stopping_patience"])
        yield Move(keys, True, {EPOCHS: count, "early_stopping_patience": patience})


def _batch(values: Mapping[str, Any], up: bool) -> Iterator[Move]:
    size = values[BATCH] * 2 if up else values[BATCH] // 2
    if _BATCHES[0] <= size <= _BATCHES[1]:
        yield Move((BATCH,), up, {BATCH: size})


def _size(facts: Facts, row: Model, values: Mapping[str, Any], up: bool) -> Iterator[Move]:
    if row.family == "seresnext":
        return
    if CROPS[0] in values:
        pixels = _step(values[CROPS[0]], up)
        if pixels is not None:
            yield Move(CROPS, up, recipes.sized(pixels))
        return
    key = "image_size" if row.builder == "yolo" else "min_size"
    pixels = _step(values[key], up)
    if pixels is not None and pixels <= values.get("max_size", pixels):
        yield Move((key,), up, {key: pixels})


def _step(pixels: int, up: bool) -> int | None:
    steps = [one for one in LADDER if (one > pixels if up else one < pixels)]
    return None if not steps else steps[0] if up else steps[-1]


def _optimizer(start: Start, values: Mapping[str, Any]) -> Iterator[Move]:
    keys = ("optimizer", RATE)
    if values["optimizer"] == "sgd":
        rate = 0.001 if start == "random" else 0.0001
        yield Move(keys, None, {"optimizer": "adamw", RATE: rate})
    else:
        rate = 0.02 if start == "random" else 0.005
        yield Move(keys, None, {"optimizer": "sgd", RATE: rate})


def _decay(values: Mapping[str, Any]) -> Iterator[Move]:
    decay = max(1e-4, values["weight_decay"] * 10)
    if decay <= _DECAY_MOST:
        yield Move(("weight_decay",), True, {"weight_decay": float(f"{decay:.2g}")})


def _freeze(row: Model, values: Mapping[str, Any], up: bool) -> Iterator[Move]:
    key = "layers_to_freeze"
    now = values[key]
    steps = [one for one in _STAGES.get(row.family, ()) if (one > (now or 0) if up else now and one < now)]
    if steps:
        yield Move((key,), up, {key: steps[0] if up else steps[-1]})


def _weighed(facts: Facts, values: Mapping[str, Any]) -> Iterator[Move]:
    if facts.imbalance >= recipes.IMBALANCED and values.get("weighted_loss") in (0, 1):
        yield Move(("weighted_loss",), True, {"weighted_loss": values["weighted_loss"] + 1})


def network(facts: Facts, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells networks apart: the model and, where it has one, its model_size."""
    row = names.hyperparameters(facts.task).get("model_size")
    sized = row is not None and values[MODEL] in row.only_models
    return (values[MODEL], values["model_size"] if sized else None)


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """The parameters in which two trials differ; numbers of epochs that are close count as alike."""
    keys = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    epochs: Sequence[int] = (before[EPOCHS], after[EPOCHS])
    if max(epochs) <= 1.25 * min(epochs):
        keys -= {EPOCHS, "early_stopping_patience"}
    return keys
