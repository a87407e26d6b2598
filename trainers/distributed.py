"""One trial over several processes: who we are, and the few things that the processes tell each other.

Each process trains on its own share of every batch; gradients are averaged by DistributedDataParallel. Alone,
a process is rank 0 of 1 and every function here returns what it was given. Small numbers travel over gloo on
the loopback interface, also between processes that train on GPUs, so none of this makes a GPU wait.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

# A process that died is noticed by the launcher within a second. This is only for one that hangs, and has to
# outlast the decoding of a large data set by another process.
_TIMEOUT = timedelta(hours=3)
_LOOPBACK = {"linux": "lo", "darwin": "lo0"}


@dataclass(frozen=True)
class World:
    """This process among those of the trial."""

    rank: int
    size: int


def current() -> World:
    """Rank 0 of 1 unless `join` was called."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World(0, 1)


def join(meeting_point: Path, rank: int, size: int, *, gpu: bool) -> World:
    """Meet the other processes at a file that none of them has used before; returns when all are there.

    With `gpu` this process takes the GPU of its rank, and tensors on GPUs travel over NCCL. Nothing listens
    beyond the loopback interface.
    """
    if interface := _LOOPBACK.get(sys.platform):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    if gpu:
        torch.cuda.set_device(rank)
    store = dist.FileStore(str(meeting_point), size)
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    return current()


def gather(tensor: Tensor) -> Tensor:
    """The rows of every process, those of rank 0 first. Each may have another number of rows, also none;
    everything else of the shape, and the type, must be the same."""
    world = current()
    if world.size == 1:
        return tensor
    lengths = [int(n) for n in _all_gather(torch.tensor([len(tensor)]))]
    padded = tensor.new_zeros((max(lengths), *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = _all_gather(padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def _all_gather(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(current().size)]
    dist.all_gather(parts, tensor.contiguous())
    return parts


def total(*values: float) -> list[float]:
    """Each value summed over all processes."""
    if current().size == 1:
        return list(values)
    found = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(found)
    return [float(value) for value in found]


def everywhere(fact: bool) -> bool:
    """True when `fact` is true in every process."""
    return total(float(fact))[0] == current().size


def first(value: float) -> float:
    """Rank 0's value, so that all decide alike. Exact for whole numbers up to 2**53."""
    if current().size == 1:
        return value
    found = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(found, src=0)
    return float(found)


def barrier() -> None:
    """Wait until every process is here."""
    total(0.0)


def share_buffers(module: nn.Module) -> None:
    """Give every process rank 0's buffers: each has seen other images, so running means differ."""
    if current().size > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer.detach(), src=0)
