"""A warm parent as a real process, whose trials do what they are told."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amlocal.trainers import warm_client

CLIENT = [sys.executable, "-I", "-S", str(Path(warm_client.__file__))]

# What a trial of either kind would import for itself, and takes seconds together.
NEEDED = (
    "torch",
    "timm",
    "torchvision.models.detection",
    "pycocotools.mask",
    "faster_coco_eval",
    "sklearn.metrics",
    "mlflow.pyfunc",
    "onnx",
    "matplotlib.figure",
    "amlocal.trainers.trial",
    "amlocal.trainers.models.torchvision_detection",
    "amlocal.trainers.tasks.classification",
    "amlocal.trainers.tasks.detection",
)

# Each child does what its "SPEC" says, so that every way to end can be had.
ACTS = """
import json, os, signal, subprocess, sys, threading, time
from pathlib import Path
from amlocal.trainers import registry, warm

def tell(**facts):
    print(json.dumps(facts), flush=True)

def act(argv):
    what, _, argument = argv[0].partition(":")
    if what == "facts":
        import torch
        tell(there=[name for name in argument.split(",") if name in AT_ENTRY], cwd=os.getcwd(),
             environ=dict(os.environ), umask=os.umask(0), cpus=sorted(os.sched_getaffinity(0)),
             torch_threads=torch.get_num_threads(), cuda=torch.cuda.is_initialized(), argv=argv, said=input(),
             descriptors=sorted(int(n) for n in os.listdir("/proc/self/fd"))[:3], pid=os.getpid(),
             product=(torch.ones(200, 200) @ torch.ones(200, 200)).sum().item())
        print("to stderr", file=sys.stderr)
    elif what == "exit":
        print("no newline, no flush", end="")
        return int(argument)
    elif what == "raise":
        raise RuntimeError("broken")
    elif what == "die":
        os.kill(os.getpid(), int(argument))
    elif what == "crash":
        import ctypes
        ctypes.string_at(1)
    elif what == "memory":
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        bytearray(2**40)
    elif what == "polite":
        def end(*_):
            os.write(1, b'{"got": "SIGTERM"}')
            os._exit(5)
        signal.signal(signal.SIGTERM, end)
        tell(pid=os.getpid())
        time.sleep(120)
    elif what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell(pid=os.getpid())
        while True:
            time.sleep(0.01)
    elif what == "pool":
        from concurrent.futures import ThreadPoolExecutor
        global POOL
        POOL = ThreadPoolExecutor(2)
        POOL.submit(tell, pool=1).result()
        def late():
            time.sleep(0.2)
            tell(late=1)
        threading.Thread(target=late).start()
    elif what == "litter":
        orphans = [subprocess.Popen(["sleep", "120"], start_new_session=new) for new in (False, True)]
        tell(pids=[o.pid for o in orphans])
    else:
        tell(pid=os.getpid())
        time.sleep(120)
    return 0

if __name__ == "__main__":
    AT_ENTRY = None
    if sys.argv[3] == "True":
        warm._MODULES = warm._WHERE_INSTALLED = ()
        registry.TASKS.clear()
    def run(argv):
        global AT_ENTRY
        AT_ENTRY = set(sys.modules)
        return act(argv)
    sys.exit(warm.serve(Path(sys.argv[1]), run, idle=float(sys.argv[2])))
"""


def wait_for(done: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.02)
    return found


@dataclass
class Warm:
    """A running warm parent."""

    process: subprocess.Popen[str]
    path: Path

    def start(self, what: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*CLIENT, str(self.path), what], text=True, **(pipes | options))

    def run(self, what: str, said: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        client = self.start(what, **options)
        out, err = client.communicate(said, timeout=60)
        return subprocess.CompletedProcess(client.args, client.returncode, out, err)

    def begin(self, what: str) -> tuple[subprocess.Popen[str], int]:
        """A client whose trial runs, and the trial's pid."""
        client = self.start(what)
        assert client.stdout is not None
        return client, json.loads(client.stdout.readline())["pid"]


def launch(
    folder: Path, *, idle: float = 300.0, light: bool = False, argv: list[str] | None = None, **options: Any
) -> Warm:
    """`light`: without the imports that take long."""
    folder.mkdir(mode=0o700, exist_ok=True)
    script = folder / "acts.py"
    script.write_text(ACTS)
    path = folder / "warm.socket"
    argv = argv or [sys.executable, str(script), str(path), str(idle), str(light)]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == f"ready {path}\n", line + process.stdout.read()
    return Warm(process, path)


def end(parent: Warm) -> None:
    parent.process.kill()
    parent.process.communicate()
