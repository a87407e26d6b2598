"""The options of the bench, and what they ask for. Imports no PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amlocal.compat import names
from amlocal.trainers.errors import TrainingError

_TASKS = ("image-classification", "image-object-detection", "image-instance-segmentation")
_LOOPS = ("timm", "torchvision", "yolo")
"""Builders whose networks have a loop to compare with."""
_DEFAULTS = {"timm": (224, 32), "torchvision": (600, 2), "yolo": (640, 16)}
"""Side of an image, and images in a batch; a detector's are those of its training (Azure's defaults)."""
_SIZES = ("small", "medium", "large", "extra_large")


@dataclass(frozen=True)
class Order:
    """What to measure. `batch` and `image_size` are None where each model has its own."""

    models: list[str]
    batch: list[int] | None
    image_size: int | None
    model_size: str
    images: int | None
    seconds: float
    rounds: int
    threads: int | None
    second_trial: bool
    data: Path | None
    out: Path | None

    def subjects(self) -> list[Subject]:
        """What to measure, one by one. Raises TrainingError for a model that is none or has no loop to
        compare with."""
        return [
            Subject(task, name, row.builder, batch, self.image_size or _DEFAULTS[row.builder][0])
            for name in self.models
            for task, row in [_row(name)]
            for batch in self.batch or [_DEFAULTS[row.builder][1]]
        ]


@dataclass(frozen=True)
class Subject:
    """One network at one batch size; `image_size` is the side of the crop, of the letterbox (yolov5), or the
    shorter side (torchvision's detectors), in pixels."""

    task: str
    model: str
    builder: str
    batch: int
    image_size: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a CSV file too, grown row by row")
    parser.add_argument(
        "--models", type=_texts, default=["resnet18"], metavar="NAME,...", help="default: resnet18"
    )
    parser.add_argument(
        "--batch",
        type=_numbers(2),
        metavar="N,...",
        help="default: 32, of torchvision's detectors 2, yolov5 16",
    )
    parser.add_argument(
        "--image-size",
        type=_number(32),
        metavar="PIXELS",
        help="crop size, of detectors the shorter side; default: 224, torchvision's 600, yolov5 640",
    )
    parser.add_argument("--model-size", choices=_SIZES, default="medium", help="of yolov5; default: medium")
    parser.add_argument(
        "--images", type=_number(2), metavar="N", help="default: 512, with a GPU 4096, of --data all"
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=6.0, metavar="S", help="of one window; default: 6"
    )
    parser.add_argument("--rounds", type=_number(1), default=5, metavar="N", help="windows each; default: 5")
    parser.add_argument("--threads", type=_number(1), metavar="N", help="CPUs to use; default: all")
    parser.add_argument("--data", type=Path, metavar="DIR", help="images to use instead of made ones")
    parser.add_argument(
        "--no-second-trial",
        dest="second_trial",
        action="store_false",
        help="leave out how soon a second trial starts",
    )


def order(arguments: argparse.Namespace) -> Order:
    """The parsed arguments, checked as far as that goes without PyTorch. Raises TrainingError."""
    found = Order(
        **{name: getattr(arguments, name) for name in Order.__dataclass_fields__},
    )
    subjects = found.subjects()
    if found.out is not None and found.out.is_dir():
        raise TrainingError(f"--out {found.out} is a folder; name a file in it")
    if found.out is not None and not found.out.parent.is_dir():
        raise TrainingError(f"--out {found.out}: there is no folder {found.out.parent}")
    largest = max(subject.batch for subject in subjects)
    if found.images is not None and found.images < largest:
        raise TrainingError(f"--images {found.images} is less than one batch of {largest}")
    return found


def _row(name: str) -> tuple[str, names.Model]:
    """A model's task and its row."""
    for task in _TASKS:
        known = names.models(task).get(name)
        if known is not None and known.builder in _LOOPS:
            try:
                return task, names.model(task, name)
            except ValueError as error:
                raise TrainingError(f"--models: {error}") from error
    raise TrainingError(
        f"--models: {name} is no network of timm, torchvision or ultralytics in the table of models; there "
        "is no loop to compare with"
    )


def _texts(text: str) -> list[str]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise argparse.ArgumentTypeError("name at least one")
    return found


def _number(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def _numbers(least: int) -> Callable[[str], Sequence[int]]:
    one = _number(least)

    def parse(text: str) -> list[int]:
        return [one(part) for part in _texts(text)]

    return parse


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return found
