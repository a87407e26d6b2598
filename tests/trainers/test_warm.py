"""The warm parent and its client, as real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from living import gone
from warm_desk import CLIENT, NEEDED, Warm, end, launch, wait_for

from amlocal.trainers import warm_client, warm_parent


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """One that all tests share that do not hurt it."""
    with pytest.MonkeyPatch.context() as patch:
        # As the environment is in every test (see `offline`).
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HUB_CACHE", "/nonexistent/hub")
        parent = launch(tmp_path_factory.mktemp("warm") / "private")
    yield parent
    end(parent)


@pytest.fixture(autouse=True)
def same_hub(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/nonexistent/hub")


def test_before_a_fork_there_is_one_thread_and_in_the_child_everything_is_imported(
    warm: Warm, tmp_path: Path
) -> None:
    assert [p.name for p in Path(f"/proc/{warm.process.pid}/task").iterdir()] == [str(warm.process.pid)]
    environ = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    environ |= {"OF_THE_TRIAL": "ä\udcff=1", "OMP_NUM_THREADS": "1"}
    what = f"facts:{','.join((*NEEDED, 'polars'))}"
    done = warm.run(what, "hello\n", cwd=tmp_path, env=environ, umask=0o027)
    assert done.stderr == "to stderr\n"
    assert done.returncode == 0
    facts = json.loads(done.stdout)
    assert tuple(facts["there"]) == NEEDED
    assert facts["cwd"] == str(tmp_path)
    assert facts["environ"] == environ
    assert facts["umask"] == 0o027
    assert facts["cpus"] == sorted(os.sched_getaffinity(0))
    assert facts["torch_threads"] == 1
    assert facts["cuda"] is False
    assert facts["argv"] == [what]
    assert facts["said"] == "hello"
    assert facts["product"] == 200.0**3
    assert facts["pid"] != warm.process.pid
    # The child's threads and its matrix product left no trace in the parent.
    assert [p.name for p in Path(f"/proc/{warm.process.pid}/task").iterdir()] == [str(warm.process.pid)]
    one = {min(os.sched_getaffinity(0))}
    environ.pop("OMP_NUM_THREADS")
    pinned = warm.run("facts", "\n", env=environ, preexec_fn=lambda: os.sched_setaffinity(0, one))
    facts = json.loads(pinned.stdout)
    assert (facts["cpus"], facts["torch_threads"]) == (sorted(one), 1)


@pytest.mark.parametrize(
    ("what", "code", "out", "err"),
    [
        ("exit:0", 0, "no newline, no flush", ""),
        ("exit:1", 1, "no newline, no flush", ""),
        ("exit:69", 69, "no newline, no flush", ""),
        ("raise", 1, "", "RuntimeError: broken"),
        ("die:9", -9, "", ""),
        ("die:15", -15, "", ""),
        ("die:2", -2, "", "KeyboardInterrupt"),
        ("crash", -11, "", ""),
        ("memory", 1, "", "MemoryError"),
    ],
)
def test_the_client_ends_as_its_trial_ends_and_the_parent_does_not_mind(
    warm: Warm, what: str, code: int, out: str, err: str
) -> None:
    done = warm.run(what)
    assert (done.returncode, done.stdout) == (code, out)
    assert err in done.stderr
    assert warm.process.poll() is None


def test_idle_pools_of_threads_keep_no_trial_alive_and_threads_that_work_are_waited_for(warm: Warm) -> None:
    done = warm.run("pool")
    assert (done.returncode, done.stdout) == (0, '{"pool": 1}\n{"late": 1}\n')
    assert done.stderr == ""


def test_closed_standard_streams_are_no_obstacle(warm: Warm) -> None:
    def close() -> None:
        os.close(0)
        os.close(2)

    client = warm.start("exit:3", stdin=None, stderr=None, preexec_fn=close)
    assert client.communicate(timeout=60)[0] == "no newline, no flush"
    assert client.returncode == 3


def test_a_stop_is_forwarded_and_the_trial_decides(warm: Warm) -> None:
    client, pid = warm.begin("polite")
    client.terminate()
    out, _ = client.communicate(timeout=60)
    assert json.loads(out) == {"got": "SIGTERM"}
    assert client.returncode == 5
    assert gone(pid)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        client, pid = warm.begin("sleep")
        client.send_signal(number)
        client.communicate(timeout=60)
        assert client.returncode == -number
        assert gone(pid)


def test_a_trial_dies_with_its_client(warm: Warm) -> None:
    client, pid = warm.begin("deaf")
    client.kill()
    client.communicate()
    wait_for(lambda: gone(pid), "the end of the trial")
    assert warm.run("exit:4").returncode == 4


def test_two_trials_run_at_once_and_each_ends_alone(warm: Warm) -> None:
    first, first_pid = warm.begin("deaf")
    second, second_pid = warm.begin("polite")
    assert first_pid != second_pid
    second.terminate()
    second.communicate(timeout=60)
    assert second.returncode == 5
    assert not gone(first_pid)
    first.kill()
    first.communicate()
    wait_for(lambda: gone(first_pid), "the end of the first trial")


def test_what_a_trial_leaves_behind_ends_with_it(warm: Warm) -> None:
    other, other_pid = warm.begin("deaf")
    done = warm.run("litter")
    assert done.returncode == 0
    assert [gone(pid) for pid in json.loads(done.stdout)["pids"]] == [True, True]
    assert not gone(other_pid)
    other.kill()
    other.communicate()


def test_another_environment_is_refused_before_anything_runs(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/secret/place")
    done = warm.run("exit:0")
    assert (done.returncode, done.stdout) == (warm_client.UNAVAILABLE, "")
    assert done.stderr.startswith("no warm start: HF_HUB_CACHE differs")
    assert "/secret/place" not in done.stderr


def test_only_what_is_read_at_import_must_be_the_same() -> None:
    there = {"HOME": "/h", "OMP_NUM_THREADS": "2", "A": "1"}
    assert warm_parent.difference(there, {"HOME": "/h", "OMP_NUM_THREADS": "1", "HF_TOKEN": "x"}) is None
    assert str(warm_parent.difference(there, {"HOME": "/x"})).startswith("HOME differs")
    assert str(warm_parent.difference(there, there | {"TORCH_LOGS": "all"})).startswith("TORCH_LOGS differs")


def test_nonsense_is_refused(warm: Warm) -> None:
    for data, answer in ((b"\0" * 7 + b"\2{}", "version"), (b"\xff" * 8, "too many"), (b"\0" * 9, "")):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(warm.path))
            connection.sendall(data)
            told = json.loads(connection.makefile().readline())
            assert "the request cannot be used" in told["refused"]
            assert answer in told["refused"]
    assert warm.run("exit:0").returncode == 0


def test_the_socket_is_private(warm: Warm, tmp_path: Path) -> None:
    assert warm.path.stat().st_mode & 0o777 == 0o600
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o755)
    open_to_all.chmod(0o755)
    argv = [sys.executable, "-m", "amlocal.trainers", "warm"]
    done = subprocess.run([*argv, str(open_to_all / "s")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith(f"ERROR: {open_to_all} must be a folder of yours")
    cut = subprocess.run(
        [*argv, str(tmp_path / "p" / "s"), "--lifeline", "999"], capture_output=True, text=True
    )
    assert (cut.returncode, cut.stdout) == (1, "ERROR: the lifeline 999 is no open descriptor\n")
    second = subprocess.run([*argv, str(warm.path)], capture_output=True, text=True)
    assert (second.returncode, second.stdout) == (1, f"ERROR: another warm parent listens at {warm.path}\n")
    assert warm.run("exit:0").returncode == 0


def test_without_a_parent_the_client_says_that_nothing_was_run(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / ("long" * 40)):
        done = subprocess.run([*CLIENT, str(path), "spec.json"], capture_output=True, text=True)
        assert done.returncode == warm_client.UNAVAILABLE
        assert done.stderr.startswith("no warm start: ")
    wrong = subprocess.run(CLIENT, capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr) == (2, "usage: warm_client.py SOCKET SPEC [PLAIN ...]\n")


def test_when_the_parent_is_killed_trials_end_and_clients_know(tmp_path: Path) -> None:
    parent = launch(tmp_path / "killed")
    running = [parent.begin("deaf"), parent.begin("sleep")]
    parent.process.kill()
    for client, pid in running:
        _, err = client.communicate(timeout=60)
        assert client.returncode == warm_client.LOST
        assert "the warm parent ended before the trial did" in err
        # The client hears of it while the trial still ends.
        wait_for(lambda pid=pid: gone(pid), "the end of the trial")
    end(parent)
    # What is left of its socket is no obstacle to the next one.
    assert parent.run("exit:0").returncode == warm_client.UNAVAILABLE
    again = launch(tmp_path / "killed")
    client, pid = again.begin("deaf")
    again.process.terminate()
    client.communicate(timeout=60)
    assert client.returncode == warm_client.LOST
    assert gone(pid)
    assert again.process.wait(60) == 0
    assert not again.path.exists()
    end(again)


def test_it_ends_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    idle = launch(tmp_path / "idle", idle=0.1, light=True)
    assert idle.process.wait(60) == 0
    assert not idle.path.exists()
    end(idle)


@pytest.mark.slow
def test_real_trials_and_the_end_of_the_starter(make_spec: Any, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    read_end, write_end = os.pipe()
    command = ["warm", str(folder / "warm.socket"), "--lifeline", str(read_end)]
    argv = [sys.executable, "-m", "amlocal.trainers", *command]
    parent = launch(folder, argv=argv, pass_fds=(read_end,))
    os.close(read_end)
    bad = parent.run("/nonexistent/spec.json")
    assert bad.returncode == 1
    assert "cannot read the spec /nonexistent/spec.json" in bad.stdout

    # One that a termination policy ends: the order and the signal reach it by way of client and parent.
    state, long = tmp_path / "long/state", {"number_of_epochs": 1000, "early_stopping": False}
    ended = parent.start(str(make_spec("long", long)), stdin=subprocess.DEVNULL)
    metrics = state / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"accuracy"' in metrics.read_text(), "an epoch", 120)
    (state / "terminate.json").write_text('{"reason": "bandit"}')
    ended.terminate()
    out, err = ended.communicate(timeout=120)
    assert ended.returncode == 0, out + err
    assert json.loads((state / "result.json").read_text())["terminated"] == "bandit"
    assert (tmp_path / "long/artifacts/outputs/model.pt").exists()

    good = parent.start(str(make_spec("good", {"number_of_epochs": 1})), stdin=subprocess.DEVNULL)
    assert good.stdout is not None
    line = good.stdout.readline()
    assert line not in ("", "loading PyTorch\n")
    os.close(write_end)
    wait_for(lambda: not parent.path.exists(), "the end of listening")
    assert parent.run("late").returncode == warm_client.UNAVAILABLE
    out, err = good.communicate(timeout=120)
    assert good.returncode == 0, line + out + err
    assert "epoch 1/1" in out
    assert json.loads((tmp_path / "good/state/result.json").read_text())["epochs"] == 1
    assert parent.process.wait(60) == 0
    end(parent)
