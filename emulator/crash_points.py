"""Named places at which a test lets a process die as if it had been killed just there.

A test puts the name of a file into AMLOCAL_CRASH_ORDER before it starts the server. A process that reaches
the point whose name stands in that file removes the file and ends itself by SIGKILL. Without the variable
a point is one comparison.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

VARIABLE = "AMLOCAL_CRASH_ORDER"

# Every point; a test goes through all of them. What a shim reaches, `emulator/host/shim.py` knows by itself.
POINTS = frozenset(
    {
        # A write of the database: made but not committed, and committed but not yet acknowledged.
        "write.made",
        "write.committed",
        # A file that is replaced as a whole.
        "file.staged",
        "file.renamed",
        "workspace.stored",
        "asset.checked",
        "asset.stored",
        "asset.deleted",
        "blob.staged",
        "blob.renamed",
        "blob.described",
        "blob.deleted",
        "block.staged",
        "blocks.assembled",
        "job.preparing",
        "job.prepared",
        "job.queued",
        "job.starting",
        "job.tracked",
        "job.ordered",
        "spawn.ordered",
        "spawn.forked",
        "job.spawned",
        "job.running",
        "job.ended",
        "job.collected",
        "job.finalizing",
        "job.flushed",
        "job.completed",
        "job.failing",
        "job.failed",
        "job.stopping",
        "job.stopped",
        "job.canceled",
        "sweep.drawn",
        "sweep.made",
        "sweep.terminated",
        "sweep.settled",
        "shim.claimed",
        "shim.forked",
        "shim.recorded",
        "shim.released",
        "shim.ended",
        "shim.reported",
        "deployment.found",
        "deployment.ready",
        "deployment.settled",
        "deployment.published",
        "deployment.unpublished",
    }
)

_order = os.environ.get(VARIABLE)


def reach(name: str) -> None:
    """Does not return when the death of this process is ordered for here."""
    if _order is not None and _taken(Path(_order), name):
        os.kill(os.getpid(), signal.SIGKILL)


def order_for_shim() -> str | None:
    """The point at which the next shim is to die, if that is ordered; it is not ordered again."""
    if _order is None:
        return None
    for name in POINTS:
        if name.startswith("shim.") and _taken(Path(_order), name):
            return name
    return None


def _taken(order: Path, name: str) -> bool:
    """Whether the order is for this point, and this thread is the first to see it."""
    if name not in POINTS:
        raise LookupError(f"{name!r} is not the name of a crash point.")
    try:
        if order.read_text(encoding="utf-8").strip() != name:
            return False
        order.unlink()
    except FileNotFoundError:
        return False
    return True
