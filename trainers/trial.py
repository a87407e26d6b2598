"""One trial from its spec to its model: data, network, loop, artifacts, result.json."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from amlocal.trainers import beginning, distributed, files, heartbeat, registry
from amlocal.trainers import device as devices
from amlocal.trainers.checkpoints import Checkpoints, plain
from amlocal.trainers.export import mlflow_model, scoring_script
from amlocal.trainers.layouts import Layout
from amlocal.trainers.loop import Fit, Loop
from amlocal.trainers.metric_log import Metric, MetricLog
from amlocal.trainers.models.detector import Detector
from amlocal.trainers.models.network import Building, Network
from amlocal.trainers.progress import duration, final, header, say, set_level, warn
from amlocal.trainers.shipping import Shipper
from amlocal.trainers.spec import Spec
from amlocal.trainers.termination import CHECKPOINTS, Terminated, asked, heeded

_SHIPPING_SECONDS = 10.0
_RESULT = "result.json"
MODEL_FOLDER = "outputs/mlflow-model"


def run(spec: Spec) -> Shipper:
    """Train, or go on where an earlier attempt was killed; writes every output of the trial. One that a
    policy or a time limit ends writes the model of its best epoch and no more.

    Every process of a trial calls it; rank 0 alone writes. Returns the shipper, closed; it may still be busy
    with a server that does not answer. Raises TrainingError.
    """
    with heartbeat.beating(spec.state_dir), heeded(spec.state_dir):
        return _run(spec)


def _run(spec: Spec) -> Shipper:
    started = time.monotonic()
    first = distributed.current().rank == 0
    if first:
        set_level(spec.log_verbosity)
    for notice in (*spec.notices, *(f"{key} is no parameter of this task; ignored" for key in spec.ignored)):
        warn(notice)
    checkpoints = Checkpoints(spec.state_dir / CHECKPOINTS)
    if spec.attempt >= 2 and (spec.state_dir / _RESULT).exists():
        say("an earlier attempt finished this trial; there is nothing left to do")
        return Shipper(None)
    if first and spec.attempt < 2:
        (spec.state_dir / _RESULT).unlink(missing_ok=True)
        checkpoints.clear()
    distributed.barrier()
    resume = checkpoints.latest() if spec.attempt >= 2 else None
    device = devices.choose()
    start = beginning.pretrained(spec, resume)
    seed = beginning.seed(spec)
    log = MetricLog(spec.state_dir / "metrics.jsonl", fresh=resume is None) if first else None
    shipper = Shipper.from_environment() if first else Shipper(None)
    task = registry.task(spec.task)(spec, seed)
    torch.manual_seed(seed)
    building = beginning.building(spec, start)
    network, origin = beginning.network(spec, task.labels, building, start, resume)
    layout = beginning.layout(spec, network.module, task, device)
    model = network.module.to(memory_format=layout.memory_format).to(device)
    task.place(device, layout, network)
    _tell(spec, task, network, device, layout, origin, seed)

    def record(metrics: list[Metric]) -> None:
        if log is not None:
            shipper.put(log.append(metrics))

    loop = Loop(
        task,
        model,
        spec.parameters,
        primary_metric=spec.primary_metric,
        gradient_clip=spec.model.gradient_clip,
        device=device,
        layout=layout,
        fast=spec.fast_path,
        checkpoints=checkpoints,
        record=record,
        keep=lambda epoch, trained: _keep(spec, epoch, trained),
    )
    ended = ""
    try:
        fit = loop.fit(resume)
        _finish(spec, task, network, building, fit)
    except Terminated as reason:
        fit, ended = loop.so_far(), f"ended early: {reason}; "
        _keep_best(spec, task, network, building, fit, str(reason))
    if first:
        checkpoints.clear()
    if not shipper.close(_SHIPPING_SECONDS):
        warn("some metrics were not taken by MLflow yet; they stand in metrics.jsonl and are replayed")
    final(
        f"{ended}best epoch {fit.best_epoch + 1} of {fit.epochs}, {spec.primary_metric} {fit.score:.4f}; "
        f"the model is in {MODEL_FOLDER}; {duration(time.monotonic() - started)} in all"
    )
    return shipper


def _tell(
    spec: Spec, task: Any, network: Network, device: torch.device, layout: Layout, origin: str, seed: int
) -> None:
    p = spec.parameters
    row = spec.model
    size = f", {row.parameters} M parameters" if row.parameters else ""
    if isinstance(network.module, Detector):
        # A row knows one of several sizes only.
        size = f", {sum(weight.numel() for weight in network.module.parameters()) / 1e6:.1f} M parameters"
    tiles = f" ({task.train_images} with tiles)" if task.train_images != task.train_files else ""
    header(
        f"{spec.run_id}: {spec.task}",
        {
            "model": f"{row.name} ({row.architecture}){size}",
            "start": origin,
            "device": devices.describe(device),
            "layout": layout,
            "images": f"{task.train_files} training{tiles}, {task.validation_images} validation",
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


def _finish(spec: Spec, task: Any, network: Network, building: Building, fit: Fit) -> None:
    tensors = load_file(fit.best)
    network.module.load_state_dict(tensors)
    # Every process knows the best epoch's evaluation, or none does: they resumed from the same checkpoint.
    evaluation = fit.evaluation or task.evaluate(network.module)
    if distributed.current().rank == 0:
        _write_model(spec, task, network, building, tensors)
        heartbeat.beat("drawing charts")
        evaluation.write_charts(spec.artifacts_dir)
        heartbeat.beat("writing the ONNX file")
        onnx = None if asked() else task.write_onnx(network, spec.artifacts_dir)
        _write_result(spec, task, fit, onnx, asked())
    distributed.barrier()


def _keep_best(
    spec: Spec, task: Any, network: Network, building: Building, fit: Fit, terminated: str
) -> None:
    """The model and the result alone: who ends a trial early does not wait long."""
    if distributed.current().rank == 0:
        _write_model(spec, task, network, building, load_file(fit.best))
        _write_result(spec, task, fit, None, terminated)
    distributed.barrier()


def _write_model(
    spec: Spec, task: Any, network: Network, building: Building, tensors: dict[str, torch.Tensor]
) -> None:
    heartbeat.beat("writing the model")
    _save_state_dict(spec.artifacts_dir / "outputs" / "model.pt", tensors)
    mlflow_model.write(
        spec.artifacts_dir / MODEL_FOLDER,
        tensors,
        task=spec.task,
        model_name=spec.model.name,
        architecture=spec.model.architecture,
        builder=spec.model.builder,
        labels=task.labels,
        settings=task.settings(),
        run_id=spec.run_id,
        facts=network.facts,
        building=building,
    )
    scoring_script.write(spec.artifacts_dir / MODEL_FOLDER)


def _write_result(spec: Spec, task: Any, fit: Fit, onnx: str | None, terminated: str | None) -> None:
    result = {
        "primary_metric": spec.primary_metric,
        "score": fit.score,
        "best_epoch": fit.best_epoch,
        "model_name": spec.model.name,
        "epochs": fit.epochs,
        "train_images": task.train_files,
        "validation_images": task.validation_images,
        "labels": task.labels,
        "artifacts": {"mlflow_model": MODEL_FOLDER, "onnx": onnx},
        **({} if terminated is None else {"terminated": terminated}),
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
