"""One network at one batch size: all its contestants, and the row they make."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from amlocal.trainers import device as devices
from amlocal.trainers import spec as specs
from amlocal.trainers.bench import ours, scenes, second_trial
from amlocal.trainers.bench.arguments import Order, Subject
from amlocal.trainers.bench.loops import FP32, SAME, Loop, classifiers, detectors, yolo
from amlocal.trainers.bench.measuring import Contestant, Rate, compare
from amlocal.trainers.bench.pictures import Pictures
from amlocal.trainers.bench.results import Row, expected

_RESIZE = 256 / 224
_LONGER = 1333 / 600
"""Longer side by shorter side, at most (Azure's defaults)."""
_FIRST_SECONDS = 0.5


def measure(
    wanted: Order,
    subject: Subject,
    found: Pictures,
    folder: Path,
    device: torch.device,
    warm: second_trial.WarmParent | None,
    tell: Callable[[str], None],
) -> Row:
    """Measure one network. Raises TrainingError."""
    folder.mkdir(parents=True)
    several = None
    if subject.builder != "timm":
        several = [scenes.annotations(number) for number in range(len(found.paths))]
    manifests = found.write_manifests(folder, several)

    def spec_file(name: str, *, seeded: bool) -> Path:
        parameters = _parameters(wanted, subject, seeded=seeded)
        return _write_spec(folder, name, subject, parameters, manifests)

    # A seed keeps torch.compile out: its gain would hide what is compared here.
    spec = specs.load(spec_file("measured", seeded=True))
    torch.backends.cudnn.benchmark = True
    decode = ours.decode_seconds(spec, folder / "decoded")
    session = ours.Session(spec, device)
    with contextlib.ExitStack() as stack:
        loops = _loops(session, subject, found, folder, stack)
        contestants: list[Contestant] = [
            ours.EndToEnd(session),
            ours.ModelOnly(session),
            ours.DataOnly(session),
            *loops,
        ]
        compare(contestants, 1, min(_FIRST_SECONDS, wanted.seconds))
        rates = compare(contestants, wanted.rounds, wanted.seconds, tell)
    start = None
    if warm is not None:
        tell("second trials")
        start = second_trial.median(warm, lambda n: spec_file(f"trial-{n}", seeded=False))
    return _row(session, subject, wanted.model_size, found, rates, loops, decode, start)


def _parameters(wanted: Order, subject: Subject, *, seeded: bool) -> dict[str, Any]:
    side = subject.image_size
    sizes = {
        "timm": {
            "training_crop_size": side,
            "validation_crop_size": side,
            "validation_resize_size": round(side * _RESIZE),
        },
        "torchvision": {"min_size": side, "max_size": round(side * _LONGER)},
        "yolo": {"image_size": side, "model_size": wanted.model_size},
    }
    return {
        "model_name": subject.model,
        "number_of_epochs": 1,
        "training_batch_size": subject.batch,
        **sizes[subject.builder],
        # Too small to make a network of random weights explode on noise.
        "learning_rate": 1e-5,
        "random_seed": 1 if seeded else None,
    }


def _write_spec(
    folder: Path, name: str, subject: Subject, parameters: dict[str, Any], manifests: tuple[Path, Path]
) -> Path:
    """The spec of a trial. Its image cache is beside `folder`, for all networks."""
    spec = {
        "schema": 1,
        "run_id": name,
        "task": subject.task,
        "primary_metric": "accuracy" if subject.builder == "timm" else "mean_average_precision",
        "parameters": parameters,
        "advanced_settings": {"pretrained": False},
        "train_manifest": str(manifests[0]),
        "validation_manifest": str(manifests[1]),
        "artifacts_dir": str(folder / name / "artifacts"),
        "state_dir": str(folder / name / "state"),
        "cache_dir": str(folder.parent / "cache"),
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    return path


def _loops(
    session: ours.Session,
    subject: Subject,
    found: Pictures,
    folder: Path,
    stack: contextlib.ExitStack,
) -> Sequence[Loop]:
    if subject.builder == "timm":
        return classifiers(session, found, subject.batch)
    if subject.builder == "torchvision":
        return detectors(session, found, subject.batch)
    return [stack.enter_context(one) for one in yolo(session, found, subject.batch, folder)]


@dataclass(frozen=True)
class _Beside:
    """The fastest of the loops that are computed alike, and how many processes it had for its data."""

    rate: Rate
    workers: int


def _fastest(kind: str, loops: Sequence[Loop], rates: Mapping[str, Rate]) -> _Beside | None:
    found = [_Beside(rates[loop.name], loop.workers) for loop in loops if loop.name.startswith(kind)]
    return max(found, key=lambda one: one.rate.median, default=None)


def _row(
    session: ours.Session,
    subject: Subject,
    model_size: str,
    found: Pictures,
    rates: Mapping[str, Rate],
    loops: Sequence[Loop],
    decode: float,
    start: second_trial.Start | None,
) -> Row:
    end_to_end, model_only = rates[ours.EndToEnd.name], rates[ours.ModelOnly.name]
    augment = 1.0 / rates[ours.DataOnly.name].median
    fp32 = _fastest(FP32, loops, rates)
    assert fp32 is not None
    # Where nothing else is computed as ours, and ours is in fp32 too, that is the same.
    same = _fastest(SAME, loops, rates) or (fp32 if session.layout.number_type == "fp32" else None)
    # Beside a GPU the data are prepared while it computes; there the two do not add up.
    bound = expected(model_only.median, augment) if session.device.type == "cpu" else None
    return Row(
        device=_device_name(session.device),
        torch=torch.__version__,
        model=f"{subject.model} {model_size}" if subject.builder == "yolo" else subject.model,
        batch=subject.batch,
        image_size=subject.image_size,
        dtype=session.layout.number_type,
        layout="channels_last" if session.layout.channels_last else "contiguous",
        threads=devices.compute_threads(),
        images=found.source,
        end_to_end_per_s=end_to_end.median,
        model_only_per_s=model_only.median,
        decode_ms=decode * 1000,
        augment_ms=augment * 1000,
        expected_per_s=bound,
        plain_fp32_per_s=fp32.rate.median,
        plain_fp32_workers=fp32.workers,
        plain_same_dtype_per_s=same.rate.median if same else None,
        plain_same_dtype_workers=same.workers if same else None,
        end_to_end_by_model_only=end_to_end.median / model_only.median,
        end_to_end_by_expected=end_to_end.median / bound if bound else None,
        end_to_end_by_plain_fp32=end_to_end.median / fp32.rate.median,
        end_to_end_by_plain_same_dtype=end_to_end.median / same.rate.median if same else None,
        largest_spread=max(rate.spread for rate in rates.values()),
        second_trial_first_batch_s=start.first_batch if start else None,
        second_trial_first_step_s=start.first_step if start else None,
        task=subject.task,
        plain=subject.builder,
        spread_by_model_only=end_to_end.ratio_spread(model_only),
        spread_by_plain_fp32=end_to_end.ratio_spread(fp32.rate),
        spread_by_plain_same_dtype=end_to_end.ratio_spread(same.rate) if same else None,
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()
