"""Two processes on the CPU. Run as a script by the launcher, this file is one of them."""

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
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amlocal.compat import names
from amlocal.trainers import distributed, ranks
from amlocal.trainers.checkpoints import Checkpoints
from amlocal.trainers.data import batches
from amlocal.trainers.distributed import World
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.layouts import Layout
from amlocal.trainers.loop import Loop
from amlocal.trainers.manner import Manner

DEADLINE = 400.0


class Scores:
    def __init__(self, metrics: dict[str, float]) -> None:
        self.metrics = metrics


class Toy:
    """28 random pictures, shared between the processes."""

    higher_is_better = True
    manner = Manner()

    def __init__(self, batch_size: int, scores: list[float] | None = None, most: int = 99) -> None:
        source = torch.Generator().manual_seed(1)
        self.images = torch.randn(28, 3, 2, 2, generator=source)
        self.targets = torch.randint(0, 3, (28,), generator=source)
        self.batch_size = batch_size
        self.scores = scores
        self.most = most
        self.epoch = -1

    @property
    def train_images(self) -> int:
        return len(self.images)

    def order(self, epoch: int) -> list[list[int]]:
        whole = batches.shuffled(self.train_images, self.batch_size, batches.generator(5, epoch))
        return batches.shard(whole, distributed.current())

    @property
    def batches_per_epoch(self) -> int:
        return len(self.order(0))

    def train_batches(self, epoch: int) -> Iterator[batches.Batch]:
        self.epoch = epoch
        for which in self.order(epoch)[: self.most]:
            yield batches.Batch(self.images[which], self.targets[which])

    def parts(self) -> dict[str, float]:
        return {}

    def forward(self, model: Callable[..., Any], batch: batches.Batch) -> Any:
        return model(batch.images)

    def loss(self, outputs: Tensor, batch: batches.Batch) -> Tensor:
        return F.cross_entropy(outputs, batch.targets)

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> Scores:
        model.eval()
        world = distributed.current()
        outputs = distributed.gather(model(self.images[world.rank :: world.size]))
        targets = distributed.gather(self.targets[world.rank :: world.size])
        loss = F.cross_entropy(outputs, targets).item()
        accuracy = (outputs.argmax(1) == targets).double().mean().item()
        return Scores({"accuracy": self.scores[self.epoch] if self.scores else accuracy, "log_loss": loss})


class Net(nn.Module):
    """With `spare`, a layer that nothing uses; fails in training on more than `most` images."""

    def __init__(self, dropout: float = 0.0, spare: bool = False, most: int = 99) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(
            nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 3)
        )
        self.spare = nn.Linear(2, 2) if spare else None
        self.most = most

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > self.most:
            raise MemoryError
        found: Tensor = self.inner(images)
        return found


def fit(folder: Path, task: Toy, model: Net, *, resume: bool = False, **given: Any) -> dict[str, Any]:
    """Train; what is left of it as JSON."""
    rate = {"learning_rate_scheduler": "step", "step_lr_step_size": 1000, "learning_rate": 0.05}
    quick = rate | {"number_of_epochs": 2, "random_seed": 7, "early_stopping": False}
    recorded: list[Any] = []
    kept: list[int] = []
    checkpoints = Checkpoints(folder)
    loop = Loop(
        task,
        model,
        names.effective("image-classification", "resnet18", quick | given),
        primary_metric="accuracy",
        gradient_clip="value",
        device=torch.device("cpu"),
        layout=Layout(False, "fp32"),
        checkpoints=checkpoints,
        record=recorded.extend,
        keep=lambda epoch, trained: kept.append(epoch),
    )
    done = loop.fit(checkpoints.latest() if resume else None)
    return {
        "weights": torch.cat([p.detach().flatten() for p in model.inner.parameters()]).tolist(),
        "metrics": [[m["key"], m["step"], m["value"]] for m in recorded],
        "kept": kept,
        "epochs": done.epochs,
        "best_epoch": done.best_epoch,
        "batch_size": task.batch_size,
        "best": done.best.exists(),
    }


def helpers() -> dict[str, Any]:
    rank = distributed.current().rank
    model = nn.BatchNorm1d(2)
    model.running_mean = torch.full((2,), float(rank + 5))
    distributed.share_buffers(model)
    return {
        "world": [rank, distributed.current().size],
        "rows": distributed.gather(torch.full((3 * rank, 2), float(rank))).tolist(),
        "numbers": distributed.gather(torch.arange(rank + 1)).tolist(),
        "total": distributed.total(rank + 1, 0.5),
        "first": distributed.first(4294967295.0 - rank),
        "everywhere": [distributed.everywhere(True), distributed.everywhere(rank == 0)],
        "buffer": distributed.gather(model.running_mean[None]).tolist(),
    }


def trainings(folder: Path) -> dict[str, Any]:
    """Everything that two processes do together, in one start of them."""
    rank = distributed.current().rank
    found = {"helpers": helpers()}
    found["plain"] = fit(folder / "plain", Toy(4), Net())
    found["accumulated"] = fit(folder / "accumulated", Toy(2), Net(), gradient_accumulation_step=2)
    found["spare"] = fit(folder / "spare", Toy(4), Net(spare=True))
    found["short"] = fit(folder / "short", Toy(4), Net(most=99 if rank == 0 else 2))
    found["uneven"] = fit(folder / "uneven", Toy(2, most=[99, 3][rank]), Net(), gradient_accumulation_step=2)
    scores = [[0.5] * 9, [0.1 * n for n in range(9)]][rank]
    stopping = {"early_stopping": True, "early_stopping_delay": 1, "early_stopping_patience": 2}
    found["stopped"] = fit(folder / "stopped", Toy(4, scores), Net(), number_of_epochs=9, **stopping)
    found["whole"] = fit(folder / "whole", Toy(4), Net(0.5), number_of_epochs=3)
    fit(folder / "half", Toy(4), Net(0.5), number_of_epochs=2)
    torch.manual_seed(99)
    found["resumed"] = fit(folder / "half", Toy(4), Net(0.5), number_of_epochs=3, resume=True)
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two processes found."""
    folder = tmp_path_factory.mktemp("both")
    ranks.launch([__file__, "trainings", str(folder)], 2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_processes_tell_each_other_numbers_and_rows(both: list[dict[str, Any]]) -> None:
    first, second = (found["helpers"] for found in both)
    assert (first.pop("world"), second.pop("world")) == ([0, 2], [1, 2])
    assert first == second
    assert first == {
        "rows": [[1.0, 1.0]] * 3,
        "numbers": [0, 0, 1],
        "total": [3.0, 1.0],
        "first": 4294967295.0,
        "everywhere": [True, False],
        "buffer": [[5.0, 5.0], [5.0, 5.0]],
    }


def test_alone_a_process_gets_back_what_it_gives() -> None:
    assert distributed.current() == World(0, 1)
    rows = torch.ones(2, 3)
    assert distributed.gather(rows) is rows
    assert distributed.total(2.0, 3) == [2.0, 3]
    assert distributed.first(0.25) == 0.25
    assert distributed.everywhere(True)
    assert not distributed.everywhere(False)


@pytest.mark.parametrize("name", ["plain", "accumulated", "spare", "short"])
def test_two_processes_train_as_one_with_the_whole_batch_and_twice_the_rate(
    both: list[dict[str, Any]], tmp_path: Path, name: str
) -> None:
    alone = fit(tmp_path, Toy(8), Net(), learning_rate=0.1)
    for found in both:
        assert found[name]["weights"] == pytest.approx(alone["weights"], abs=1e-5)
    assert both[0][name]["weights"] == both[1][name]["weights"]
    start = torch.cat([p.detach().flatten() for p in Net().inner.parameters()]).tolist()
    assert max(abs(a - b) for a, b in zip(start, alone["weights"], strict=True)) > 1e-2
    ours = {(key, step): value for key, step, value in both[0][name]["metrics"]}
    assert ours == pytest.approx({(key, step): value for key, step, value in alone["metrics"]}, abs=2e-5)


def test_rank_0_alone_writes(both: list[dict[str, Any]]) -> None:
    first, second = (found["plain"] for found in both)
    assert first["kept"] == [0, 1]
    assert len(first["metrics"]) == 6
    assert (second["kept"], second["metrics"]) == ([], [])
    assert first["best"]
    assert second["best"]


def test_a_batch_that_fits_in_one_process_only_is_halved_in_both(both: list[dict[str, Any]]) -> None:
    assert [found["short"]["batch_size"] for found in both] == [2, 2]
    assert [found["plain"]["batch_size"] for found in both] == [4, 4]


def test_a_process_whose_images_cannot_all_be_read_stays_in_step(both: list[dict[str, Any]]) -> None:
    first, second = (found["uneven"] for found in both)
    assert first["weights"] == second["weights"]
    assert first["weights"] != both[0]["plain"]["weights"]
    assert (first["epochs"], second["epochs"]) == (2, 2)


def test_rank_0_decides_when_to_stop(both: list[dict[str, Any]]) -> None:
    assert [found["stopped"]["epochs"] for found in both] == [3, 3]
    assert [found["stopped"]["best_epoch"] for found in both] == [2, 2]


def test_two_processes_resume_as_if_nothing_had_happened(both: list[dict[str, Any]]) -> None:
    for found in both:
        assert found["resumed"]["weights"] == found["whole"]["weights"]
    assert both[0]["resumed"]["metrics"] == both[0]["whole"]["metrics"]
    assert both[0]["resumed"]["kept"] == [2]


@pytest.mark.parametrize(
    ("given", "processes", "words"),
    [
        ({"distributed": True, "nodes": 1, "gpus": 0, "cpus": 8}, 1, ""),
        ({"distributed": True, "nodes": 1, "gpus": 1, "cpus": 8}, 1, ""),
        ({"distributed": True, "nodes": 1, "gpus": 4, "cpus": 8}, 4, "each of 4 GPUs"),
        ({"distributed": True, "nodes": 2, "gpus": 4, "cpus": 8}, 4, "node_count_per_trial is 2"),
        ({"distributed": True, "nodes": 2, "gpus": 1, "cpus": 8}, 1, "node_count_per_trial is 2"),
        ({"distributed": True, "nodes": 2, "gpus": 0, "cpus": 8}, 2, "in 2 processes"),
        ({"distributed": True, "nodes": 9, "gpus": 0, "cpus": 4}, 4, "as there are 4 CPUs"),
        ({"distributed": False, "nodes": 1, "gpus": 1, "cpus": 8}, 1, ""),
        ({"distributed": False, "nodes": 1, "gpus": 4, "cpus": 8}, 1, "distributed is false"),
        ({"distributed": False, "nodes": 3, "gpus": 0, "cpus": 8}, 1, "distributed is false"),
    ],
)
def test_how_many_processes_a_host_takes(given: dict[str, Any], processes: int, words: str) -> None:
    found = ranks.plan(**given)
    assert found.processes == processes
    assert words in found.notice
    assert bool(words) == bool(found.notice)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("killed", r"^process 2 of 2 was ended by SIGKILL; perhaps memory ran out$"),
        ("fails", r"^this data cannot be used \(process 2 of 2\)$"),
        ("breaks", r"^ZeroDivisionError: division by zero \(process 2 of 2\)$"),
    ],
)
def test_a_process_that_ends_early_ends_the_trial_with_its_reason(
    tmp_path: Path, how: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    started = time.monotonic()
    with pytest.raises(TrainingError, match=words):
        ranks.launch([__file__, how, str(tmp_path)], 2)
    assert time.monotonic() - started < DEADLINE
    assert {name: signal.getsignal(name) for name in before} == before
    assert not alive(pids(tmp_path))
    assert ("ZeroDivisionError" in capfd.readouterr().err) == (how == "breaks")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_when_the_launcher_is_ended_no_process_is_left(tmp_path: Path, number: int) -> None:
    launcher = subprocess.Popen([sys.executable, __file__, "launcher", str(tmp_path)])
    try:
        wait_for(lambda: len(pids(tmp_path)) == 2, "both processes run")
        found = pids(tmp_path)
        assert alive(found) == found
        launcher.send_signal(number)
        assert launcher.wait(DEADLINE) == -number
        wait_for(lambda: not alive(found), "both processes have ended")
    finally:
        launcher.kill()


def test_a_whole_trial_in_two_processes(
    make_spec: Callable[..., Path],
    metrics_of: Callable[[Path], dict[str, dict[int, float]]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = {"number_of_epochs": 2, "training_batch_size": 4, "random_seed": None}
    path = make_spec("pair", given, node_count=2)
    ranks.train(path, 2)
    said = capfd.readouterr().out
    assert "2 processes, each on: CPU" in said
    assert "2 processes with batches of 4 each; learning_rate x 2" in said
    assert said.count("epoch 1/2  loss") == said.count("epoch 2/2  loss") == 1
    assert said.count("best epoch") == 1
    fields = json.loads(path.read_text())
    state, artifacts = Path(fields["state_dir"]), Path(fields["artifacts_dir"])
    assert set(metrics_of(state)["accuracy"]) == {0, 1}
    result = json.loads((state / "result.json").read_text())
    assert (result["epochs"], result["train_images"], result["validation_images"]) == (2, 24, 9)
    assert "fc.weight" in torch.load(artifacts / "outputs/model.pt", weights_only=True)
    assert not (state / "checkpoint").exists()


def test_an_error_of_a_trial_in_two_processes_is_told_once(make_spec: Callable[..., Path]) -> None:
    path = make_spec("bad", node_count=2, validation_manifest="/nowhere/at/all.json")
    with pytest.raises(TrainingError, match=r"^(?!.*Error:).*nowhere"):
        ranks.train(path, 2)


def wait_for(ready: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not ready():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def pids(folder: Path) -> set[int]:
    return {int(path.suffix[1:]) for path in folder.glob("pid.*")}


def alive(numbers: set[int]) -> set[int]:
    """Those that run; one that nobody has waited for yet does not."""
    found = set()
    for number in numbers:
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.add(number)
    return found


def ends_early(how: str) -> None:
    """Rank 1 goes while rank 0 waits for it."""
    if distributed.current().rank == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "fails":
            raise TrainingError("this data cannot be used")
        print(1 / 0)
    distributed.barrier()


def in_a_process() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    if what == "launcher":
        ranks.launch([__file__, "waits", str(folder)], 2)
        return
    (folder / f"pid.{os.getpid()}").touch()

    def work() -> None:
        if what == "trainings":
            found = trainings(folder)
            (folder / f"{distributed.current().rank}.json").write_text(json.dumps(found))
        elif what == "waits":
            time.sleep(10 * DEADLINE)
        else:
            ends_early(what)

    ranks.take_part(Path(sys.argv[3]), work)


if __name__ == "__main__":
    in_a_process()
