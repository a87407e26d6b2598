"""All platform code: locks, leashes, process identity and process groups."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LEASH_VARIABLE = "AMLOCAL_LEASH_FD"


class FileLock:
    """An exclusive lock on a file, held until `release` or the death of every holder of the descriptor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, timeout: float = 0.0) -> bool:
        """Take the lock within `timeout` seconds; False if somebody else keeps it."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    return False
                time.sleep(0.05)
            else:
                self._descriptor = descriptor
                return True

    def write(self, text: str) -> None:
        """Put `text` (the holder's identity) into the locked file."""
        assert self._descriptor is not None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


# Write ends of the leashes of children that must die with this process. They are never closed on purpose:
# the operating system closes them when this process ends, however it ends.
_leashes: dict[int, int] = {}


def spawn_leashed(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    cwd: Path | None = None,
    descriptors: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child that must not outlive this process; its output is appended to `log`. It gets
    `descriptors` under the same numbers.

    The child finds the read end of a pipe in AMLOCAL_LEASH_FD and has to exit on its EOF (see `watch_leash`).
    A pipe is used because PR_SET_PDEATHSIG fires when the spawning thread ends.
    """
    read_end, write_end = os.pipe()
    try:
        with log.open("ab") as output:
            log.chmod(0o600)
            child = subprocess.Popen(
                list(argv),
                env={**env, LEASH_VARIABLE: str(read_end)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                pass_fds=(read_end, *descriptors),
                start_new_session=True,
            )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    _leashes[child.pid] = write_end
    return child


def drop_leash(child: subprocess.Popen[bytes]) -> None:
    """Close the pipe of a child that has ended (or should end now)."""
    write_end = _leashes.pop(child.pid, None)
    if write_end is not None:
        os.close(write_end)


def watch_leash() -> None:
    """Child side of `spawn_leashed`: end this process at once when its parent is gone. No leash, no watch."""
    value = os.environ.pop(LEASH_VARIABLE, None)
    if value is None:
        return
    descriptor = int(value)

    def wait() -> None:
        while os.read(descriptor, 1):
            pass
        os._exit(0)

    threading.Thread(target=wait, name="leash", daemon=True).start()


def process_start_time(pid: int) -> str | None:
    """A token that together with the pid and the boot names one process; None if there is no such process."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] == b"Z" else fields[19].decode()
    listing = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listing.stdout.strip() or None


def boot_id() -> str:
    """Names the running boot of this machine, so that a pid of an earlier boot is not mistaken."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else "unknown"


def group_alive(group: int) -> bool:
    """Whether any process of the process group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def kill_group(group: int, grace: float) -> None:
    """SIGTERM to a process group, SIGKILL to what is left after `grace` seconds."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not group_alive(group):
                return
            time.sleep(0.02)


# What a program needs to run at all. Everything else of the server's environment stays with the server:
# its secrets must not reach code that a user deploys or submits.
_KEPT = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
    "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES", "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT",
    "HF_HUB_OFFLINE", "TORCH_HOME", "XDG_CACHE_HOME",
)  # fmt: skip


def clean_environment() -> dict[str, str]:
    """The environment that a process started for a user begins with."""
    return {key: os.environ[key] for key in _KEPT if key in os.environ}
