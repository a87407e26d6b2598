"""One trial from its spec to its model: data, network, loop, artifacts, result.json."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from amlocal.trainers import device as devices
from amlocal.trainers import files, registry
from amlocal.trainers.checkpoints import Checkpoint, Checkpoints, plain
from amlocal.trainers.export import mlflow_model
from amlocal.trainers.loop import Fit, Loop
from amlocal.trainers.metric_log import Metric, MetricLog
from amlocal.trainers.models import weights
from amlocal.trainers.models.timm import Network, freeze
from amlocal.trainers.progress import duration, header, say, warn
from amlocal.trainers.shipping import Shipper
from amlocal.trainers.spec import Spec

_SHIPPING_SECONDS = 10.0
_RESULT = "result.json"
MODEL_FOLDER = "outputs/mlflow-model"


def run(spec: Spec) -> Shipper:
    """Train, or go on where an earlier attempt was killed; writes every output of the trial.

    Returns the shipper, closed; it may still be busy with a server that does not answer. Raises
    TrainingError.
    """
    started = time.monotonic()
    for notice in spec.notices:
        warn(notice)
    checkpoints = Checkpoints(spec.state_dir / "checkpoint")
    if spec.attempt < 2:
        (spec.state_dir / _RESULT).unlink(missing_ok=True)
        checkpoints.clear()
    elif (spec.state_dir / _RESULT).exists():
        say("an earlier attempt finished this trial; there is nothing left to do")
        return Shipper(None)
    resume = checkpoints.latest() if spec.attempt >= 2 else None
    device = devices.choose()
    start_weights = _start_weights(spec, resume)
    seed = _seed(spec)
    log = MetricLog(spec.state_dir / "metrics.jsonl", fresh=resume is None)
    shipper = Shipper.from_environment()
    task = registry.task(spec.task)(spec, seed)
    torch.manual_seed(seed)
    network: Network = registry.builder(spec.model.builder)(spec.model, task.classes, start_weights)
    layout = _layout(spec, network.module, task, device)
    model = network.module.to(memory_format=layout.memory_format).to(device)
    task.place(device, layout, network.mean, network.std)
    _freeze(spec, network)
    _tell(spec, task, device, layout, start_weights, resume, seed)

    def record(metrics: list[Metric]) -> None:
        shipper.put(log.append(metrics))

    loop = Loop(
        task,
        model,
        spec.parameters,
        primary_metric=spec.primary_metric,
        gradient_clip=spec.model.gradient_clip,
        device=device,
        layout=layout,
        checkpoints=checkpoints,
        record=record,
        keep=lambda epoch, trained: _keep(spec, epoch, trained),
    )
    fit = loop.fit(resume)
    _finish(spec, task, model, fit)
    checkpoints.clear()
    if not shipper.close(_SHIPPING_SECONDS):
        warn("some metrics were not taken by MLflow yet; they stand in metrics.jsonl and are replayed")
    say(
        f"best epoch {fit.best_epoch + 1} of {fit.epochs}, {spec.primary_metric} {fit.score:.4f}; "
        f"the model is in {MODEL_FOLDER}; {duration(time.monotonic() - started)} in all"
    )
    return shipper


def _start_weights(spec: Spec, resume: Checkpoint | None) -> Path | None:
    if resume is not None or not spec.pretrained:
        return None
    return weights.obtain(spec.model, spec.weights_dir, spec.missing_weights)


def _seed(spec: Spec) -> int:
    """random_seed, or a seed drawn once per trial and kept, so that a resumed trial splits its data alike."""
    given = spec.parameters["random_seed"]
    kept = spec.state_dir / "seed.json"
    if given is not None:
        torch.backends.cudnn.deterministic = True
        return int(given)
    if spec.attempt >= 2 and kept.exists():
        return int(json.loads(kept.read_text(encoding="utf-8"))["seed"])
    torch.backends.cudnn.benchmark = True
    seed = int.from_bytes(os.urandom(4), "little")
    files.write_json(kept, {"seed": seed})
    return seed


def _layout(spec: Spec, model: nn.Module, task: Any, device: torch.device) -> devices.Layout:
    """The layout chosen by the first attempt, kept for the next, since another one gives other numbers."""
    kept = spec.state_dir / "layout.json"
    if spec.attempt >= 2 and kept.exists():
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["device"] == device.type:
            return devices.Layout(found["channels_last"], found["bf16"])
    seeded = spec.parameters["random_seed"] is not None
    layout = devices.layout(
        model, spec.model.architecture, task.input_shape, device, spec.cache_dir, seeded=seeded
    )
    facts = {"device": device.type, "channels_last": layout.channels_last, "bf16": layout.bf16}
    files.write_json(kept, facts)
    return layout


def _freeze(spec: Spec, network: Network) -> None:
    wanted = spec.parameters["layers_to_freeze"]
    frozen = freeze(network, wanted)
    if wanted is not None and wanted > frozen:
        warn(
            f"layers_to_freeze is {wanted}, but {spec.model.name} has {frozen} stages; all of them are frozen"
        )


def _tell(
    spec: Spec,
    task: Any,
    device: torch.device,
    layout: devices.Layout,
    start: Path | None,
    resume: Checkpoint | None,
    seed: int,
) -> None:
    p = spec.parameters
    origin = str(start) if start is not None else "random weights"
    header(
        f"{spec.run_id}: {spec.task}",
        {
            "model": f"{spec.model.name} ({spec.model.architecture}), {spec.model.parameters} M parameters",
            "start": f"checkpoint of epoch {resume.epoch + 1}, attempt {spec.attempt}" if resume else origin,
            "device": devices.describe(device),
            "layout": layout,
            "images": f"{task.train_images} training, {task.validation_images} validation",
            "classes": f"{task.classes}: {_some(task.labels)}",
            "epochs": f"{p['number_of_epochs']}, batches of {p['training_batch_size']}",
            "optimizer": f"{p['optimizer']}, learning rate {p['learning_rate']}",
            "schedule": p["learning_rate_scheduler"],
            "seed": f"{seed}" if p["random_seed"] is not None else f"{seed}, drawn",
        },
    )


def _some(labels: list[str], most: int = 12) -> str:
    return ", ".join(labels[:most]) + (f", ... {len(labels) - most} more" if len(labels) > most else "")


def _keep(spec: Spec, epoch: int, model: nn.Module) -> None:
    every = spec.parameters["checkpoint_frequency"]
    if every is not None and (epoch + 1) % every == 0:
        _save_state_dict(spec.artifacts_dir / "train_artifacts" / f"{epoch}_model.pt", plain(model))


def _finish(spec: Spec, task: Any, model: nn.Module, fit: Fit) -> None:
    tensors = load_file(fit.best)
    model.load_state_dict(tensors)
    task.evaluate(model).write_charts(spec.artifacts_dir)
    _save_state_dict(spec.artifacts_dir / "outputs" / "model.pt", tensors)
    mlflow_model.write(
        spec.artifacts_dir / MODEL_FOLDER,
        tensors,
        task=spec.task,
        model_name=spec.model.name,
        architecture=spec.model.architecture,
        labels=task.labels,
        settings=task.settings(),
        run_id=spec.run_id,
    )
    result = {
        "primary_metric": spec.primary_metric,
        "score": fit.score,
        "best_epoch": fit.best_epoch,
        "model_name": spec.model.name,
        "epochs": fit.epochs,
        "train_images": task.train_images,
        "validation_images": task.validation_images,
        "labels": task.labels,
        "artifacts": {"mlflow_model": MODEL_FOLDER},
    }
    files.write_json(spec.state_dir / _RESULT, result)


def _save_state_dict(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(tensors, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    files.sync_folder(path.parent)
