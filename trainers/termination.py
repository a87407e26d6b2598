"""The end of a trial by a termination policy or a time limit: its best epoch is kept.

Who decides it writes terminate.json, {"reason": ...}, into the trial's state folder and sends SIGTERM. The
trial stops at its next step, or its next batch of evaluation, and writes its model. SIGTERM without that
file, or before there is an epoch to keep, ends the process as it ends any other.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amlocal.trainers import distributed
from amlocal.trainers.checkpoints import Checkpoints

FILE = "terminate.json"
CHECKPOINTS = "checkpoint"


class Terminated(Exception):
    """The trial was asked to end and to keep what it has. The text is the reason."""


class _Asked:
    """What this process was asked; `reason` None: nothing."""

    reason: str | None = None


def wanted(state_dir: Path) -> str | None:
    """Why the trial is to end and keep its best epoch; None when it is not to, or has no epoch yet."""
    try:
        order = json.loads((state_dir / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(order, dict) or Checkpoints(state_dir / CHECKPOINTS).latest() is None:
        return None
    return str(order.get("reason") or "ended early")


@contextmanager
def heeded(state_dir: Path) -> Iterator[None]:
    """Inside, SIGTERM is understood; `check` raises then."""
    _Asked.reason = None
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may have handlers
        return

    def on_term(number: int, _: object) -> None:
        _Asked.reason = wanted(state_dir)
        if _Asked.reason is None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, on_term)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        _Asked.reason = None


def asked() -> str | None:
    """Why the trial is to end; None when it is not to."""
    return _Asked.reason


def check() -> None:
    """Raises Terminated in all processes of the trial at once, once one of them was asked. To be called by
    each of them, at the same steps."""
    if distributed.current().size == 1:
        check_alone()
    elif distributed.total(float(_Asked.reason is not None))[0]:
        raise Terminated(_Asked.reason or "ended early")


def check_alone() -> None:
    """As `check`, for places that the processes of a trial reach at different times: only one that trains
    alone is ended there."""
    if _Asked.reason is not None and distributed.current().size == 1:
        raise Terminated(_Asked.reason)
