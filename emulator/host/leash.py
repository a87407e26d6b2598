"""Runs one program that must not outlive its asker: `python -I -S leash.py GRACE PROGRAM [ARGUMENT...]`.

The asker holds the other end of standard input. When that closes, because the asker closed it or died, the
program and everything that it started get SIGTERM, and SIGKILL after GRACE seconds. The exit code is the
program's; 128 + N when signal N ended it.

Standard library only: it is run by path, without site-packages.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time


def main() -> int:
    grace, argv = float(sys.argv[1]), sys.argv[2:]
    try:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{argv[0]} cannot be started: {error.strerror}", file=sys.stderr)
        return 127
    threading.Thread(target=follow, args=(child.pid, grace), daemon=True).start()
    code = child.wait()
    tell(child.pid, signal.SIGKILL)
    return 128 - code if code < 0 else code


def follow(group: int, grace: float) -> None:
    """End the program's process group as soon as standard input closes."""
    while os.read(0, 4096):
        pass
    tell(group, signal.SIGTERM)
    time.sleep(grace)
    tell(group, signal.SIGKILL)


def tell(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main())
