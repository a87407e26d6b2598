"""One network at one batch size: all its contestants, and the row they make."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from amlocal.trainers import device as devices
from amlocal.trainers import spec as specs
from amlocal.trainers.bench import ours, plain, second_trial
from amlocal.trainers.bench.arguments import TASK, Order
from amlocal.trainers.bench.measuring import Contestant, Rate, compare
from amlocal.trainers.bench.pictures import Pictures
from amlocal.trainers.bench.results import Row, expected
from amlocal.trainers.layouts import Layout

_RESIZE = 256 / 224
_FIRST_SECONDS = 0.5
_FP32 = "plain fp32"
_SAME = "plain same"


def measure(
    wanted: Order,
    model: str,
    batch: int,
    found: Pictures,
    folder: Path,
    device: torch.device,
    warm: second_trial.WarmParent | None,
    tell: Callable[[str], None],
) -> Row:
    """Measure one network. Raises TrainingError."""
    folder.mkdir(parents=True)
    manifests = found.write_manifests(folder)

    def spec_file(name: str, *, seeded: bool) -> Path:
        parameters = _parameters(wanted, model, batch, seeded=seeded)
        return _write_spec(folder, name, parameters, manifests)

    # A seed keeps torch.compile out: its gain would hide what is compared here.
    spec = specs.load(spec_file("measured", seeded=True))
    torch.backends.cudnn.benchmark = True
    decode = ours.decode_seconds(spec, folder / "decoded")
    session = ours.Session(spec, device)
    loops = _plain_loops(session, found, batch)
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
    return _row(session, found, batch, rates, loops, decode, start)


def _parameters(wanted: Order, model: str, batch: int, *, seeded: bool) -> dict[str, Any]:
    return {
        "model_name": model,
        "number_of_epochs": 1,
        "training_batch_size": batch,
        "training_crop_size": wanted.image_size,
        "validation_crop_size": wanted.image_size,
        "validation_resize_size": round(wanted.image_size * _RESIZE),
        # Too small to make a network of random weights explode on noise.
        "learning_rate": 1e-5,
        "random_seed": 1 if seeded else None,
    }


def _write_spec(folder: Path, name: str, parameters: dict[str, Any], manifests: tuple[Path, Path]) -> Path:
    """The spec of a trial. Its image cache is beside `folder`, for all networks."""
    spec = {
        "schema": 1,
        "run_id": name,
        "task": TASK,
        "primary_metric": "accuracy",
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


def _plain_loops(session: ours.Session, found: Pictures, batch: int) -> list[plain.Plain]:
    spec, network = session.spec, session.network
    size = spec.parameters["training_crop_size"]
    options: dict[str, Any] = {} if network.image_size is None else {"img_size": network.image_size}
    files = plain.Files(found.paths, found.targets, size, network.mean, network.std)
    return [
        plain.Plain(
            f"{name}, {workers} workers",
            spec.model.architecture,
            options,
            files,
            classes=found.classes,
            batch=batch,
            workers=workers,
            device=session.device,
            layout=layout,
        )
        for name, layout in ((_FP32, Layout(channels_last=False)), (_SAME, session.layout))
        for workers in plain.worker_counts(devices.cpu_threads())
    ]


def _row(
    session: ours.Session,
    found: Pictures,
    batch: int,
    rates: Mapping[str, Rate],
    loops: list[plain.Plain],
    decode: float,
    start: second_trial.Start | None,
) -> Row:
    def fastest(name: str) -> tuple[float, int]:
        return max((rates[loop.name].median, loop.workers) for loop in loops if loop.name.startswith(name))

    end_to_end = rates[ours.EndToEnd.name].median
    model_only = rates[ours.ModelOnly.name].median
    augment = 1.0 / rates[ours.DataOnly.name].median
    plain_fp32, fp32_workers = fastest(_FP32)
    plain_same, same_workers = fastest(_SAME)
    # Beside a GPU the data are prepared while it computes; there the two do not add up.
    bound = expected(model_only, augment) if session.device.type == "cpu" else None
    return Row(
        device=_device_name(session.device),
        torch=torch.__version__,
        model=session.spec.model.name,
        batch=batch,
        image_size=session.spec.parameters["training_crop_size"],
        dtype=session.layout.number_type,
        layout="channels_last" if session.layout.channels_last else "contiguous",
        threads=devices.cpu_threads(),
        images=found.source,
        end_to_end_per_s=end_to_end,
        model_only_per_s=model_only,
        decode_ms=decode * 1000,
        augment_ms=augment * 1000,
        expected_per_s=bound,
        plain_fp32_per_s=plain_fp32,
        plain_fp32_workers=fp32_workers,
        plain_same_dtype_per_s=plain_same,
        plain_same_dtype_workers=same_workers,
        end_to_end_by_model_only=end_to_end / model_only,
        end_to_end_by_expected=None if bound is None else end_to_end / bound,
        end_to_end_by_plain_fp32=end_to_end / plain_fp32,
        end_to_end_by_plain_same_dtype=end_to_end / plain_same,
        largest_spread=max(rate.spread for rate in rates.values()),
        second_trial_first_batch_s=start.first_batch if start else None,
        second_trial_first_step_s=start.first_step if start else None,
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()
