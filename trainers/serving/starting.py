"""From a model's files to a model that answers."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from amlocal.trainers import registry
from amlocal.trainers.device import cpu_threads, short_of_memory
from amlocal.trainers.serving import engines, probe
from amlocal.trainers.serving.imports import without_compiler
from amlocal.trainers.serving.served import Served

ENGINE = "AMLOCAL_SCORING_ENGINE"
THREADS = "AMLOCAL_SCORING_THREADS"
AUTO = "auto"
EAGERLY = (engines.EAGER,)
"""For networks whose answers to pictures of nothing cannot be compared."""
_PROBE_IMAGES = 8


class Runner:
    """Runs batches of prepared images through one engine."""

    def __init__(self, predictor: Any, device: torch.device, forward: engines.Forward) -> None:
        self._predictor = predictor
        self._device = device
        self._forward = forward
        self.limit: int = predictor.limit
        self.on_less_room: Callable[[int], object] = lambda limit: None

    @torch.inference_mode()
    def __call__(self, rows: list[Any]) -> list[dict[str, Any]]:
        """One answer per row."""
        try:
            outputs = self._forward(self._predictor.inputs(rows, self._device))
            found: list[dict[str, Any]] = self._predictor.finish(outputs)
        except Exception as error:
            if short_of_memory(error) and len(rows) > 1:
                # The next batches would not fit either.
                self.on_less_room(len(rows) // 2)
            raise
        return found


def start(
    folder: Path,
    *,
    most: int,
    log: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    timer: Callable[[], float] = time.perf_counter,
) -> Served:
    """See `amlocal.trainers.serving.load`."""
    begun = timer()
    environment = os.environ if environment is None else environment
    wanted = _wanted(environment)
    threads = _threads(environment)
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with nullcontext() if device.type == "cuda" or wanted == "compiled" else without_compiler():
        predictor = registry.restored(folder)
        predictor.module.to(device)
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} threads"
        log(f"{predictor.name}: {predictor.facts}; {where}; loaded after {timer() - begun:.1f} s")
        plan = engines.Plan(predictor.module, predictor.shape, device, threads)
        choice = _choice(plan, predictor, wanted, most, timer)
    log(f"engines: {choice}")
    runner = Runner(predictor, device, choice.forward)
    # A first answer of one image, whose kernels may differ from those of many.
    runner([predictor.prepare(picture(0))])
    served = Served(
        predictor.prepare, runner, limit=predictor.limit, most=most, explained=predictor.explained
    )

    def lower(limit: int) -> None:
        served.batches.limit = limit
        log(f"a batch did not fit into memory; from now on {limit} images at a time")

    runner.on_less_room = lower
    log(
        f"engine {choice.name}: answers differ from eager fp32 by {choice.difference:.2g} at most; up to "
        f"{predictor.limit} images in a batch; ready after {timer() - begun:.1f} s"
    )
    return served


@torch.inference_mode()
def _choice(
    plan: engines.Plan, predictor: Any, wanted: str, most: int, timer: Callable[[], float]
) -> probe.Choice:
    possible = predictor.engines or tuple(engines.ENGINES)
    if wanted not in (AUTO, *possible):
        raise ValueError(
            f"{ENGINE} is {wanted!r}, which cannot run {predictor.name}; it must be one of "
            f"{', '.join((AUTO, *possible))}"
        )
    pictures = [predictor.prepare(picture(number)) for number in range(_PROBE_IMAGES)]
    plan = replace(plan, sample=predictor.inputs(pictures[:2], plan.device))
    with predictor.probing():
        comparable = predictor.engines is None or predictor.comparable(plan.module(plan.sample))
        choice = _probed(plan, predictor, wanted, most, timer, pictures, possible if comparable else EAGERLY)
    if predictor.engines is not None and choice.name != engines.EAGER:
        # Engines copy the network, also how it was set up for the probe.
        choice.forward = engines.ENGINES[choice.name](plan)
    return choice


def _probed(
    plan: engines.Plan,
    predictor: Any,
    wanted: str,
    most: int,
    timer: Callable[[], float],
    pictures: Sequence[Any],
    possible: Sequence[str],
) -> probe.Choice:
    single = predictor.inputs(pictures[:1], plan.device)
    once = min(probe.seconds_of(plan.module, single, timer, plan.device))
    names = [name for name in engines.candidates(plan.device) if name in possible]
    # The others cost about as much as the eager one.
    affordable = int(probe.SECONDS / (probe.PASSES * len(names) * once))
    many = max(1, min(_PROBE_IMAGES, predictor.limit, 2 * most, affordable))
    inputs = predictor.inputs(pictures[:many], plan.device)
    if wanted != AUTO:
        return probe.fixed(plan, wanted, engines.ENGINES, inputs, predictor.difference)
    if len(names) == 1 or probe.PASSES * once > probe.SECONDS:
        found: dict[str, float | str] = dict.fromkeys(names, probe.NO_TIME)
        return probe.Choice(engines.EAGER, plan.module, 0.0, found | {engines.EAGER: 1 / once})
    return probe.choose(
        plan,
        names,
        engines.ENGINES,
        inputs,
        predictor.difference,
        seconds=probe.SECONDS,
        timer=timer,
    )


def picture(number: int) -> bytes:
    """A random encoded photo, another for each number: blurred spots of colour."""
    spots = np.random.default_rng(number).integers(0, 256, (9 + number, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(spots).resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def _wanted(environment: Mapping[str, str]) -> str:
    known = (AUTO, *engines.ENGINES)
    wanted = environment.get(ENGINE, AUTO)
    if wanted not in known:
        raise ValueError(f"{ENGINE} is {wanted!r}; it must be one of {', '.join(known)}")
    return wanted


def _threads(environment: Mapping[str, str]) -> int:
    given = environment.get(THREADS)
    if given is None:
        return cpu_threads()
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= 1024:
        raise ValueError(f"{THREADS} is {given!r}; it must be a whole number from 1 to 1024")
    return int(given)
