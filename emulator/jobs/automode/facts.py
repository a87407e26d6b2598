"""What AutoMode plans by: the data, the machine, the limits, and which models have weights here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

from amlocal.compat import extras, names, weights

Start = Literal["pretrained", "random"]
MODEL = "model_name"
SIZE = "model_size"
_SOFTWARE = {"huggingface": "transformers"}
"""What must be importable for a builder that is in no table of extras."""
LOOKED_AT = 200
"""Images of which the size is read, evenly spread over the data set."""


@dataclass(frozen=True)
class Facts:
    """Sides are the longer ones of images, in pixels, None where none could be read. `timeout` is seconds,
    `memory` and `gpu_memory` bytes (None: not known).

    `metric` is the primary metric as it is logged. `imbalance` is the number of images of the largest class
    over that of the smallest. `max_concurrent` is how many trials really run at once. `fixed` are the
    training parameters that the user gave, among them model_name where one was named; they win. `starts`
    names every model that can be trained here (yolov5 of another size than medium as yolov5:small), and what
    it starts from; `cores` are those of one trial.
    """

    task: str
    metric: str
    train_images: int
    validation_images: int
    classes: int
    timeout: float
    max_trials: int
    starts: Mapping[str, Start]
    max_concurrent: int = 1
    imbalance: float = 1.0
    median_side: int | None = None
    largest_side: int | None = None
    cores: int = 1
    gpu: bool = False
    memory: int | None = None
    gpu_memory: int | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lanes(self) -> int:
        """How many trials run at once."""
        return max(1, min(self.max_concurrent, self.max_trials))

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What `as_dict` gave. Raises TypeError for what it did not give."""
        known = {one.name for one in fields(cls)}
        return cls(**{key: value for key, value in document.items() if key in known})


def starts(
    task: str, weights_dir: Path, *, pretrained: bool, random: bool, hub: bool, fixed: Mapping[str, Any]
) -> dict[str, Start]:
    """Which models of the table can be trained here, and what each starts from.

    `pretrained`: the job wants pretrained weights; `random`: missing ones are no error; `hub`: the hub could
    be reached at submit. A model that the user named is there in any case: it was checked at submit.
    """
    found: dict[str, Start] = {}
    for name, row in names.models(task).items():
        if not row.available or extras.missing(row.builder) or not _is_installed(row.builder):
            continue
        for variant in weights.variants(name):
            start = _start(name, weights_dir, pretrained, random, hub and bool(row.hub), variant)
            if start is not None:
                found[key_of(task, name, variant)] = start
    named = fixed.get(MODEL)
    if isinstance(named, str) and key_of(task, named, fixed) not in found:
        start = _start(named, weights_dir, pretrained, True, hub, fixed)
        found[key_of(task, named, fixed)] = start or "random"
    return found


def _is_installed(builder: str) -> bool:
    software = _SOFTWARE.get(builder)
    return software is None or find_spec(software) is not None


def key_of(task: str, model: str, parameters: Mapping[str, Any]) -> str:
    """The name in `Facts.starts` of a model with these parameters."""
    row = names.hyperparameters(task).get(SIZE)
    size = parameters.get(SIZE)
    sized = row is not None and model in row.only_models and size is not None and size != row.default
    return f"{model}:{size}" if sized else model


def _start(
    name: str, weights_dir: Path, pretrained: bool, random: bool, hub: bool, variant: Mapping[str, Any]
) -> Start | None:
    if not pretrained:
        return "random"
    if hub or weights.find(name, weights_dir, parameters=variant) is not None:
        return "pretrained"
    return "random" if random else None


def sides(paths: Sequence[Path | str]) -> tuple[int | None, int | None]:
    """Median and largest longer side of up to LOOKED_AT of the images; None where none can be read.

    Only heads of files are read. Without Pillow nothing is known.
    """
    try:
        from PIL import Image
    except ImportError:
        return None, None
    step = max(1, len(paths) // LOOKED_AT)
    found = []
    for path in list(paths)[::step][:LOOKED_AT]:
        try:
            with Image.open(path) as image:
                found.append(max(image.size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # the trainer says what is wrong with it
    return (int(statistics.median(found)), max(found)) if found else (None, None)
