"""The package ultralytics, imported so that nothing but its networks and their loss is felt.

It is AGPL-3.0 and no part of amlocal: the extra `amlocal[yolo]` installs it. Left alone its import looks
names up on the network, writes a settings file into the home folder, replaces `torch.save` and Pillow's
`Image.open` (by one that would install a package when a file is no image), and changes environment
variables, among them OMP_NUM_THREADS. Its own trainer, which would log to MLflow a second time,
is never used.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image

from amlocal.trainers.errors import TrainingError

_DEFINITION = "cfg/models/v5/yolov5.yaml"
_SWITCHES = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}


class Package(NamedTuple):
    """What is used of ultralytics: the class of its detection networks, that of their loss, and the text that
    defines YOLOv5u."""

    model: Any
    loss: Any
    definition: str

    def yolov5(self, scale: str, classes: int) -> Any:
        """YOLOv5u of a scale (n, s, m, l or x) with random weights."""
        description = yaml.safe_load(self.definition) | {"scale": scale, "nc": classes}
        return self.model(description, ch=3, nc=classes, verbose=False)


@cache
def load() -> Package:
    """Import it. Raises TrainingError, naming the extra, where it is not installed or cannot be imported."""
    try:
        with _unfelt():
            import ultralytics
            from ultralytics.nn.tasks import DetectionModel
            from ultralytics.utils.loss import v8DetectionLoss
    except ImportError as error:
        raise TrainingError(
            "yolov5 needs the package ultralytics (AGPL-3.0), which amlocal does not install by itself: "
            f"pip install 'amlocal[yolo]' ({error})"
        ) from error
    definition = Path(ultralytics.__file__).parent / _DEFINITION
    return Package(DetectionModel, v8DetectionLoss, definition.read_text(encoding="utf-8"))


@contextmanager
def _unfelt() -> Iterator[None]:
    """Inside, its settings go to a folder that is removed afterwards; environment, warnings and what it
    replaces in numpy, PyTorch and Pillow are put back."""
    before = dict(os.environ)
    save, opened = torch.save, Image.open
    with (
        tempfile.TemporaryDirectory(prefix="amlocal-yolo-") as folder,
        warnings.catch_warnings(),
        np.printoptions(),
    ):
        os.environ.update(_SWITCHES, YOLO_CONFIG_DIR=folder)
        try:
            yield
        finally:
            torch.save, Image.open = save, opened
            torch.set_printoptions(profile="default")
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update({name: value for name, value in before.items() if os.environ[name] != value})
