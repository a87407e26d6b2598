"""Starting the processes of a trial that trains in several at once, with PyTorch's own launcher.

One process per GPU, or on a host without a GPU as many as node_count_per_trial says. They meet at a file in a
private folder. A process that fails or is killed ends them all and gives the trial its reason; a signal to
the launcher reaches all of them; if the launcher itself is killed, each notices and ends.

`python -m amlocal.trainers.ranks SPEC FOLDER` is one such process; the launcher starts it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from amlocal.trainers import files, progress
from amlocal.trainers.errors import TrainingError

_POLL_SECONDS = 0.2
_WATCH_SECONDS = 0.5
_GRACE_SECONDS = 15
_LAUNCHER = "AMLOCAL_LAUNCHER_PID"
_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")


@dataclass(frozen=True)
class Plan:
    """How many processes train, and what to tell the user about it ("" when there is nothing to tell)."""

    processes: int
    notice: str = ""


def plan(*, distributed: bool, nodes: int, gpus: int, cpus: int) -> Plan:
    """How many processes a trial takes on this host, which stands in for all `nodes`."""
    if not distributed:
        wanted = max(gpus, 1) * nodes
        return Plan(1, "distributed is false: one process trains" if wanted > 1 else "")
    if gpus:
        if nodes == 1:
            return Plan(gpus, f"one process on each of {gpus} GPUs" if gpus > 1 else "")
        what = "the GPU" if gpus == 1 else f"each of the {gpus} GPUs"
        return Plan(gpus, f"node_count_per_trial is {nodes}; this one host trains, one process on {what}")
    processes = min(nodes, max(1, cpus))
    if nodes == 1:
        return Plan(1)
    limit = "" if processes == nodes else f", as there are {cpus} CPUs"
    return Plan(
        processes, f"node_count_per_trial is {nodes}; this one host trains, in {processes} processes{limit}"
    )


def here(*, distributed: bool, nodes: int) -> Plan:
    """`plan` for this host."""
    import torch

    from amlocal.trainers.device import cpu_threads

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return plan(distributed=distributed, nodes=nodes, gpus=gpus, cpus=cpu_threads())


def train(spec: Path, processes: int) -> None:
    """Run the trial of a spec file in `processes` processes; see `launch`."""
    from amlocal.trainers import spec as specs
    from amlocal.trainers import termination

    state_dir = specs.load(spec).state_dir
    launch(
        ["-m", "amlocal.trainers.ranks", str(spec)],
        processes,
        heeds=lambda: termination.wanted(state_dir) is not None,
    )


def launch(arguments: Sequence[str], processes: int, *, heeds: Callable[[], bool] = lambda: False) -> None:
    """Run `python ARGUMENTS FOLDER` `processes` times at once, each of which is to call `take_part`; returns
    when all of them have ended well.

    Raises TrainingError with the reason of the process that failed first. A signal that ends this process
    ends the others before; while `heeds` says so, SIGTERM only goes on to them, and they end by themselves.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, start_processes

    # Its lines name process numbers and signals; what happened is told here, once.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="amlocal-ranks-"))
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in _SIGNALS}
    ended_by = None
    try:
        context = start_processes(
            name="trial",
            entrypoint=sys.executable,
            args=dict.fromkeys(range(processes), (*arguments, str(folder))),
            envs={rank: _environment(rank, processes) for rank in range(processes)},
            logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs")),
        )
        _pass_on(signal.SIGTERM, heeds, lambda: context.pids().values())
        try:
            result = context.wait(period=_POLL_SECONDS)
        finally:
            context.close(timeout=_GRACE_SECONDS)
        if result is not None and result.is_failed():
            raise TrainingError(_reason(folder, result.failures, processes))
    except SignalException as error:
        ended_by = error.sigval
    finally:
        for name, handler in handlers.items():
            signal.signal(getattr(signal, name), handler or signal.SIG_DFL)
        shutil.rmtree(folder, ignore_errors=True)
    if ended_by is not None:
        progress.flush()
        os.kill(os.getpid(), ended_by)


def _pass_on(number: int, heeds: Callable[[], bool], pids: Callable[[], Iterable[int]]) -> None:
    """Let the processes have the signal where they heed it; else its handler is the one it has now."""
    otherwise = signal.getsignal(number)

    def handle(signal_number: int, frame: Any) -> None:
        if not heeds():
            assert callable(otherwise)
            otherwise(signal_number, frame)
            return
        for pid in pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)

    if callable(otherwise):
        signal.signal(number, handle)


def _environment(rank: int, processes: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        _LAUNCHER: str(os.getpid()),
    }


def _reason(folder: Path, failures: dict[int, Any], processes: int) -> str:
    """The cause, and not what it led to in the other processes."""
    killed = [rank for rank, failure in failures.items() if failure.exitcode < 0 and not _stopped(failure)]
    if killed:
        rank = min(killed, key=lambda r: failures[r].timestamp)
        name = signal.Signals(-failures[rank].exitcode).name
        hint = "; perhaps memory ran out" if name == "SIGKILL" else ""
        return f"process {rank + 1} of {processes} was ended by {name}{hint}"
    told = sorted(folder.glob("failed-*"), key=lambda path: path.stat().st_mtime_ns)
    if told:
        rank = int(told[0].name.partition("-")[2])
        text = told[0].read_text(encoding="utf-8")
        return text if rank == 0 else f"{text} (process {rank + 1} of {processes})"
    rank = min(failures, key=lambda r: failures[r].timestamp)
    return f"process {rank + 1} of {processes} ended with exit code {failures[rank].exitcode}"


def _stopped(failure: Any) -> bool:
    # The launcher itself sends this to the rest when one has failed.
    return bool(failure.exitcode == -signal.SIGTERM)


def take_part(folder: Path, work: Callable[[], object]) -> NoReturn:
    """Be one of the processes that `launch` started: meet the others, do the `work`, tell what went wrong.

    Ends the interpreter at once: threads deep in a network call, and connections to processes that have
    ended, can disturb an ordinary end; everything is on disk by then.
    """
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _end_with(int(os.environ[_LAUNCHER]), folder)
    if rank > 0:
        progress.silence()
    code = 0
    try:
        import torch

        from amlocal.trainers import distributed

        distributed.join(folder / "meeting-point", rank, processes, gpu=torch.cuda.is_available())
        work()
    except BaseException as error:
        code = 1
        if not isinstance(error, TrainingError):
            traceback.print_exc()
        files.write_text(folder / f"failed-{rank}", _explained(error))
    progress.flush()
    os._exit(code)


def _work(path: Path) -> None:
    from amlocal.trainers import spec, trial

    trial.run(spec.load(path))


def _explained(error: BaseException) -> str:
    from amlocal.trainers.device import short_of_memory

    if isinstance(error, TrainingError):
        return str(error)
    if shortage := short_of_memory(error):
        return f"there is not enough memory; reduce training_batch_size or image sizes ({shortage})"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _end_with(launcher: int, folder: Path) -> None:
    """Watch from a thread that the launcher lives; without it, tidy up in its place and end."""

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(_WATCH_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


if __name__ == "__main__":
    take_part(Path(sys.argv[2]), lambda: _work(Path(sys.argv[1])))
