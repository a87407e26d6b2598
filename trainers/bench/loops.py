"""The loops to compare with, by who builds the network: what people write for timm's, what torchvision's
documentation shows for its detectors, ultralytics' own trainer for yolov5."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from amlocal.trainers import device as devices
from amlocal.trainers.bench import ours, plain, reference, scenes
from amlocal.trainers.bench.measuring import Contestant
from amlocal.trainers.bench.pictures import Pictures
from amlocal.trainers.bench.ultralytics_loop import Orders, Ultralytics
from amlocal.trainers.layouts import PLAIN, Layout
from amlocal.trainers.models.yolo import SCALES

FP32 = "plain fp32"
SAME = "plain same"
"""How the names of loops begin: computed in contiguous fp32, and computed as ours."""


class Loop(Contestant, Protocol):
    """`workers`: processes that prepare its data, 0 = its own."""

    workers: int


def classifiers(session: ours.Session, found: Pictures, batch: int) -> list[Loop]:
    """Loops for a network of timm."""
    spec, network = session.spec, session.network
    size = spec.parameters["training_crop_size"]
    options: dict[str, Any] = {} if network.image_size is None else {"img_size": network.image_size}
    files = plain.Files(found.paths, found.targets, size, network.mean, network.std)
    return [
        plain.Plain(
            name,
            spec.model.architecture,
            options,
            files,
            classes=found.classes,
            batch=batch,
            workers=workers,
            device=session.device,
            layout=layout,
        )
        for name, workers, layout in _each(((FP32, PLAIN), (SAME, session.layout)))
    ]


def detectors(session: ours.Session, found: Pictures, batch: int) -> list[Loop]:
    """Loops for a detector of torchvision."""
    spec = session.spec
    name = spec.model.architecture
    first = 0 if name.startswith("retinanet") else 1
    files = reference.Files(found.paths, first=first, masks=name.startswith("maskrcnn"))
    sides = spec.parameters["min_size"], spec.parameters["max_size"]
    kinds = [(FP32, PLAIN), *([(SAME, session.layout)] if session.layout != PLAIN else [])]
    return [
        reference.Reference(
            called,
            reference.network(name, session.task.classes, sides),
            files,
            batch=batch,
            workers=workers,
            device=session.device,
            layout=layout,
        )
        for called, workers, layout in _each(kinds)
    ]


def yolo(session: ours.Session, found: Pictures, batch: int, folder: Path) -> list[Ultralytics]:
    """ultralytics' trainer in fp32, and in bf16 where ours is; what its fp16 needs it would download. Memory
    lies as it sees fit."""
    spec = session.spec
    data = scenes.write_yolo(found.paths, folder / "yolo")
    kinds = {FP32: "fp32"} | ({SAME: "bf16"} if session.layout.number_type == "bf16" else {})
    return [
        Ultralytics(
            name,
            Orders(
                data=str(data),
                scale=SCALES[spec.parameters["model_size"]],
                image_size=spec.parameters["image_size"],
                batch=batch,
                threads=devices.compute_threads(),
                device=session.device.type,
                precision=precision,
            ),
        )
        for name, precision in kinds.items()
    ]


def _each(kinds: Sequence[tuple[str, Layout]]) -> Iterable[tuple[str, int, Layout]]:
    for name, layout in kinds:
        for workers in plain.worker_counts(devices.cpu_threads()):
            yield f"{name}, {workers} workers", workers, layout
