"""The bench: its arithmetic, its contestants, and the whole command on a handful of tiny images."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

from amlocal.trainers import spec as specs
from amlocal.trainers.__main__ import main
from amlocal.trainers.bench import measuring, ours, pictures, plain, results
from amlocal.trainers.errors import TrainingError

CPU = torch.device("cpu")
TINY = ["--image-size", "32", "--images", "16", "--batch", "4,5", "--seconds", "0.01", "--rounds", "1"]
RATIOS = {
    "end_to_end_by_model_only": "model_only_per_s",
    "end_to_end_by_expected": "expected_per_s",
    "end_to_end_by_plain_fp32": "plain_fp32_per_s",
    "end_to_end_by_plain_same_dtype": "plain_same_dtype_per_s",
}


@pytest.mark.slow
def test_the_command_writes_rows_whose_ratios_are_those_of_their_parts(tmp_path: Path) -> None:
    out = tmp_path / "here.csv"
    argv = [sys.executable, "-m", "amlocal.trainers", "bench", *TINY, "--threads", "1", "--out", str(out)]
    done = subprocess.run([*argv, "--models", "resnet18"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    header, *_ = out.read_text().splitlines()
    assert header == ",".join(results.COLUMNS)
    rows = list(csv.DictReader(out.open()))
    assert [(row["model"], row["batch"]) for row in rows] == [("resnet18", "4"), ("resnet18", "5")]
    for row in rows:
        assert (row["image_size"], row["threads"]) == ("32", "1")
        assert row["torch"] == torch.__version__
        assert row["device"]
        assert row["dtype"] in ("fp32", "bf16")
        assert row["layout"] in ("channels_last", "contiguous")
        assert row["images"] == "16 made JPEG files"
        assert {row["plain_fp32_workers"], row["plain_same_dtype_workers"]} <= {"0", "1"}
        assert (row["task"], row["plain"]) == ("image-classification", "timm")
        value = {name: float(row[name]) for name in results.COLUMNS[9:] if name not in ("task", "plain")}
        spreads = [value.pop(name) for name in results.COLUMNS if "spread" in name]
        assert spreads == [0.0] * 4
        assert [name for name, number in value.items() if number <= 0 and "workers" not in name] == []
        for ratio, part in RATIOS.items():
            assert value[ratio] == pytest.approx(value["end_to_end_per_s"] / value[part], rel=1e-3)
        alone = 1 / value["model_only_per_s"] + value["augment_ms"] / 1000
        assert value["expected_per_s"] == pytest.approx(1 / alone, rel=1e-3)
        assert value["second_trial_first_step_s"] > value["second_trial_first_batch_s"]
    for word in ("resnet18      4", "resnet18      5", "of expected", "1 CPU threads", "2nd trial"):
        assert word in done.stdout
    assert "round 1 of 1: plain fp32, 1 workers" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch", "0"], "'0' is not a whole number of at least 2"),
        (["--batch", "8,big"], "'big' is not a whole number of at least 2"),
        (["--models", ","], "name at least one"),
        (["--image-size", "8"], "'8' is not a whole number of at least 32"),
        (["--seconds", "0"], "'0' is not a number of seconds above 0"),
        (["--seconds", "nan"], "'nan' is not a number of seconds above 0"),
        (["--rounds", "-1"], "'-1' is not a whole number of at least 1"),
        (["--threads", "none"], "'none' is not a whole number of at least 1"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_what_is_no_number_or_name_is_a_wrong_call(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["bench", *arguments])
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "resnet19"], "resnet19"),
        (["--models", "facebook/deit-base-patch16-224"], "is no network of timm"),
        (["--models", "rtmdet_tiny_8xb32-300e_coco"], "is no network of timm"),
        (["--images", "8", "--batch", "4,16"], "--images 8 is less than one batch of 16"),
        (["--out", "{tmp}"], "is a folder; name a file in it"),
        (["--out", "{tmp}/none/x.csv"], "there is no folder"),
        (["--data", "{tmp}/none"], "is not a folder"),
        (["--data", "{tmp}"], "holds no images"),
        (["--threads", "4096"], "--threads 4096: there are"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *(argument.format(tmp=tmp_path) for argument in arguments)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("ERROR: ")
    assert said in out
    assert "Traceback" not in out


def test_the_made_images_are_ordinary_jpeg_files_and_always_the_same() -> None:
    data = pictures.jpeg(3)
    assert data == pictures.jpeg(3) != pictures.jpeg(4)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (500, 500), "RGB")
    assert 20_000 < len(data) < 200_000


def test_a_folder_of_images_is_taken_as_it_is(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(4):
            (tmp_path / label / f"{number}.jpg").write_bytes(pictures.jpeg(number))
    (tmp_path / "dog" / "3.jpg").write_bytes(b"no image")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    found = pictures.find(tmp_path, None)
    assert found.targets == [0, 0, 0, 0, 1, 1, 1]
    assert found.classes == 2
    assert [path.parent.name for path in found.paths] == ["cat"] * 4 + ["dog"] * 3
    assert pictures.find(tmp_path, 2).targets == [0, 1]
    assert pictures.find(tmp_path / "cat", None).targets == [0, 1, 0, 1]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no image")
    with pytest.raises(TrainingError, match="none of 1 images can be read"):
        pictures.find(tmp_path / "bad", None)


class Counted:
    """A contestant that knows its numbers beforehand."""

    def __init__(self, name: str, rates: list[float], turns: list[str]) -> None:
        self.name = name
        self._rates = iter(rates)
        self._turns = turns

    def window(self, seconds: float) -> measuring.Window:
        self._turns.append(self.name)
        return measuring.Window(round(next(self._rates) * seconds), seconds)


def test_rounds_are_interleaved_and_the_median_counts() -> None:
    turns: list[str] = []
    found = measuring.compare([Counted("a", [10, 30, 20], turns), Counted("b", [5, 5, 5], turns)], 3, 2.0)
    assert turns == ["a", "b", "b", "a", "a", "b"]
    assert found["a"] == measuring.Rate(20.0, 1.0)
    # Round by round 2, 6 and 4 times as many.
    assert found["a"].ratio_spread(found["b"]) == pytest.approx(1.0)
    assert found["a"].ratio_spread(found["a"]) == 0
    assert found["b"] == measuring.Rate(5.0, 0.0)


def test_warm_up_steps_do_not_count() -> None:
    taken = []

    def step(number: int) -> int:
        taken.append(number)
        return number

    window = measuring.window(iter([1, 2, 4, 8]), step, 1e-9, CPU)
    assert taken == [1, 2, 4]
    assert window.images == 4
    assert results.expected(100.0, 0.01) == pytest.approx(50.0)
    assert [plain.worker_counts(n) for n in (1, 2, 4, 16)] == [(0, 1), (0, 2), (0, 4), (8, 16)]


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_end_to_end_is_the_real_loop_on_the_decoded_files(
    make_spec: Any, tmp_path: Path, one_thread: None
) -> None:
    spec = specs.load(make_spec("bench", {"training_batch_size": 5, "number_of_epochs": 1}))
    assert ours.decode_seconds(spec, tmp_path / "cold") > 0
    assert not (tmp_path / "cold").exists()
    session = ours.Session(spec, CPU)
    steps: list[object] = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(None))
    before = session.model.state_dict()["conv1.weight"].clone()
    try:
        end_to_end = ours.EndToEnd(session).window(1e-9)
        assert len(steps) == measuring.WARM_UP + 1
        assert end_to_end.images == 5
        assert ours.ModelOnly(session).window(1e-9).images == 5
        assert len(steps) == 2 * (measuring.WARM_UP + 1)
        assert ours.DataOnly(session).window(1e-9).images == 5
        assert len(steps) == 2 * (measuring.WARM_UP + 1)
    finally:
        hook.remove()
    assert not torch.equal(before, session.model.state_dict()["conv1.weight"])
    assert not (spec.state_dir / "checkpoint").exists()
    # 24 images in batches of 5: 5, 5, 5, 5, 4, and again from the start.
    source = ours.endless(session.task)
    assert [len(next(source).images) for _ in range(6)] == [5, 5, 5, 5, 4, 5]


def test_a_gpu_has_no_expected_rate_of_turns() -> None:
    values: dict[str, Any] = dict.fromkeys(results.COLUMNS, 2.0)
    values |= {"device": "GPU X", "torch": "2", "model": "m", "batch": 8, "dtype": "bf16", "images": "some"}
    values |= {"layout": "channels_last", "expected_per_s": None, "end_to_end_by_expected": None}
    values |= {"second_trial_first_batch_s": None, "second_trial_first_step_s": None}
    values |= {"task": "image-object-detection", "plain": "yolo", "plain_same_dtype_per_s": None}
    values |= {"plain_same_dtype_workers": None, "end_to_end_by_plain_same_dtype": None}
    row = results.Row(**values)
    (read,) = csv.DictReader(results.as_csv([row]).splitlines())
    assert (read["expected_per_s"], read["end_to_end_by_expected"], read["batch"]) == ("", "", "8")
    assert read["plain_same_dtype_per_s"] == read["end_to_end_by_plain_same_dtype"] == ""
    table = results.table([row])
    assert "GPU X" in table
    assert "expected     model only" not in table
    assert "2nd trial    " not in table
