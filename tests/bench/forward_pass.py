"""`python forward_pass.py MODEL BATCH…`: the network alone, on input that lies ready.

Prints a JSON line: for each batch the median milliseconds of one forward pass, in plain PyTorch (fp32,
eager) and as the deployment runs it.
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


def main(folder: Path, batches: list[int]) -> None:
    import torch
    from safetensors.torch import load_model

    from amlocal.trainers.models.network import rebuild

    facts = json.loads((folder / "model.json").read_text())
    labels = json.loads((folder / "labels.json").read_text())
    network = rebuild(facts["task"], facts["model_name"], len(labels), 224, facts["facts"])
    load_model(network.module, folder / "model.safetensors")
    module = network.module.eval()
    with torch.inference_mode():
        found = {}
        for batch in batches:
            images = torch.randn(batch, 3, 224, 224)
            found[batch] = milliseconds(lambda images=images: module(images))
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(text) for text in sys.argv[2:]])
