"""Which memory layout and number type are fastest for one network on one device.

Found by a probe of about two seconds, which times training steps in fp32 and bf16 (fp16 on a GPU that lacks
bf16), each contiguous and channels_last. Its answer is kept per network, shape and machine in the cache
folder. A probe measures time, and time is not repeatable; so when random_seed is given nothing is measured
and a fixed rule decides, and two runs on one machine give the same numbers.
"""

from __future__ import annotations

import copy
import json
import platform
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amlocal.trainers import distributed, files
from amlocal.trainers.progress import debug, say

NUMBER_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PROBE_SECONDS = 2.0
_PROBE_BATCH = {"cpu": 8, "cuda": 64}
_FIRST_BATCH = 2
_STEPS = 3
_WORTHWHILE = 0.9
"""Another layout than the usual one must need at most this share of its time."""
_CONTIGUOUS = ("resnest",)
"""Families that channels_last slows down: their split attention mixes channels in reshapes."""


@dataclass(frozen=True)
class Layout:
    """How activations lie in memory, and in which type ("fp32", "bf16" or "fp16") they are computed."""

    channels_last: bool
    number_type: str = "fp32"

    def __post_init__(self) -> None:
        if self.number_type not in NUMBER_TYPES:
            raise ValueError(
                f"number_type is {self.number_type!r}; it must be one of {', '.join(NUMBER_TYPES)}"
            )

    def __str__(self) -> str:
        return f"{'channels_last' if self.channels_last else 'contiguous'}, {self.number_type}"

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Layout | None:
        """What `facts` once was; None when these are no such facts."""
        known = facts.get("number_type") in NUMBER_TYPES and isinstance(facts.get("channels_last"), bool)
        return cls(facts["channels_last"], facts["number_type"]) if known else None

    def facts(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The number type for the operations that bear it; master weights and optimizer stay fp32."""
        if self.number_type == "fp32":
            return nullcontext()
        return torch.autocast(device.type, dtype=NUMBER_TYPES[self.number_type])

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Keeps small gradients from vanishing in fp16; does nothing for the other types."""
        return torch.amp.GradScaler(device.type, enabled=self.number_type == "fp16")


PLAIN = Layout(channels_last=False)
"""That of an ordinary PyTorch loop."""


def fixed_layout(device: torch.device, key: str = "") -> Layout:
    """The layout that needs no measuring: fp32 on CPUs, since every CPU has it, else the GPU's short type.

    `key` names the network.
    """
    channels_last = not key.startswith(_CONTIGUOUS)
    return Layout(channels_last, _short_type(device) if device.type == "cuda" else "fp32")


def _short_type(device: torch.device) -> str:
    if device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp16"


def layout(
    model: nn.Module,
    key: str,
    shape: tuple[int, int, int, int],
    device: torch.device,
    cache_dir: Path,
    *,
    seeded: bool,
) -> Layout:
    """The layout to train `model` with on batches of `shape`; `key` names the network. Of several processes
    rank 0 decides."""
    if seeded:
        return fixed_layout(device, key)
    candidates = _candidates(device, key)
    mine = 0
    if distributed.current().rank == 0:
        mine = candidates.index(_remembered(model, key, shape, device, cache_dir, candidates))
    return candidates[int(distributed.first(mine))]


def _candidates(device: torch.device, key: str) -> list[Layout]:
    """The usual one first."""
    usual = not key.startswith(_CONTIGUOUS)
    short = _short_type(device)
    return [Layout(order, kind) for kind in ("fp32", short) for order in (usual, not usual)]


def _remembered(
    model: nn.Module,
    key: str,
    shape: tuple[int, int, int, int],
    device: torch.device,
    cache_dir: Path,
    candidates: list[Layout],
) -> Layout:
    # Batch normalisation cannot train on one image.
    batch = (max(_FIRST_BATCH, min(shape[0], _PROBE_BATCH.get(device.type, 8))), *shape[1:])
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    facts = json.dumps([key, batch, device.type, machine, torch.get_num_threads(), torch.__version__])
    kept = cache_dir / "layouts" / f"{sha256(facts.encode()).hexdigest()[:32]}.json"
    try:
        found = Layout.of(json.loads(kept.read_text(encoding="utf-8")))
        if found in candidates:
            debug(f"layout: {found}, as measured before ({kept.name})")
            return found
    except (OSError, ValueError, AttributeError):
        pass
    chosen = _probe(model, batch, device, candidates)
    files.write_json(kept, {**chosen.facts(), "of": json.loads(facts)})
    return chosen


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _probe(
    model: nn.Module, batch: tuple[int, int, int, int], device: torch.device, candidates: list[Layout]
) -> Layout:
    """The fastest of the candidates; the first one when measuring them all would take too long."""
    usual = candidates[0]
    cpu, cuda = torch.get_rng_state(), _cuda_random(device)
    try:
        first = (_FIRST_BATCH, *batch[1:])
        once = min(_seconds(model, first, device, usual, 2))
        images = round(first[0] * _PROBE_SECONDS / (once * len(candidates) * _STEPS))
        if images < first[0]:
            say(f"layout probe: {usual}, unmeasured, since a step takes too long ({once:.1f} s)")
            return usual
        batch = (min(images, batch[0]), *batch[1:])
        seconds = {usual: min(_seconds(model, batch, device, usual, _STEPS))}
        for candidate in candidates[1:]:
            try:
                seconds[candidate] = min(_seconds(model, batch, device, candidate, _STEPS))
            except (RuntimeError, NotImplementedError) as error:
                debug(f"layout probe: {candidate} is not possible: {str(error).splitlines()[0]}")
    except torch.OutOfMemoryError:
        return usual
    finally:
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
    say("layout probe: " + "; ".join(f"{la} {batch[0] / s:.0f} images/s" for la, s in seconds.items()))
    return best(seconds, usual)


def best(seconds: Mapping[Layout, float], usual: Layout) -> Layout:
    """The one that takes the fewest seconds, unless it gains too little over the usual one."""
    fastest = min(seconds, key=lambda layout: seconds[layout])
    return fastest if seconds[fastest] <= seconds[usual] * _WORTHWHILE else usual


def _cuda_random(device: torch.device) -> Tensor | None:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _seconds(
    model: nn.Module, batch: tuple[int, int, int, int], device: torch.device, candidate: Layout, steps: int
) -> list[float]:
    """What each of `steps` training steps of a copy of the network takes, the first (with the making of
    kernels) left out if there is another."""
    probe = copy.deepcopy(model).to(memory_format=candidate.memory_format).to(device).train()
    images = torch.randn(batch, device=device).to(memory_format=candidate.memory_format)
    found = []
    for _ in range(steps):
        start = time.monotonic()
        with candidate.autocast(device):
            outputs = probe(images)
        outputs.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(max(time.monotonic() - start, 1e-9))
    return found[1:] or found
