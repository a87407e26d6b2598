"""The start of a trial that is not the first one: forked from the warm parent, its images decoded already.

`python -m amlocal.trainers.bench.second_trial SOCKET FD` is a warm parent whose trials end after their first
optimizer step and leave in SPEC.timing when that was.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amlocal.trainers import warm, warm_client
from amlocal.trainers.errors import TrainingError

TRIALS = 3
_IDLE = 86_400.0
"""Seconds. Large detectors are measured for long before the second trials begin; the lifeline ends it."""


@dataclass(frozen=True)
class Start:
    """Seconds from before the spec is read, less those that building the network takes."""

    first_batch: float
    first_step: float


class WarmParent:
    """A warm parent of our own; use as a context."""

    def __enter__(self) -> WarmParent:
        self._folder = tempfile.TemporaryDirectory(prefix="amlocal-bench-")
        # Packages that the bench imports later set variables, and a warm parent takes only trials that have
        # those that it was started with.
        self._environment = dict(os.environ)
        self._socket = Path(self._folder.name) / "warm.socket"
        lifeline, self._held = os.pipe()
        argv = [sys.executable, "-m", "amlocal.trainers.bench.second_trial", str(self._socket), str(lifeline)]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=(lifeline,), text=True
        )
        os.close(lifeline)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("ready"):
            self.__exit__()
            raise TrainingError(f"the warm parent did not start: {line.strip() or 'it said nothing'}")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._held)
        self._process.communicate()
        self._folder.cleanup()

    def start(self, spec: Path) -> Start:
        """How one trial starts. Raises TrainingError when it fails."""
        client = [sys.executable, "-I", "-S", str(warm_client.__file__), str(self._socket), str(spec)]
        done = subprocess.run(
            client,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            raise TrainingError(f"a trial of the warm parent failed: {done.stdout.strip()[-2000:]}")
        return Start(**json.loads(timing(spec).read_text(encoding="utf-8")))


def timing(spec: Path) -> Path:
    """Where a trial leaves its `Start`."""
    return spec.with_suffix(".timing")


def median(parent: WarmParent, specs: Callable[[int], Path]) -> Start:
    """The median start of TRIALS trials after a first one; `specs(number)` writes the spec of one."""
    starts = [parent.start(specs(number)) for number in range(TRIALS + 1)][1:]
    return Start(
        statistics.median(start.first_batch for start in starts),
        statistics.median(start.first_step for start in starts),
    )


class _Reached(BaseException):
    """The first step is done."""


def first_step(argv: list[str]) -> int:
    """Run the trial of a spec up to its first optimizer step, as `train` does, and leave a `Start`."""
    begin = time.monotonic()
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from amlocal.trainers import spec, trial

    path = Path(argv[0])
    moments: dict[str, float] = {}

    def stepped(*_: object) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        moments["step"] = time.monotonic()
        raise _Reached

    hook = register_optimizer_step_post_hook(stepped)
    try:
        with _watched(moments):
            trial.run(spec.load(path))
    except _Reached:
        pass
    finally:
        hook.remove()
    if set(moments) != {"build", "batch", "step"}:
        raise TrainingError(
            f"the trial ended before its first step; it came to {', '.join(moments) or 'nothing'}"
        )
    built = begin + moments["build"]
    found = {"first_batch": moments["batch"] - built, "first_step": moments["step"] - built}
    timing(path).write_text(json.dumps(found), encoding="utf-8")
    return 0


@contextmanager
def _watched(moments: dict[str, float]) -> Iterator[None]:
    """Note how long the network's building takes and when the first batch is handed over."""
    from amlocal.trainers import registry

    builder, task = registry.builder, registry.task

    def timed_builder(name: str) -> Callable[..., Any]:
        def build(*arguments: Any, **options: Any) -> Any:
            begin = time.monotonic()
            network = builder(name)(*arguments, **options)
            moments["build"] = time.monotonic() - begin
            return network

        return build

    def timed_task(name: str) -> Callable[..., Any]:
        def make(*arguments: Any, **options: Any) -> Any:
            made = task(name)(*arguments, **options)
            batches = made.train_batches

            def train_batches(epoch: int) -> Iterator[Any]:
                for batch in batches(epoch):
                    moments.setdefault("batch", time.monotonic())
                    yield batch

            made.train_batches = train_batches
            return made

        return make

    registry.builder, registry.task = timed_builder, timed_task
    try:
        yield
    finally:
        registry.builder, registry.task = builder, task


if __name__ == "__main__":
    sys.exit(warm.serve(Path(sys.argv[1]), first_step, idle=_IDLE, lifeline=int(sys.argv[2])))
