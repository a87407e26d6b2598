"""Which device a trial runs on, and what it says about its memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from amlocal.trainers import distributed
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.layouts import Layout, fixed_layout, layout
from amlocal.trainers.progress import warn

__all__ = [
    "Layout",
    "choose",
    "compute_threads",
    "cpu_threads",
    "describe",
    "fixed_layout",
    "halved",
    "layout",
    "memory",
    "short_of_memory",
]

_GIB = 2**30
_NO_ROOM = ("not enough memory", "defaultcpuallocator", "out of memory", "alloc_failed")


def cpu_threads() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute_threads() -> int:
    """Threads that the networks of a trial may use, in all its processes: the CPUs, or fewer where
    OMP_NUM_THREADS says so. The server sets that where trials run side by side."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    wanted = int(given) if given.isdigit() else 0
    return min(wanted, cpu_threads()) if wanted > 0 else cpu_threads()


def choose() -> torch.device:
    """CUDA when a kernel really runs there, else the CPU; says why. Sets the number of threads to this
    process's share of `compute_threads`."""
    torch.set_num_threads(max(1, compute_threads() // distributed.current().size))
    if torch.cuda.is_available():
        try:
            torch.ones(8, device="cuda").sum().item()
            return torch.device("cuda", torch.cuda.current_device())
        except RuntimeError as error:
            warn(f"PyTorch cannot use the GPU found ({str(error).splitlines()[0]}); training on the CPU")
    return torch.device("cpu")


def describe(device: torch.device) -> str:
    """For the log: the GPU's name and memory or the number of CPU threads, and how many processes."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        text = f"{facts.name}, {facts.total_memory / _GIB:.0f} GiB"
    else:
        text = f"CPU, {torch.get_num_threads()} threads"
    processes = distributed.current().size
    return text if processes == 1 else f"{processes} processes, each on: {text}"


def memory(device: torch.device) -> str:
    """What is in use now, for a line of progress: of the GPU's memory, or of the host's by this process.
    Empty where the system does not say."""
    if device.type == "cuda":
        used = torch.cuda.memory_allocated(device)
        return f"{used / _GIB:.1f}/{torch.cuda.get_device_properties(device).total_memory / _GIB:.0f} GiB"
    resident = _resident()
    return "" if resident is None else f"{resident / _GIB:.1f} GiB"


def _resident() -> int | None:
    """Bytes; on systems without /proc the most there ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def short_of_memory(error: BaseException) -> str:
    """The first line of an error that says that something did not fit into the GPU's or the host's memory;
    empty for every other error."""
    text = str(error).strip()
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if isinstance(error, RuntimeError) and any(words in text.lower() for words in _NO_ROOM):
        known = True
    return (text.splitlines() or [type(error).__name__])[0] if known else ""


def halved(images: int, sizes: str, reason: str) -> int:
    """How many images to evaluate at a time where `images` do not fit into memory, said in the log; `sizes`
    says what to reduce where one does not. Raises TrainingError then."""
    if images == 1:
        raise TrainingError(
            f"there is not enough memory to evaluate a single image; reduce {sizes} ({reason})"
        )
    half = (images + 1) // 2
    warn(f"a validation batch of {images} does not fit into memory ({reason}); going on with {half}")
    return half
