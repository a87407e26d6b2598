"""Which engine runs a network fastest with the same answers, found in a second or two when a model loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from amlocal.trainers.serving.engines import EAGER, Forward, NotPossible, Plan

SECONDS = 1.5
"""No engine is begun after that long."""
TOLERANCE = 0.01
"""How far answers may be from those of the eager network in fp32."""
PASSES = 3
"""Through each engine; the first, in which kernels are made, does not count."""
NO_TIME = "not tried, no time left"
_WORTHWHILE = 0.95
"""Another engine than the eager one must need at most this share of its time."""


@dataclass
class Choice:
    """The engine chosen: how far its answers are from the eager network's, and what was found of each: images
    per second, or why it is left out."""

    name: str
    forward: Forward
    difference: float
    found: dict[str, float | str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "; ".join(
            f"{name} {value}" if isinstance(value, str) else f"{name} {value:.1f} images/s"
            for name, value in self.found.items()
        )


def choose(
    plan: Plan,
    names: Sequence[str],
    makers: Mapping[str, Callable[[Plan], Forward]],
    inputs: Any,
    difference: Callable[[Any, Any], float],
    *,
    seconds: float,
    timer: Callable[[], float],
) -> Choice:
    """Try the engines `names` (the eager one first) on `inputs`, a batch as the network takes it.

    The fastest of those whose `difference` to the eager network's outputs is at most TOLERANCE wins; when
    time runs out, the fastest so far.
    """
    started = timer()
    eager = makers[EAGER](plan)
    choice = Choice(EAGER, eager, 0.0)
    fastest = min(seconds_of(eager, inputs, timer, plan.device))
    reference = eager(inputs)
    choice.found[EAGER] = len(inputs) / fastest
    fastest *= _WORTHWHILE
    for name in names:
        if name == EAGER:
            continue
        if timer() - started > seconds:
            choice.found[name] = NO_TIME
            continue
        try:
            forward = makers[name](plan)
            apart = difference(forward(inputs), reference)
            needed = min(seconds_of(forward, inputs, timer, plan.device)) if apart <= TOLERANCE else 0.0
        except NotPossible as error:
            choice.found[name] = f"left out, {error}"
            continue
        except Exception as error:  # engines fail in ways of their own; the eager network always works
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            choice.found[name] = f"left out, {type(error).__name__}: {reason}"
            continue
        if apart > TOLERANCE:
            choice.found[name] = f"left out, its answers differ by {apart:.3g}"
            continue
        choice.found[name] = len(inputs) / needed
        if needed < fastest:
            choice.name, choice.forward, choice.difference, fastest = name, forward, apart, needed
    return choice


def fixed(
    plan: Plan,
    name: str,
    makers: Mapping[str, Callable[[Plan], Forward]],
    inputs: Any,
    difference: Callable[[Any, Any], float],
) -> Choice:
    """The engine that somebody asked for, whatever its speed. Raises ValueError where it is not possible or
    answers differently."""
    try:
        forward = makers[name](plan)
    except NotPossible as error:
        raise ValueError(f"the scoring engine {name} is not possible: {error}") from error
    apart = difference(forward(inputs), makers[EAGER](plan)(inputs))
    if apart > TOLERANCE:
        raise ValueError(f"the scoring engine {name} answers differently, by {apart:.3g}")
    return Choice(name, forward, apart, {name: "asked for, not measured"})


def seconds_of(
    forward: Forward, inputs: Any, timer: Callable[[], float], device: torch.device
) -> list[float]:
    """What each pass takes, the first one left out."""
    found = []
    for _ in range(PASSES):
        start = timer()
        forward(inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(max(timer() - start, 1e-9))
    return found[1:]
