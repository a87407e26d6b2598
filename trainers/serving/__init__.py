"""Fast answers from a trained model: concurrent requests are scored together, by the engine that a short
probe found fastest.

Environment variables of the process that loads the model:

AMLOCAL_SCORING_ENGINE    eager (fp32, as in training), channels_last, folded or folded_channels_last (batch
                          normalisations folded into convolutions), bf16, onnx (onnxruntime, on the CPU),
                          compiled (torch.compile, on a GPU), or auto: the fastest of them whose answers are
                          eager's within 0.01. Compiling takes longer than a start may; auto leaves it out.
                          Detectors, whose images differ in size: eager, channels_last, folded and
                          folded_channels_last
AMLOCAL_SCORING_THREADS   threads of one forward pass; else as many as the CPUs that this process may use
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amlocal.trainers.serving.served import Served

__all__ = ["load"]


def load(folder: Path, *, most: int, log: Callable[[str], None]) -> Served:
    """The model in an MLflow model's artifacts folder, warm and ready.

    `most` is how many requests the deployment works on at a time; `log` is given lines for the user. Raises
    ValueError for files or settings that cannot be used.
    """
    # Read by OpenMP when PyTorch is imported; idle threads otherwise spin where images could be opened.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from amlocal.trainers.serving.starting import start

    return start(folder, most=most, log=log)
