"""The pictures of a sweep: where values stand on their axes, and that nothing can break them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from amlocal.trainers import __main__ as command
from amlocal.trainers import leaderboard
from amlocal.trainers.charts import page, sweep
from amlocal.trainers.charts.coordinates import ABSENT, MOST_AXES, coordinates
from amlocal.trainers.errors import TrainingError

START = 1_767_261_600_000.0


def trial(number: int, score: float | None, **changes: Any) -> dict[str, Any]:
    values = [] if score is None else [score / 2, score]
    times = [START + 60_000.0 * (number + 1) + 1000.0 * i for i in range(len(values))]
    found = {
        "trial": f"job_HD_{number}",
        "rank": None,
        "status": "Completed",
        "score": score,
        "parameters": {"learning_rate": 0.001 * 10.0**number, "model_name": "ab"[number % 2]},
        "values": values,
        "times": times,
    }
    return found | changes


def spec(trials: list[dict[str, Any]], folder: Path, **changes: Any) -> dict[str, Any]:
    ranked = sorted(trials, key=lambda t: (t["score"] is None, -(t["score"] or 0)))
    for place, one in enumerate(ranked, 1):
        one["rank"] = None if one["score"] is None else place
    return {
        "job": "brave_sail",
        "metric": "accuracy",
        "maximize": True,
        "start": START,
        "folder": str(folder),
        "trials": ranked,
    } | changes


def write(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(value))
    return path


def test_an_axis_is_logarithmic_where_values_are_far_apart():
    lr, epochs = coordinates([{"lr": 10.0**-e, "epochs": 5 * e, "same": 1} for e in (4, 3, 2)])
    assert [lr.height(value, "") for value in (1e-4, 1e-3, 1e-2)] == pytest.approx([0.0, 0.5, 1.0])
    assert [epochs.height(value, "") for value in (10, 15, 20)] == [0.0, 0.5, 1.0]
    assert epochs.ticks() == [(0.0, "10"), (0.5, "15"), (1.0, "20")]


def test_words_stand_apart_and_what_is_not_set_below_all():
    given = [{"model": name, "depth": 3} if name != "c" else {"model": name} for name in ("a", "b", "c")]
    model, depth = coordinates(given)
    heights = [model.height(name, "job_HD_1") for name in ("a", "b", "c")]
    assert np.diff(heights) == pytest.approx([0.5, 0.5])
    assert depth.height(None, "job_HD_2") == ABSENT < 0 < depth.height(3, "job_HD_0")
    assert depth.ticks() == [(ABSENT, "not set"), (0.5, "3")]
    # Two trials of one word stay apart, but near it.
    both = [model.height("b", name) for name in ("job_HD_1", "job_HD_2")]
    assert both[0] != both[1] and max(abs(height - 0.5) for height in both) <= 0.02


def test_what_is_the_same_everywhere_has_no_axis_and_too_many_are_left_out():
    assert coordinates([{"a": 1, "b": True}, {"a": 1, "b": True}]) == []
    many = [{f"p{i}": number for i in range(30)} for number in range(2)]
    assert [axis.name for axis in coordinates(many)] == [f"p{i}" for i in range(MOST_AXES)]
    mixed = coordinates([{"a": 1}, {"a": "one"}, {"a": True}, {"a": 1.5}])
    assert mixed[0].words == ("1", "1.5", "True", "one")


def test_the_best_so_far_never_gets_worse(tmp_path):
    trials = [trial(0, 0.9), trial(1, 0.5), trial(2, 0.95)]
    order = spec(trials, tmp_path)
    with page.settings():
        figure = sweep.metric_over_time(order, order["trials"])
        lower = figure.axes[1]
        best = lower.get_lines()[1]
    assert list(best.get_xdata()) == pytest.approx([1.0, 1 + 1 / 60, 2.0, 2 + 1 / 60, 3.0, 3 + 1 / 60])
    assert list(best.get_ydata()) == [0.45, 0.9, 0.9, 0.9, 0.9, 0.95]
    falling = spec([trial(0, 0.9), trial(1, 0.5)], tmp_path, maximize=False)
    with page.settings():
        figure = sweep.metric_over_time(falling, falling["trials"])
    assert list(figure.axes[1].get_lines()[1].get_ydata()) == [0.45, 0.45, 0.25, 0.25]


def test_each_trial_with_a_score_is_a_line_to_it(tmp_path):
    order = spec([trial(0, 0.5), trial(1, 0.9), trial(2, None)], tmp_path)
    with page.settings():
        figure = sweep.parallel_coordinates(order, order["trials"])
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 2]
    ends = sorted((float(line.get_xdata()[-1]), round(float(line.get_ydata()[-1]), 6)) for line in lines)
    assert ends[1:] == [(2.0, 0.0), (2.0, 1.0)]
    assert ends[0][0] == 1.0  # without a score it ends at the last hyperparameter
    widest = max(lines, key=lambda line: line.get_linewidth())
    assert widest.get_ydata()[-1] == 1.0


def test_the_command_writes_both_pictures_and_the_same_bytes_again(tmp_path, capsys):
    order = spec([trial(0, 0.5), trial(1, 0.9)], tmp_path / "out")
    path = write(tmp_path, order)
    before = dict(mpl.rcParams)
    assert command.main(["leaderboard", str(path)]) == 0
    first = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert sorted(first) == ["metric_over_time.png", "parallel_coordinates.png"]
    assert command.main(["leaderboard", str(path)]) == 0
    assert first == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert dict(mpl.rcParams) == before
    capsys.readouterr()


HOSTILE = "$\\frac{1}{0}$\n\x00<b>" + "x" * 300


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [trial(0, None)],
        [trial(0, 0.5)],
        [trial(i, 0.5, parameters={"same": 1}) for i in range(3)],
        [trial(i, 0.5, times=None) for i in range(3)],
        [trial(i, 0.1 * i, values=[float("nan"), 0.5], times=None, status="Canceled") for i in range(3)],
        [trial(i, 0.1 * i, parameters={HOSTILE: HOSTILE + str(i)}, trial=HOSTILE) for i in range(3)],
        [trial(i % 5, i / 50, parameters={f"p{j}": i * j for j in range(20)}) for i in range(50)],
    ],
)
def test_any_sweep_can_be_drawn(tmp_path, trials):
    order = spec(trials, tmp_path / "out", metric=HOSTILE, job=HOSTILE)
    for picture in leaderboard.run(write(tmp_path, order)):
        with Image.open(picture) as image:
            assert min(image.size) > 300 and max(image.size) < 3000


def test_one_picture_that_fails_does_not_cost_the_other(tmp_path):
    broken = [trial(0, 0.5), trial(1, 0.9, parameters=None)]
    with pytest.raises(TrainingError, match=r"^parallel_coordinates\.png: "):
        leaderboard.run(write(tmp_path, spec(broken, tmp_path / "out")))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["metric_over_time.png"]


@pytest.mark.parametrize("text", ["", "[]", '{"folder": "x"}', '{"folder": "x", "trials": [1]}'])
def test_what_describes_no_sweep_is_an_error_of_the_command(tmp_path, text, capsys):
    path = tmp_path / "spec.json"
    path.write_text(text)
    assert command.main(["leaderboard", str(path)]) == 1
    assert "is no description of a sweep" in capsys.readouterr().out
