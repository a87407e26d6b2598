"""`python -m amlocal.trainers bench`: every model at every batch size, in one process."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from amlocal.trainers import device as devices
from amlocal.trainers import files
from amlocal.trainers.bench import one, pictures, results, second_trial
from amlocal.trainers.bench.arguments import Order
from amlocal.trainers.errors import TrainingError

_DEFAULT_IMAGES = {"cpu": 512, "cuda": 4096}


def run(wanted: Order) -> int:
    """Measure, print the table, write the file. Returns 0. Raises TrainingError."""
    _keep_to(wanted.threads)
    device = devices.choose()
    subjects = wanted.subjects()
    largest = max(subject.batch for subject in subjects)
    rows: list[results.Row] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amlocal-bench-")))
        if wanted.data is None:
            count = wanted.images or max(_DEFAULT_IMAGES[device.type], largest)
            tell(f"making {count} JPEG files")
            found = pictures.make(folder / "images", count)
        else:
            found = pictures.find(wanted.data, wanted.images)
        if len(found.paths) < largest:
            raise TrainingError(f"{found.source} are less than one batch of {largest}")
        warm = None
        if sys.platform == "linux" and wanted.second_trial:
            tell("starting the warm parent")
            warm = stack.enter_context(second_trial.WarmParent())
        for number, subject in enumerate(subjects):
            tell(f"{subject.model}, batches of {subject.batch}")
            place = folder / f"subject-{number}"
            rows.append(one.measure(wanted, subject, found, place, device, warm, tell))
            if wanted.out is not None:
                files.write_text(wanted.out, results.as_csv(rows))
    print(results.table(rows), flush=True)
    return 0


def tell(text: str) -> None:
    """What goes on, for whoever waits; on standard error, so that the table can be kept alone."""
    print(text, file=sys.stderr, flush=True)


def _keep_to(threads: int | None) -> None:
    """Use that many CPUs: the trainers and a DataLoader's processes then count the same ones."""
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    if threads is None:
        return
    if available is None:
        raise TrainingError("--threads needs Linux")
    if threads > len(available):
        raise TrainingError(f"--threads {threads}: there are {len(available)} CPUs")
    os.sched_setaffinity(0, available[:threads])
