"""What a trial starts from: its seed, its network with the weights it begins with, and its layout."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from amlocal.compat.model_rows import HUGGINGFACE, Model
from amlocal.trainers import device as devices
from amlocal.trainers import distributed, files, registry
from amlocal.trainers.checkpoints import Checkpoint
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.layouts import NUMBER_TYPES, PLAIN, Layout
from amlocal.trainers.manner import Manner
from amlocal.trainers.models import loading, weights
from amlocal.trainers.models.network import Building, Network, freeze
from amlocal.trainers.models.network import building as network_building
from amlocal.trainers.progress import say, warn
from amlocal.trainers.spec import Spec, Start


class Shaped(Protocol):
    """The part of a task that the choice of a layout needs; `input_shape` only where it is `compilable`."""

    manner: Manner

    @property
    def input_shape(self) -> tuple[int, int, int, int]: ...


def seed(spec: Spec) -> int:
    """random_seed, or a seed drawn once per trial and kept, so that a resumed trial splits its data alike."""
    given = spec.parameters["random_seed"]
    kept = spec.state_dir / "seed.json"
    if given is not None:
        torch.backends.cudnn.deterministic = True
        return int(given)
    if spec.attempt >= 2 and kept.exists():
        return int(json.loads(kept.read_text(encoding="utf-8"))["seed"])
    torch.backends.cudnn.benchmark = True
    drawn = int(distributed.first(int.from_bytes(os.urandom(4), "little")))
    if distributed.current().rank == 0:
        files.write_json(kept, {"seed": drawn})
    return drawn


def pretrained(spec: Spec, resume: Checkpoint | None) -> Path | None:
    """The file of the pretrained weights; None when the trial starts from others, or from random ones.

    Raises TrainingError when they are missing.
    """
    if resume is not None or spec.start is not None:
        return None
    if not spec.pretrained:
        warn('starting from random weights: advanced_settings has "pretrained": false')
        return None
    if distributed.current().rank == 0:
        found = weights.begin(
            spec.model, spec.weights_dir, spec.missing_weights, spec.state_dir, spec.parameters
        )
        distributed.barrier()
        return found
    # The first process may have to download them.
    distributed.barrier()
    return weights.obtain(spec.model, spec.weights_dir, spec.missing_weights, spec.parameters)


def building(spec: Spec, path: Path | None) -> Building:
    """What the builder must know; every attempt of a trial builds alike."""
    trained = path is not None or spec.start is not None
    kept = spec.state_dir / weights.STARTED
    if spec.attempt >= 2 and not trained and kept.exists():
        trained = json.loads(kept.read_text(encoding="utf-8")).get("file") is not None
    return network_building(spec.model, spec.parameters, trained=trained)


def network(
    spec: Spec, labels: list[str], building: Building, path: Path | None, resume: Checkpoint | None
) -> tuple[Network, str]:
    """The network with the weights in `path`, frozen as asked, and in words what it starts from. `building`
    is what its builder must know besides.

    Raises TrainingError when those of `path` or of checkpoint_run_id do not fit.
    """
    build = registry.builder(spec.model.builder)
    built: Network = build(spec.model, len(labels), path, building)
    origin = "random weights" if path is None else str(path)
    if resume is not None:
        origin = f"checkpoint of epoch {resume.epoch + 1}, attempt {spec.attempt}"
    elif spec.start is not None:
        heads = functools.partial(_heads, spec.model, built.module, len(labels), building)
        origin = _go_on(built.module, spec.start, spec.model.name, labels, heads)
    wanted = spec.parameters["layers_to_freeze"]
    frozen = freeze(built, wanted)
    if wanted is not None and wanted > frozen:
        warn(f"layers_to_freeze is {wanted}, but {spec.model.name} has {frozen} stages; all are frozen")
    return built, origin


def _go_on(
    module: nn.Module, start: Start, model_name: str, labels: list[str], heads: Callable[[], set[str]]
) -> str:
    if start.model_name != model_name:
        raise TrainingError(
            f"the checkpoint of run {start.run_id} is of model {start.model_name}, and this job trains "
            f"{model_name}; set model_name to {start.model_name}"
        )
    tensors = _read(start.weights)
    earlier = _labels(start.labels)
    if earlier is not None and earlier != labels:
        # Another meaning of each output, even where their number happens to agree.
        new_ones = heads()
        tensors = {name: tensor for name, tensor in tensors.items() if name not in new_ones}
        gone, new = sorted(set(earlier) - set(labels)), sorted(set(labels) - set(earlier))
        changed = "; ".join(
            f"{what}: {', '.join(some)}" for what, some in (("no more", gone), ("new", new)) if some
        )
        say(f"labels differ from those of run {start.run_id} ({changed}): the last layer starts anew")
    loaded = loading.load_intersecting(module, tensors)
    whole = len(module.state_dict())
    say(f"{loaded.loaded} of {whole} tensors come from run {start.run_id}, {whole - loaded.loaded} are new")
    return f"weights of run {start.run_id}"


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return loading.read(path)
    try:
        return loading.state_dict(path)
    except ValueError as error:
        raise TrainingError(f"{path.parent}: {error}") from error


def _labels(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return [str(label) for label in found] if isinstance(found, list) else None


def _heads(row: Model, module: nn.Module, classes: int, building: Building) -> set[str]:
    """Names of the tensors that answer: those that would have another shape for another number of classes."""
    with torch.random.fork_rng(devices=[]):
        other = registry.builder(row.builder)(row, classes + 1, None, building).module.state_dict()
    return {name for name, tensor in module.state_dict().items() if tensor.shape != other[name].shape}


def layout(spec: Spec, model: nn.Module, task: Shaped, device: torch.device) -> Layout:
    """The layout chosen by the first attempt, kept for the next, since another one gives other numbers.

    advanced_settings `precision` ("fp32", "bf16", "fp16") fixes the number type. Raises TrainingError for
    another value. With `fast_path` false nothing is chosen: fp32, contiguous. Nothing is measured for a task
    whose batches have no one shape.
    """
    if not spec.fast_path:
        return PLAIN
    kept = spec.state_dir / "layout.json"
    if spec.attempt >= 2 and kept.exists():
        facts = json.loads(kept.read_text(encoding="utf-8"))
        found = Layout.of(facts)
        if found is not None and facts.get("device") == device.type:
            return found
    row = spec.model
    # Hugging Face's architectures are families: one name for networks of every size.
    key = row.name if row.builder == HUGGINGFACE else row.architecture
    asked = spec.advanced.get("precision", "auto")
    usual = devices.fixed_layout(device, key)
    if asked in NUMBER_TYPES:
        chosen = Layout(usual.channels_last, asked)
    elif asked == "auto" and not task.manner.compilable:
        chosen = usual if task.manner.mixed else Layout(usual.channels_last)
    elif asked == "auto":
        seeded = spec.parameters["random_seed"] is not None
        chosen = devices.layout(model, key, task.input_shape, device, spec.cache_dir, seeded=seeded)
    else:
        raise TrainingError(
            f"advanced_settings precision is {asked!r}; it must be auto, {', '.join(NUMBER_TYPES)}"
        )
    if distributed.current().rank == 0:
        files.write_json(kept, {"device": device.type, **chosen.facts()})
    return chosen
