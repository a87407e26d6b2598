"""Trials that a termination policy ends: what they keep, and when SIGTERM is only SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amlocal.trainers import loop, spec, termination, trial
from amlocal.trainers.checkpoints import Checkpoints
from amlocal.trainers.tasks import classification

TRAIN = [sys.executable, "-m", "amlocal.trainers", "train"]
LONG = {"number_of_epochs": 1000, "early_stopping": False}


def order(state: Path) -> None:
    state.mkdir(parents=True, exist_ok=True)
    (state / termination.FILE).write_text(json.dumps({"reason": "bandit: 0.2 is below 0.5"}))


def ask(state: Path) -> None:
    """As the server does it, to this process."""
    order(state)
    os.kill(os.getpid(), signal.SIGTERM)


def run(path: Path) -> tuple[Path, Path]:
    found = spec.load(path)
    trial.run(found)
    return found.artifacts_dir, found.state_dir


def when_read(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """`act` once, as step number `step` (from 1) of the whole training begins."""
    real, count = loop.Stepper.step, [0]

    def stepped(self: Any, *arguments: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] == step:
            act()
        return real(self, *arguments, **options)

    monkeypatch.setattr(loop.Stepper, "step", stepped)


def check_kept(artifacts: Path, state: Path, metrics: dict[str, dict[int, float]], epochs: int) -> None:
    result = json.loads((state / "result.json").read_text())
    scores = metrics["accuracy"]
    assert set(scores) == set(range(epochs))
    assert result["terminated"] == "bandit: 0.2 is below 0.5"
    assert result["epochs"] == epochs
    assert result["score"] == max(scores.values())
    assert scores[result["best_epoch"]] == result["score"]
    assert result["artifacts"] == {"mlflow_model": "outputs/mlflow-model", "onnx": None}
    kept = torch.load(artifacts / "outputs/model.pt", weights_only=True)
    model = load_file(artifacts / "outputs/mlflow-model/artifacts/model.safetensors")
    assert set(kept) == set(model)
    assert all(torch.equal(kept[name], model[name]) for name in kept)
    assert not (state / "checkpoint").exists()


def test_it_stops_at_the_next_step_and_keeps_its_best_epoch(
    make_spec: Any, metrics_of: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_spec("ended", LONG)
    state = spec.load(path).state_dir
    # 24 images in batches of 8: in the middle of the third epoch.
    when_read(monkeypatch, 8, lambda: ask(state))
    steps = []
    real = loop.Stepper.step
    monkeypatch.setattr(loop.Stepper, "step", lambda *a, **o: (steps.append(1), real(*a, **o))[1])
    artifacts, state = run(path)
    assert len(steps) == 8
    check_kept(artifacts, state, metrics_of(state), 2)
    assert "ended early: bandit: 0.2 is below 0.5; best epoch" in capsys.readouterr().out.splitlines()[-1]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_it_stops_in_the_middle_of_an_evaluation(
    make_spec: Any, metrics_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_spec("evaluated", LONG | {"validation_batch_size": 2})
    state = spec.load(path).state_dir
    real, count = classification.Classification._forward, [0]

    def forward(self: Any, *arguments: Any) -> Any:
        count[0] += 1
        # 9 images in batches of 2: the second batch of the second evaluation.
        if count[0] == 7:
            ask(state)
        return real(self, *arguments)

    monkeypatch.setattr(classification.Classification, "_forward", forward)
    artifacts, state = run(path)
    assert count == [7]
    check_kept(artifacts, state, metrics_of(state), 1)


def test_one_that_has_trained_its_last_epoch_writes_no_onnx_any_more(
    make_spec: Any, metrics_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_spec("last", {"number_of_epochs": 1})
    state = spec.load(path).state_dir
    real = trial._write_model

    def write(*arguments: Any) -> None:
        ask(state)
        real(*arguments)

    monkeypatch.setattr(trial, "_write_model", write)
    artifacts, state = run(path)
    check_kept(artifacts, state, metrics_of(state), 1)
    assert (artifacts / "confusion_matrix").exists() or list(artifacts.iterdir())


def test_the_next_attempt_of_one_that_was_killed_is_ended_as_well(
    make_spec: Any, metrics_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_spec("again", LONG)

    def die() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        when_read(patch, 5, die)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    path = make_spec("again", LONG, attempt=2)
    state = spec.load(path).state_dir
    when_read(monkeypatch, 1, lambda: ask(state))
    artifacts, state = run(path)
    check_kept(artifacts, state, metrics_of(state), 1)


def test_without_an_order_or_without_an_epoch_nothing_is_wanted(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    assert termination.wanted(tmp_path) is None
    order(tmp_path)
    assert termination.wanted(tmp_path) is None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Checkpoints(tmp_path / "checkpoint").save(0, model, optimizer, {}, best=True)
    assert termination.wanted(tmp_path) == "bandit: 0.2 is below 0.5"
    for text in ("", "[]", '"x"', "nonsense"):
        (tmp_path / termination.FILE).write_text(text)
        assert termination.wanted(tmp_path) is None
    (tmp_path / termination.FILE).write_text("{}")
    assert termination.wanted(tmp_path) == "ended early"


def started(path: Path, epochs: int) -> subprocess.Popen[str]:
    """A trial as a process, once it has logged so many epochs."""
    state = spec.load(path).state_dir
    process = subprocess.Popen(
        [*TRAIN, str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 300
    log = state / "metrics.jsonl"
    try:
        while not log.exists() or log.read_text().count('"accuracy"') < epochs:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "it logs too few epochs"
            time.sleep(0.02)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return process


def test_sigterm_alone_ends_the_process_as_any_other(make_spec: Any) -> None:
    path = make_spec("plain", LONG)
    process = started(path, 1)
    process.terminate()
    try:
        out, _ = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGTERM, out
    state = spec.load(path).state_dir
    assert not (state / "result.json").exists()
    assert (state / "checkpoint").exists()


@pytest.mark.slow
def test_two_processes_stop_together(make_spec: Any, metrics_of: Any) -> None:
    path = make_spec("two", LONG | {"distributed": True}, node_count=2)
    loaded = spec.load(path)
    process = started(path, 2)
    order(loaded.state_dir)
    process.terminate()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    metrics = metrics_of(loaded.state_dir)
    check_kept(loaded.artifacts_dir, loaded.state_dir, metrics, len(metrics["accuracy"]))
    again = make_spec("plain-two", LONG | {"distributed": True}, node_count=2)
    process = started(again, 1)
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGTERM
    assert not (spec.load(again).state_dir / "result.json").exists()


def test_the_server_writes_the_file_that_is_read_here() -> None:
    from amlocal.emulator.jobs import steps

    assert steps.TERMINATE == termination.FILE
