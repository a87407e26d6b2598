"""What this host has: processors that we may use, memory, NVIDIA GPUs. Never imports torch."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

from amlocal.emulator.jobs.engines.base import Capacity, Gpu

DRIVER_FOLDER = Path("/proc/driver/nvidia")
CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")
CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")


def host_capacity() -> Capacity:
    """Processors by affinity and cgroup quota, memory by hardware and cgroup limit, GPUs by driver."""
    return Capacity(cpus=cpus(), memory=_memory(), gpus=find_gpus())


def find_gpus(driver_folder: Path = DRIVER_FOLDER) -> tuple[Gpu, ...]:
    """NVIDIA GPUs by NVML; where that library is absent or fails, by the kernel driver's own folder."""
    return _by_nvml() or _by_driver(driver_folder)


def cpus() -> int:
    """Processors that this process may use, by affinity and cgroup quota."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = CGROUP_CPU.read_text().split()
        if quota != "max":
            available = min(available, max(1, math.floor(int(quota) / int(period))))
    return available


def _memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        limit = CGROUP_MEMORY.read_text().strip()
        if limit != "max":
            total = min(total, int(limit))
    return total


def _by_nvml() -> tuple[Gpu, ...]:
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        # No driver, or no device: the usual case on a host without a GPU.
        return ()
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            Gpu(i, _text(pynvml.nvmlDeviceGetName(h)), int(pynvml.nvmlDeviceGetMemoryInfo(h).total), driver)
            for i, h in enumerate(handles)
        )
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _by_driver(folder: Path) -> tuple[Gpu, ...]:
    try:
        devices = sorted((folder / "gpus").iterdir())
    except OSError:
        return ()
    driver: str | None = None
    with contextlib.suppress(OSError):
        words = (folder / "version").read_text().splitlines()[0].split()
        driver = next((word for word in words if word[:1].isdigit() and "." in word), None)
    found = []
    for index, device in enumerate(devices):
        name = "NVIDIA GPU"
        with contextlib.suppress(OSError):
            for line in (device / "information").read_text().splitlines():
                key, _, value = line.partition(":")
                if key.strip() == "Model":
                    name = value.strip()
        found.append(Gpu(index, name, None, driver))
    return tuple(found)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
