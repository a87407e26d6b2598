"""Runs the processes of one distributed job side by side: `python -I -S launcher.py ORDER`.

The order is JSON: `ports`, how many free loopback ports are needed, and `processes`, each with name, argv,
env (added to this process's own; `@portN@` stands for a port), log (null: our own output) and awaited.

A process may leave the reason of its failure in the file AMLOCAL_FAILURE, beside the order.

Ends with 0 when all that are awaited ended well. As soon as one process fails, this one says which, shows the
end of its log and ends the same way: with its exit code, or by its signal. Whatever still runs then is ended
by the shim above, which holds every process of the job; the same is true after a signal to the group.

Standard library only: it is run by path, without site-packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from typing import Any

TAIL_BYTES = 8192
TAIL_LINES = 20


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def start(process: dict[str, Any], ports: list[int]) -> int:
    """The pid of the started process."""
    env = dict(os.environ)
    for name, value in process["env"].items():
        for number, port in enumerate(ports):
            value = value.replace(f"@port{number}@", str(port))
        env[name] = value
    output = None
    if process["log"] is not None:
        output = os.open(
            process["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    try:
        child = subprocess.Popen(
            process["argv"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env
        )
    finally:
        if output is not None:
            os.close(output)
    # Waited for by pid, with all others: Popen must not do it.
    child.returncode = 0
    return child.pid


def tail(path: str) -> str:
    """The last lines of a log."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-TAIL_LINES:])


def fail(process: dict[str, Any], code: int, reason: str) -> int:
    """Say why the job ends, and end as the process did."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    print(f"\namlocal: {process['name']} {how}, so all processes of the job are ended.", flush=True)
    if told := tail(reason):
        print(f"amlocal: {told}", flush=True)
    if process["log"] is not None:
        print(f"amlocal: the end of {os.path.basename(process['log'])}:\n{tail(process['log'])}", flush=True)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code if code > 0 else 128 - code


def main(path: str) -> int:
    with open(path) as file:
        order = json.load(file)
    ports = free_ports(order["ports"])
    reason = os.environ["AMLOCAL_FAILURE"] = f"{path}.failure"
    running: dict[int, dict[str, Any]] = {}
    for process in order["processes"]:
        try:
            running[start(process, ports)] = process
        except OSError as error:
            print(f"amlocal: {process['name']} cannot be started: {error}", flush=True)
            return 127
    while any(process["awaited"] for process in running.values()):
        pid, status = os.wait()
        ended = running.pop(pid, None)
        code = os.waitstatus_to_exitcode(status)
        if ended is not None and code != 0:
            return fail(ended, code, reason)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
