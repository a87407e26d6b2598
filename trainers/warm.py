"""`python -m amlocal.trainers warm SOCKET`: PyTorch, torchvision, timm and the trainers are imported once;
each trial is a fork of this process and starts at once. Linux only; elsewhere, and whenever this process
refuses, trials are started plainly. warm_client.py is its client and describes what is said over the socket.

Before a fork nothing but imports happens here: no tensor operation, no CUDA call, no probe, no thread. A
child forked after a single matrix product hangs, because OpenMP's threads do not come along.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import stat
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from amlocal.trainers import hidden
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.progress import say

Run = Callable[[list[str]], int]

IDLE_SECONDS = 600.0
_MODULES = (
    "torch",
    "timm",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "sklearn.metrics",
    "sklearn.model_selection",
    "safetensors.torch",
    "amlocal.trainers.trial",
    "amlocal.trainers.metrics.classification",
    "amlocal.trainers.metrics.documents",
    "amlocal.trainers.metrics.detection",
    "amlocal.trainers.models.timm",
    "amlocal.trainers.models.torchvision_detection",
)
_WHERE_INSTALLED = (
    # Needed in the evaluation of detectors, and at the end of every trial: the MLflow model, the ONNX file,
    # charts.
    "faster_coco_eval",
    "mlflow.models",
    "mlflow.pyfunc",
    "onnx",
    "matplotlib.backends.backend_agg",
    "amlocal.trainers.charts.curves",
    "amlocal.trainers.charts.detection_curves",
    "amlocal.trainers.charts.matrix",
    "amlocal.trainers.charts.predictions",
    "amlocal.trainers.charts.report",
)
_QUIET = {
    # Idle OpenMP threads spin for long by default; read by OpenMP when PyTorch is imported.
    "GOMP_SPINCOUNT": "1000",
    # Pools of threads that would start at import.
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def serve(
    path: Path,
    run: Run,
    *,
    idle: float = IDLE_SECONDS,
    lifeline: int | None = None,
    listener: int | None = None,
) -> int:
    """Listen on the socket `path` until `idle` seconds without a trial, or the end of `lifeline` (a pipe).

    `listener` is a descriptor of that socket where the starter listens there already: callers then wait until
    the imports are done, and know at once when this process ends before that. At the end of `lifeline` trials
    that run are seen to their end first; no new one is taken. SIGTERM ends everything at once. `run` is
    called in each child with the caller's arguments. Returns 0. Raises TrainingError when the socket's folder
    is not private, somebody else listens there, or threads were started by the imports.
    """
    if sys.platform != "linux":
        raise TrainingError("the warm start needs Linux; start trials plainly")
    _open_standard_streams()
    imported_with = dict(os.environ)
    for noun, descriptor in (("lifeline", lifeline), ("listener", listener)):
        if descriptor is not None:
            try:
                os.set_inheritable(descriptor, False)
            except OSError as error:
                raise TrainingError(f"the {noun} {descriptor} is no open descriptor") from error
    with _Lock(path) as lock:
        _import(path)
        from amlocal.trainers.warm_parent import Parent

        parent = Parent(path, run, imported_with, idle, lifeline, lock, listener)
        try:
            say(f"ready {path}")
            parent.loop()
        finally:
            parent.close()
    return 0


def _open_standard_streams() -> None:
    # Else a descriptor of ours could get such a number, and a child would overwrite it.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _import(path: Path) -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    hidden.hide()
    for module in _MODULES:
        import_module(module)
    for module in _WHERE_INSTALLED:
        with contextlib.suppress(ModuleNotFoundError):
            import_module(module)
    from amlocal.trainers import registry

    for reference in registry.TASKS.values():
        import_module(reference.partition(":")[0])
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise TrainingError(f"no warm start at {path}: the imports started {threads - 1} threads")
    # Keeps the pages of what was imported shared: the collector of a child does not touch them.
    gc.collect()
    gc.freeze()


class _Lock:
    """The socket's private folder, and the right to listen there."""

    def __init__(self, path: Path) -> None:
        if len(os.fsencode(path)) > 107:
            raise TrainingError(f"the socket's path is longer than 107 bytes: {path}")
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(mode=0o700)
        facts = path.parent.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            raise TrainingError(f"{path.parent} must be a folder of yours that nobody else may enter (0700)")
        self._path = path

    def __enter__(self) -> int:
        lock = self._path.with_name(f"{self._path.name}.lock")
        self._descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise TrainingError(f"another warm parent listens at {self._path}") from None
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
