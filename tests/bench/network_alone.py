"""`python network_alone.py SPEC SECONDS ROUNDS`: a trial's network on batches that lie on the device already.

Prints {"train": ..., "validate": ...}: images per second of whole training steps, and of forward passes.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path


def main(path: Path, seconds: float, rounds: int) -> dict[str, float]:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as for a trial
    import itertools

    import torch

    from amlocal.trainers import beginning
    from amlocal.trainers import device as devices
    from amlocal.trainers import spec as specs
    from amlocal.trainers.bench import measuring, ours
    from amlocal.trainers.layouts import Layout

    class Session(ours.Session):
        def _layout(self) -> Layout:
            """That of the trial, with its seed."""
            return beginning.layout(self.spec, self.network.module, self.task, self.device)

    session = Session(specs.load(path), devices.choose())
    training = ours.ModelOnly(session)
    crop = session.spec.parameters["validation_crop_size"]
    size = min(session.task.validation_batch_size, session.task.validation_images)
    images = torch.randn((size, 3, crop, crop), device=session.device)
    images = images.contiguous(memory_format=session.layout.memory_format)

    def validate() -> measuring.Window:
        session.model.eval()

        def step(batch: torch.Tensor) -> int:
            with torch.inference_mode(), session.layout.autocast(session.device):
                session.model(batch)
            return len(batch)

        return measuring.window(itertools.repeat(images), step, seconds, session.device)

    found: dict[str, list[float]] = {"train": [], "validate": []}
    for _ in range(rounds):
        found["train"].append(training.window(seconds).rate)
        found["validate"].append(validate().rate)
    return {name: statistics.median(rates) for name, rates in found.items()}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))))
