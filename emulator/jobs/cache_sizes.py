"""The largest image sizes that a sweep's trials can have: its trials share one cache of decoded training
images, which is as large as the largest of them needs.

AutoMode's are only known one after the other: its trials share what its default model needs, which is more
than the smaller images of others, and leaves that trial as a job without a sweep trains it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from amlocal.compat import names
from amlocal.emulator.jobs import caps as caps_module
from amlocal.emulator.jobs.runners import automl_draw
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.sampling.space import Choice, Distribution, Sample, SpaceError, SubSpace
from amlocal.emulator.settings import Caps

SIZES = ("training_crop_size", "image_size", "min_size", "max_size")
"""What decides how large training images are kept."""


def largest(job: ImageJob, caps: Caps, weights_dir: Path | None = None) -> dict[str, int]:
    """By parameter, the largest value that a trial of `job` can have under the server's `caps`; empty for a
    job without a search space. Sizes of models that cannot be used are left out."""
    space = job.search.space
    if space is None or job.max_trials == 1:
        return {}
    found: dict[str, int] = {}
    for subspace in automl_draw.free(job, space)[0].subspaces:
        for model, given in _widest(job, subspace):
            for name, value in _sizes(job.task, model, given, caps, weights_dir).items():
                found[name] = max(value, found.get(name, 0))
    return found


def of_samples(
    job: ImageJob, samples: Iterable[Sample], caps: Caps, weights_dir: Path | None = None
) -> dict[str, int]:
    """By parameter, the largest value that one of these samples has, as `largest` for a search space."""
    found: dict[str, int] = {}
    for sample in samples:
        model = str(sample.get(automl_draw.MODEL, job.model))
        for name, value in _sizes(job.task, model, {**job.parameters, **sample}, caps, weights_dir).items():
            found[name] = max(value, found.get(name, 0))
    return found


def _widest(job: ImageJob, subspace: SubSpace) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each model of a sub-space with the largest sizes that are drawn for it."""
    drawn = {}
    for name in SIZES:
        if (most := _most(subspace.parameters.get(name))) is not None:
            drawn[name] = most
    named = subspace.parameters.get(automl_draw.MODEL)
    for model in named.values if isinstance(named, Choice) else (job.model,):
        yield str(model), {**job.parameters, **drawn}


def _most(distribution: Distribution | None) -> int | None:
    if distribution is None:
        return None
    if isinstance(distribution, Choice):
        numbers = [value for value in distribution.values if isinstance(value, int | float)]
        return int(max(numbers)) if numbers else None
    try:
        top = distribution.bounds()[1]
    except (SpaceError, NotImplementedError):
        return None
    return int(top) if math.isfinite(top) else None


def _sizes(
    task: str, model: str, given: Mapping[str, Any], caps: Caps, weights_dir: Path | None
) -> dict[str, int]:
    """The sizes that a trial of this model has, where it uses them."""
    try:
        row = names.model(task, model, weights_dir)
        capped = caps_module.parameters(caps, task, row.name, given).parameters
        parameters = names.effective(task, row.name, capped)
        names.apply_size_rules(row, parameters, capped)
    except names.BadParameter:
        return {}
    rows = names.hyperparameters(task)
    used = [name for name in SIZES if name in rows and not rows[name].note_for(row.name)]
    return {name: int(parameters[name]) for name in used if parameters.get(name) is not None}
