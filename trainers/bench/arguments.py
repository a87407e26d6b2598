"""The options of the bench, and what they ask for. Imports no PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amlocal.compat import names
from amlocal.trainers.errors import TrainingError

TASK = "image-classification"


@dataclass(frozen=True)
class Order:
    """What to measure."""

    models: list[str]
    batch: list[int]
    image_size: int
    images: int | None
    seconds: float
    rounds: int
    threads: int | None
    data: Path | None
    out: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a CSV file too, grown row by row")
    parser.add_argument(
        "--models", type=_texts, default=["resnet18"], metavar="NAME,...", help="default: resnet18"
    )
    parser.add_argument("--batch", type=_numbers(2), default=[32], metavar="N,...", help="default: 32")
    parser.add_argument(
        "--image-size", type=_number(32), default=224, metavar="PIXELS", help="crop size; default: 224"
    )
    parser.add_argument(
        "--images", type=_number(2), metavar="N", help="default: 512, with a GPU 4096, of --data all"
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=6.0, metavar="S", help="of one window; default: 6"
    )
    parser.add_argument("--rounds", type=_number(1), default=5, metavar="N", help="windows each; default: 5")
    parser.add_argument("--threads", type=_number(1), metavar="N", help="CPUs to use; default: all")
    parser.add_argument("--data", type=Path, metavar="DIR", help="images to use instead of made ones")


def order(arguments: argparse.Namespace) -> Order:
    """The parsed arguments, checked as far as that goes without PyTorch. Raises TrainingError."""
    found = Order(
        **{name: getattr(arguments, name) for name in Order.__dataclass_fields__},
    )
    for name in found.models:
        try:
            row = names.model(TASK, name)
        except ValueError as error:
            raise TrainingError(f"--models: {error}") from error
        if row.builder != "timm":
            raise TrainingError(f"--models: {name} is not of timm, so there is no plain loop to compare with")
    if found.out is not None and found.out.is_dir():
        raise TrainingError(f"--out {found.out} is a folder; name a file in it")
    if found.out is not None and not found.out.parent.is_dir():
        raise TrainingError(f"--out {found.out}: there is no folder {found.out.parent}")
    largest = max(found.batch)
    if found.images is not None and found.images < largest:
        raise TrainingError(f"--images {found.images} is less than one batch of {largest}")
    return found


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
