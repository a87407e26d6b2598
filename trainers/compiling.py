"""torch.compile where it pays: a long training of one process on a GPU, decided from measured steps."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from amlocal.trainers.device import short_of_memory
from amlocal.trainers.progress import debug, duration, say, warn

_EXPECTED_GAIN = 0.15
"""Share of a step's time that compiling is taken to save; ordinary for convolutional and ViT networks."""
_COMPILE_SECONDS = 90.0
"""What compiling forward and backward of one network is taken to cost."""


def worth_compiling(steps: int, eager_seconds: float, expected_gain: float, compile_seconds: float) -> bool:
    """Whether `steps` more steps of `eager_seconds` each save more than compiling costs, when each becomes
    shorter by the share `expected_gain` (0 to 1)."""
    return steps * eager_seconds * expected_gain > compile_seconds


def possible(device: torch.device, processes: int, *, seeded: bool) -> bool:
    """Whether compiling may be considered at all.

    Not when random_seed is given: whether it pays is measured, and a compiled network gives other last
    digits. Not with several processes, which would have to measure alike.
    """
    if device.type != "cuda" or seeded or processes > 1:
        return False
    tools = importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
    if not tools:
        debug("torch.compile needs triton and a C compiler, which are not both here")
    return tools


class Forward:
    """The network as a training step calls it: eager, from some step on perhaps compiled.

    The module itself is never wrapped, so that names in its state dict stay as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        allowed: bool,
        compile_: Callable[[nn.Module], Callable[..., Any]] = torch.compile,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._eager = model
        self._compile = compile_
        self._clock = clock
        self._compiled: Callable[..., Any] | None = None
        self._shape: torch.Size | None = None
        self.undecided = allowed

    @property
    def compiled(self) -> bool:
        return self._compiled is not None

    def __call__(self, images: Tensor, *more: Any) -> Any:
        # Another shape (the last batch of an epoch) would be compiled anew.
        if self._compiled is not None and images.shape == self._shape:
            return self._compiled(images, *more)
        return self._eager(images, *more)

    def decide(
        self,
        steps: int,
        eager_seconds: float,
        shape: torch.Size,
        rehearse: Callable[[Callable[..., Any]], object],
    ) -> None:
        """Compile for images of `shape` if `steps` more steps of `eager_seconds` repay it; asked once.

        `rehearse` takes a step with what it is given and leaves nothing behind. A network that cannot be
        compiled goes on as it is.
        """
        if not self.undecided:
            return
        self.undecided = False
        if not worth_compiling(steps, eager_seconds, _EXPECTED_GAIN, _COMPILE_SECONDS):
            debug(f"not compiled: {steps} steps of {eager_seconds:.3f} s do not repay it")
            return
        say(f"compiling the network: {duration(steps * eager_seconds)} of training are to come")
        started = self._clock()
        try:
            compiled = self._compile(self._eager)
            rehearse(compiled)
        except Exception as error:  # compilers fail in ways of their own; the eager network always works
            lines = str(error).strip().splitlines() or [""]
            reason = short_of_memory(error) or f"{type(error).__name__}: {lines[0]}"
            warn(f"the network cannot be compiled ({reason}); training goes on without that")
            return
        self._compiled, self._shape = compiled, shape
        say(f"compiled in {duration(self._clock() - started)}")


class StepTimer:
    """Seconds per step between two marks, the waiting for data left out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._warm = False
        self.seconds: float | None = None
        """Of the steps before the last mark; those before the first are slower and do not count."""
        self.start()

    def start(self) -> None:
        """An epoch starts."""
        self._at = 0
        self._since, self._waited = self._clock(), 0.0

    def waiting(self, get: Callable[[], Any]) -> Any:
        """What `get` returns; the time it takes is no part of a step."""
        started = self._clock()
        found = get()
        self._waited += self._clock() - started
        return found

    def mark(self, step: int) -> None:
        """The first `step` steps of the epoch are done, really done."""
        if self._warm:
            self.seconds = (self._clock() - self._since - self._waited) / max(1, step - self._at)
        self.start()
        self._warm, self._at = True, step
