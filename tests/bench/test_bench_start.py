"""How long a server takes from its command to its first answer, beside the imports it cannot do without."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from amlocal.emulator.cli import instance

pytestmark = pytest.mark.bench

IMPORTS = "import flask, sqlalchemy, granian, cryptography.x509"
ROUNDS = 5
AIM = 3.0


def seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def test_start_to_first_answer(tmp_path: Path) -> None:
    """Both are measured in turns, so that what else the machine does hits both."""
    imports, starts = [], []
    for number in range(ROUNDS + 1):
        imports.append(seconds(lambda: subprocess.run([sys.executable, "-c", IMPORTS], check=True)))
        # The first start also makes secrets and certificates; all the others find them.
        root, port = tmp_path / "data", instance.free_ports()[0]
        starts.append(first_answer(root, port))
        assert number or (root / "tls" / "ca.pem").exists()
    ratio = statistics.median(starts[1:]) / statistics.median(imports[1:])
    print(
        f"\nimports {statistics.median(imports[1:]):.2f} s, start to first answer "
        f"{statistics.median(starts[1:]):.2f} s (first start of all {starts[0]:.2f} s): "
        f"ratio {ratio:.2f}, aim <= {AIM:.0f}"
    )
    assert ratio > 0


def first_answer(root: Path, port: int) -> float:
    """Seconds from the command to the answer of /health."""
    argv = [
        sys.executable,
        "-m",
        "amlocal.emulator.cli",
        "serve",
        "--data-dir",
        str(root),
        "--port",
        str(port),
    ]
    begin = time.perf_counter()
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not ((root / "tls" / "server.pem").exists() and instance.health(port, root / "tls" / "ca.pem")):
            assert server.poll() is None
            time.sleep(0.005)
        return time.perf_counter() - begin
    finally:
        server.terminate()
        server.wait(40)
