"""`python forward_pass.py MODEL ENGINE BATCH`: the network alone, on input that lies ready.

Prints the median milliseconds of one forward pass with an engine of a deployment; "eager" is plain PyTorch in
fp32.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 2.0


def milliseconds(work: Callable[[], object]) -> float:
    work()
    found, begin = [], time.perf_counter()
    while time.perf_counter() - begin < SECONDS or len(found) < 3:
        before = time.perf_counter()
        work()
        found.append((time.perf_counter() - before) * 1e3)
    return statistics.median(found)


def main(folder: Path, engine: str, batch: int) -> None:
    import torch
    from safetensors.torch import load_model

    from amlocal.trainers.models.network import rebuild
    from amlocal.trainers.serving.engines import ENGINES, Plan

    facts = json.loads((folder / "model.json").read_text())
    labels = json.loads((folder / "labels.json").read_text())
    network = rebuild(facts["task"], facts["model_name"], len(labels), 224, facts["facts"])
    load_model(network.module, folder / "model.safetensors")
    plan = Plan(network.module.eval(), (3, 224, 224), torch.device("cpu"), torch.get_num_threads())
    with torch.inference_mode():
        forward = ENGINES[engine](plan)
        images = torch.randn(batch, 3, 224, 224)
        print(milliseconds(lambda: forward(images)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
