"""The process of one trial, from the warm parent's fork to its end."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from amlocal.trainers.warm import Run

HELD = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD})
"""Blocked by the parent around the fork: one that comes early must meet the child's handlers."""


def live(request: dict[str, Any], descriptors: Sequence[int], caller: int, parent: int, run: Run) -> NoReturn:
    """Become what the caller asked for and run it.

    `descriptors`: standard input, output, error, working folder. `caller` is the descriptor of the connection
    to the caller, `parent` the read end of a pipe that the warm parent holds; this process group ends with
    whichever of the two ends first.
    """
    code = 1
    try:
        # A group of its own, so that what it starts can be ended with it.
        os.setpgid(0, 0)
        _signals()
        _streams(descriptors[:3])
        os.fchdir(descriptors[3])
        _surroundings(request)
        threading.Thread(target=_watch, args=(caller, parent), name="warm", daemon=True).start()
        code = run(request["argv"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        _flush(1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        # What the interpreter itself calls at its end: pools of idle threads are told to go, then all others
        # that are no daemons are waited for. Joining alone would wait for the pools for ever.
        threading._shutdown()  # type: ignore[attr-defined]
        os._exit(_flush(code))


def _signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in HELD:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def _streams(descriptors: Sequence[int]) -> None:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = open(  # noqa: SIM115
            number,
            "w",
            encoding="utf-8",
            errors="backslashreplace",
            buffering=1 if name == "stderr" or os.isatty(number) else -1,
            closefd=False,
        )
        setattr(sys, name, stream)


def _surroundings(request: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(request["environ"])
    time.tzset()
    os.umask(request["umask"])
    os.sched_setaffinity(0, request["cpus"])
    import torch

    # OpenMP read its environment when the parent imported it, on the parent's CPUs.
    threads = request["environ"].get("OMP_NUM_THREADS", "")
    torch.set_num_threads(
        int(threads) if threads.isdigit() and int(threads) > 0 else len(os.sched_getaffinity(0))
    )


def _watch(caller: int, parent: int) -> None:
    poll = select.poll()
    poll.register(caller, 0)  # its end shows without asking; what it says is for the parent
    poll.register(parent, select.POLLIN)
    poll.poll()
    os.killpg(0, signal.SIGKILL)


def _flush(code: int) -> int:
    """The exit code, 120 instead of 0 when output was lost, as Python itself does."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120
    return code
