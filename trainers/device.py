"""Which device, and which memory layout and number type are fastest on it for one network.

The layout is found by a probe of about two seconds: a training step in fp32, in fp32 with channels_last, and
in bf16 with channels_last. Its answer is kept per network, shape and machine in the cache folder. A probe
measures time, and time is not repeatable; so when random_seed is given nothing is measured and a fixed rule
decides, and two runs on one machine give the same numbers.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn

from amlocal.trainers import files
from amlocal.trainers.progress import say, warn

_PROBE_SECONDS = 2.0
_PROBE_BATCH = 8
_WORTHWHILE = 0.9
"""Another layout than fp32 with channels_last must need at most this share of its time."""


@dataclass(frozen=True)
class Layout:
    """How activations lie in memory and in which type they are computed."""

    channels_last: bool
    bf16: bool

    def __str__(self) -> str:
        return f"{'channels_last' if self.channels_last else 'contiguous'}, {'bf16' if self.bf16 else 'fp32'}"

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """bf16 where chosen; master weights and optimizer stay fp32."""
        return torch.autocast(device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()


def cpu_threads() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose() -> torch.device:
    """CUDA when a kernel really runs there, else the CPU with all its threads; says why."""
    torch.set_num_threads(cpu_threads())
    if torch.cuda.is_available():
        try:
            torch.ones(8, device="cuda").sum().item()
            return torch.device("cuda")
        except RuntimeError as error:
            warn(f"PyTorch cannot use the GPU found ({str(error).splitlines()[0]}); training on the CPU")
    return torch.device("cpu")


def describe(device: torch.device) -> str:
    """For the log: the GPU's name and memory, or the number of CPU threads."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
    return f"CPU, {torch.get_num_threads()} threads"


def fixed_layout(device: torch.device) -> Layout:
    """The layout that needs no measuring."""
    return Layout(channels_last=True, bf16=device.type == "cuda" and torch.cuda.is_bf16_supported())


def layout(
    model: nn.Module,
    key: str,
    shape: tuple[int, int, int, int],
    device: torch.device,
    cache_dir: Path,
    *,
    seeded: bool,
) -> Layout:
    """The layout to train `model` with on batches of `shape`; `key` names the network."""
    if seeded:
        return fixed_layout(device)
    batch = (min(shape[0], _PROBE_BATCH), *shape[1:])
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    facts = json.dumps([key, batch, device.type, machine, torch.get_num_threads(), torch.__version__])
    kept = cache_dir / "layouts" / f"{sha256(facts.encode()).hexdigest()[:32]}.json"
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        return Layout(bool(found["channels_last"]), bool(found["bf16"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    best, certain = _probe(model, batch, device)
    if certain:
        facts_of = {"channels_last": best.channels_last, "bf16": best.bf16, "of": json.loads(facts)}
        files.write_json(kept, facts_of)
    return best


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _probe(model: nn.Module, batch: tuple[int, int, int, int], device: torch.device) -> tuple[Layout, bool]:
    """The fastest layout, and whether there was time to measure them all; if not, the plain answer."""
    plain = Layout(channels_last=True, bf16=False)
    candidates = [plain, Layout(channels_last=False, bf16=False)]
    if device.type != "cuda" or torch.cuda.is_bf16_supported():
        candidates.append(Layout(channels_last=True, bf16=True))
    deadline = time.monotonic() + _PROBE_SECONDS
    seconds: dict[Layout, float] = {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for candidate in candidates:
            if time.monotonic() > deadline:
                return fixed_layout(device), False
            seconds[candidate] = _step_seconds(model, batch, device, candidate, deadline)
    best = min(seconds, key=lambda layout: seconds[layout])
    if seconds[best] > seconds[plain] * _WORTHWHILE:
        best = plain
    say("layout probe: " + "; ".join(f"{la} {batch[0] / s:.0f} images/s" for la, s in seconds.items()))
    return best, True


def _step_seconds(
    model: nn.Module,
    batch: tuple[int, int, int, int],
    device: torch.device,
    candidate: Layout,
    deadline: float,
) -> float:
    probe = copy.deepcopy(model).to(memory_format=candidate.memory_format).to(device).train()
    images = torch.randn(batch, device=device).to(memory_format=candidate.memory_format)
    best = float("inf")
    for _ in range(3):
        start = time.monotonic()
        with candidate.autocast(device):
            loss = probe(images).float().square().mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.monotonic() - start)
        if time.monotonic() > deadline:
            break
    return best
