"""The server's side of the warm parent, with real processes; only what takes long to import is left out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from living import gone

from amlocal.emulator.jobs import warm
from amlocal.emulator.jobs.warm import WarmParent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the warm start needs Linux")

# Stands for `python -m amlocal.trainers`. Its children do what their "spec" says.
TRAINERS = """
import argparse, json, os, sys, time
from pathlib import Path

def act(spec, how):
    order = json.loads(Path(spec).read_text())
    facts = {"how": how, "parent": os.getppid(), "pid": os.getpid(), "env": dict(os.environ)}
    Path(order["answer"] + ".part").write_text(json.dumps(facts))
    os.rename(order["answer"] + ".part", order["answer"])
    while not os.path.exists(order.get("until", "/")):
        time.sleep(0.01)
    return order.get("code", 0)

if sys.argv[1] == "train":
    sys.exit(act(sys.argv[2], "plain"))
parser = argparse.ArgumentParser()
parser.add_argument("warm")
parser.add_argument("socket", type=Path)
parser.add_argument("--listener", type=int)
parser.add_argument("--idle", type=float)
given = parser.parse_args()
gate = Path(__file__).with_name("gate")
while gate.exists():
    time.sleep(0.01)
if Path(__file__).with_name("broken").exists():
    sys.exit("broken")
import types
from amlocal.trainers import registry, warm
sys.modules["torch"] = types.SimpleNamespace(set_num_threads=lambda number: None)
warm._MODULES = warm._WHERE_INSTALLED = ()
registry.TASKS.clear()
lifeline = int(os.environ["AMLOCAL_LEASH_FD"])
run = lambda argv: act(argv[0], "warm")
sys.exit(warm.serve(given.socket, run, lifeline=lifeline, listener=given.listener))
"""


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return found


class Bench:
    """A folder with the stand-in, and trials that run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "trainers.py"
        self.script.write_text(TRAINERS)
        self.run_dir = folder / "run"
        self.run_dir.mkdir()
        self.trainers = (sys.executable, str(self.script))
        self.env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": "/home/of-jobs"}
        self.env |= {"MLFLOW_TRACKING_TOKEN": "secret"}
        self.parents: list[WarmParent] = []
        self.trials: list[subprocess.Popen[bytes]] = []

    def parent(self, **options: Any) -> WarmParent:
        made = WarmParent(self.run_dir, self.folder / "warm.log", trainers=self.trainers, **options)
        self.parents.append(made)
        return made

    def spec(self, name: str, **order: Any) -> Path:
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps({"answer": str(self.folder / f"{name}.answer"), **order}))
        return path

    def argv(
        self, parent: WarmParent, spec: Path, env: dict[str, str] | None = None, **more: Any
    ) -> list[str]:
        return parent.argv([*self.trainers, "train"], spec, env or self.env, **more)

    def start(self, parent: WarmParent, name: str, **order: Any) -> subprocess.Popen[bytes]:
        env = {**self.env, **order.pop("env", {})}
        argv = self.argv(parent, self.spec(name, **order), env)
        trial = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, start_new_session=True)
        self.trials.append(trial)
        return trial

    def answer(self, name: str) -> dict[str, Any]:
        path = self.folder / f"{name}.answer"
        until(path.exists)
        found: dict[str, Any] = json.loads(path.read_text())
        return found


@pytest.fixture
def bench(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("w"))
    yield made
    for trial in made.trials:
        trial.kill()
        trial.communicate()
    pids = [parent.pid for parent in made.parents]
    for parent in made.parents:
        parent.stop()
    for pid in pids:
        until(lambda pid=pid: pid is None or gone(pid))


def test_all_trials_are_children_of_one_parent_that_knows_no_secret(bench: Bench) -> None:
    parent = bench.parent()
    assert parent.started == 0
    first, second = bench.start(parent, "one", code=3), bench.start(parent, "two", env={"MORE": "1"})
    found = [bench.answer("one"), bench.answer("two")]
    assert [first.wait(60), second.wait(60)] == [3, 0]
    assert [one["how"] for one in found] == ["warm", "warm"]
    assert [one["parent"] for one in found] == [parent.pid, parent.pid]
    assert found[0]["env"] == bench.env
    assert found[1]["env"] == bench.env | {"MORE": "1"}
    assert parent.started == 1
    environ = Path(f"/proc/{parent.pid}/environ").read_bytes()
    assert b"HOME=/home/of-jobs" in environ
    assert b"secret" not in environ


def test_a_trial_waits_in_its_own_process_for_a_parent_that_still_imports(bench: Bench) -> None:
    gate = bench.folder / "gate"
    gate.touch()
    parent = bench.parent()
    trial = bench.start(parent, "early")
    assert parent.pid is not None
    gate.unlink()
    assert bench.answer("early")["how"] == "warm"
    assert trial.wait(60) == 0


def test_a_parent_that_cannot_start_costs_a_trial_nothing_and_the_next_is_tried(bench: Bench) -> None:
    broken = bench.folder / "broken"
    broken.touch()
    parent = bench.parent()
    trial = bench.start(parent, "one", code=4)
    _, errors = trial.communicate(timeout=60)
    assert (trial.returncode, bench.answer("one")["how"]) == (4, "plain")
    assert bench.answer("one")["pid"] == trial.pid
    assert errors.startswith(b"no warm start: ")
    assert "broken" in (bench.folder / "warm.log").read_text()
    broken.unlink()
    until(lambda: parent.pid is None)
    bench.start(parent, "two")
    assert bench.answer("two")["how"] == "warm"
    assert parent.started == 2


def test_what_the_parent_refuses_starts_plainly_in_the_same_process(bench: Bench) -> None:
    parent = bench.parent()
    bench.start(parent, "one").wait(60)
    trial = bench.start(parent, "other", env={"TORCH_HOME": "/elsewhere"})
    _, errors = trial.communicate(timeout=60)
    assert bench.answer("other")["how"] == "plain"
    assert bench.answer("other")["pid"] == trial.pid
    assert errors == b"no warm start: TORCH_HOME differs from what it was when the warm parent read it\n"


def test_a_stop_reaches_a_trial_that_was_started_plainly(bench: Bench) -> None:
    parent = bench.parent()
    bench.start(parent, "one").wait(60)
    trial = bench.start(parent, "other", env={"HOME": "/elsewhere"}, until="/nonexistent")
    bench.answer("other")
    trial.terminate()
    assert trial.wait(60) == -signal.SIGTERM


def test_when_the_parent_dies_its_trials_end_by_a_signal_and_another_takes_its_place(bench: Bench) -> None:
    parent = bench.parent()
    trial = bench.start(parent, "one", until="/nonexistent")
    child = bench.answer("one")["pid"]
    pid = parent.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert trial.wait(60) == -signal.SIGHUP
    until(lambda: gone(child))
    until(lambda: parent.pid is None)
    assert bench.start(parent, "two").wait(60) == 0
    assert bench.answer("two")["how"] == "warm"
    assert parent.started == 2


def test_switched_off_again_and_distributed_are_plain_starts(bench: Bench) -> None:
    spec = bench.spec("any")
    plain = [*bench.trainers, "train", str(spec)]
    parent = bench.parent()
    assert bench.argv(parent, spec, attempt=2) == plain
    assert bench.argv(parent, spec, processes=2) == plain
    off = bench.parent(enabled=False)
    assert bench.argv(off, spec) == plain
    assert (
        warm.argv(None, [*bench.trainers, "train"], spec, bench.env, attempt=1, processes=1, trials=2)
        == plain
    )
    parent.stop()
    assert bench.argv(parent, spec) == plain
    assert (parent.started, off.started) == (0, 0)
    assert bench.argv(bench.parent(), spec)[-len(plain) :] == plain


def test_a_job_of_one_trial_uses_a_parent_and_starts_none(bench: Bench) -> None:
    parent = bench.parent()
    plain = [*bench.trainers, "train", str(bench.spec("any"))]
    assert bench.argv(parent, bench.spec("any"), trials=1) == plain and parent.started == 0
    assert bench.start(parent, "two").wait(60) == 0
    assert bench.argv(parent, bench.spec("any"), trials=1)[-len(plain) :] == plain
    assert bench.argv(parent, bench.spec("any"), trials=1) != plain and parent.started == 1


def test_a_place_without_room_for_a_socket_is_no_obstacle(bench: Bench) -> None:
    bench.run_dir = bench.folder / ("long" * 30)
    bench.run_dir.mkdir()
    parent = bench.parent()
    spec = bench.spec("any")
    assert bench.argv(parent, spec) == [*bench.trainers, "train", str(spec)]
    assert parent.started == 0


@pytest.mark.parametrize(
    ("nodes", "gpus", "distributed", "expected"),
    [(1, None, True, 1), (2, None, True, 2), (1, "0,1", True, 2), (3, "0,1", True, 3), (2, "0,1", False, 1)],
)
def test_how_many_processes_a_trial_may_have(
    nodes: int, gpus: str | None, distributed: bool, expected: int
) -> None:
    env = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
    assert warm.processes(nodes, env, distributed=distributed) == expected


SERVER = """
import json, subprocess, sys, time
from pathlib import Path
from amlocal.emulator.jobs.warm import WarmParent

run_dir, log, script, spec, env = sys.argv[1:]
env = json.loads(env)
parent = WarmParent(Path(run_dir), Path(log), trainers=(sys.executable, script))
argv = parent.argv((sys.executable, script, "train"), Path(spec), env)
trial = subprocess.Popen(argv, env=env, start_new_session=True)
print(parent.pid, trial.pid, flush=True)
time.sleep(300)
"""


def test_after_a_kill_of_the_server_trials_go_on_and_the_parent_ends_with_the_last(bench: Bench) -> None:
    ready = bench.folder / "finish"
    spec, log, environ = bench.spec("one", until=str(ready)), bench.folder / "log", json.dumps(bench.env)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, *map(str, (bench.run_dir, log, bench.script, spec)), environ],
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    parent, trial = (int(pid) for pid in server.stdout.readline().split())
    try:
        child = bench.answer("one")
        assert (child["how"], child["parent"]) == ("warm", parent)
        (listening,) = bench.run_dir.glob("warm-*/socket")
        server.kill()
        server.wait()
        server.stdout.close()
        until(lambda: not listening.exists())
        assert not gone(trial)
        assert not gone(child["pid"])
    finally:
        ready.touch()
        server.kill()
    for pid in (child["pid"], trial, parent):
        until(lambda pid=pid: gone(pid))
