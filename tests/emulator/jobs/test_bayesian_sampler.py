"""Bayesian sampling: it learns from scores, keeps away from what runs, and can begin anew at any time."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from amlocal.emulator.jobs.sampling import bayesian_sampler, random_sampler
from amlocal.emulator.jobs.sampling.samplers import Sampling
from amlocal.emulator.jobs.sampling.space import (
    Choice,
    QUniform,
    Sample,
    Space,
    SpaceError,
    SubSpace,
    Trial,
    Uniform,
)


def space(**parameters: Any) -> Space:
    return Space((SubSpace(parameters),))


MIXED = space(
    rate=Uniform(0.0, 1.0),
    depth=QUniform(0, 10, 1),
    model=Choice(("a", "b", "c")),
    deep=Choice((True, False)),
)


def score(sample: Sample) -> float:
    """Best at 1: rate 0.7, depth 3, model b."""
    near = 1 - (sample["rate"] - 0.7) ** 2 - (sample["depth"] - 3) ** 2 / 50
    return float(near - (0 if sample["model"] == "b" else 0.3))


def played(count: int, seed: int = 1) -> list[Trial]:
    history: list[Trial] = []
    for index in range(count):
        sample = drawn(MIXED, history, seed, index)
        history.append(Trial(sample, score(sample)))
    return history


def drawn(where: Space, history: list[Trial], seed: int, index: int) -> Sample:
    sample = bayesian_sampler.draw(where, history, seed, index)
    assert sample is not None
    return sample


HISTORY = played(24)


def test_it_finds_better_samples_than_chance() -> None:
    ours, chance = [], []
    for seed in range(4):
        ours.append(max(trial.score or 0.0 for trial in played(24, seed)))
        samples = [random_sampler.draw(MIXED, (), seed, index) for index in range(24)]
        chance.append(max(score(sample) for sample in samples if sample))
    assert sum(ours) > sum(chance)
    assert min(ours) > 0.95
    # What scores well is drawn more often: model b, of which chance takes a third.
    late = [trial.sample["model"] for trial in HISTORY[8:]]
    assert late.count("b") > len(late) / 2


def test_the_larger_score_is_the_better_one() -> None:
    """A sweep that minimizes gives negatives; the same trials turned round lead elsewhere."""
    where = space(x=Uniform(0.0, 1.0))
    up = [Trial({"x": x / 20}, x / 20) for x in range(21)]
    down = [Trial(trial.sample, -(trial.score or 0.0)) for trial in up]
    high = [drawn(where, up, seed, 21)["x"] for seed in range(12)]
    low = [drawn(where, down, seed, 21)["x"] for seed in range(12)]
    assert sum(high) / 12 > 0.8 and sum(low) / 12 < 0.2


def test_it_begins_at_random_and_only_scores_end_that() -> None:
    for index in (*range(8), 9, 14, 19):
        assert drawn(MIXED, HISTORY[:index], 1, index) == random_sampler.draw(MIXED, (), 1, index)
    unscored = [Trial(trial.sample, None) for trial in HISTORY]
    assert drawn(MIXED, unscored, 1, 23) == random_sampler.draw(MIXED, (), 1, 23)
    assert drawn(MIXED, HISTORY[:8], 1, 8) != random_sampler.draw(MIXED, (), 1, 8)


def test_the_same_arguments_give_the_same_sample_whatever_was_drawn_between() -> None:
    history = HISTORY[:22]
    first = drawn(MIXED, history, 7, 22)
    drawn(MIXED, HISTORY[:12], 3, 12)
    assert drawn(MIXED, list(history), 7, 22) == first
    assert drawn(MIXED, history, 8, 22) != first
    assert drawn(MIXED, history, 7, 23) != first
    assert Sampling("bayesian", seed=7).draw(MIXED, history, 99, 22) == first


def test_another_process_draws_the_same() -> None:
    """After a crash the sweep goes on in a new process, whose hashes are salted anew."""
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); "
        "from amlocal.emulator.jobs.sampling import bayesian_sampler as b; "
        "from amlocal.emulator.jobs.sampling.space import *; "
        # The server starts without it: importing it takes half a second.
        "assert 'optuna' not in sys.modules; "
        "s = Space((SubSpace({'rate': Uniform(0.0, 1.0), 'depth': QUniform(0, 10, 1), "
        "'model': Choice(('a', 'b', 'c')), 'deep': Choice((True, False))}),)); "
        "h = [Trial(x, y) for x, y in json.load(sys.stdin)]; print(json.dumps(b.draw(s, h, 7, 23)))"
    )
    told = json.dumps([[dict(trial.sample), trial.score] for trial in HISTORY[:23]])
    done = subprocess.run(
        [sys.executable, "-c", program, "."], input=told, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == drawn(MIXED, HISTORY[:23], 7, 23)
    # Optuna says nothing of its own in the server's log.
    assert done.stderr == ""


def test_it_keeps_away_from_trials_that_run() -> None:
    where = space(x=Uniform(0.0, 1.0))
    history = [Trial({"x": x}, 1 - abs(x - 0.5)) for x in (0.05, 0.2, 0.35, 0.49, 0.51, 0.65, 0.8, 0.95)]
    alone = [drawn(where, history, seed, 8)["x"] for seed in range(8)]
    running = [Trial({"x": 0.5 + step / 500}, None) for step in range(-10, 11)]
    beside = [drawn(where, history + running, seed, 30)["x"] for seed in range(8)]
    assert sum(abs(x - 0.5) for x in beside) > 1.5 * sum(abs(x - 0.5) for x in alone)


def test_a_batch_of_concurrent_trials_has_different_samples() -> None:
    history = list(HISTORY)
    for index in range(24, 30):
        history.append(Trial(drawn(MIXED, history, 1, index), None))
    samples = [trial.sample for trial in history[24:]]
    assert all(one != other for one, other in itertools.combinations(samples, 2))


def test_a_finite_space_ends_without_repeats() -> None:
    where = space(model=Choice(("a", "b")), depth=Choice((1, 2, 4, 8)), wide=Choice((True, False)))
    history: list[Trial] = []
    for index in range(16):
        sample = drawn(where, history, 3, index)
        history.append(Trial(sample, sample["depth"] / 8 + (sample["model"] == "b")))
    assert len({json.dumps(dict(trial.sample), sort_keys=True) for trial in history}) == 16
    assert bayesian_sampler.draw(where, history, 3, 16) is None
    # The best is found in the first half: chance would need luck.
    best = {"model": "b", "depth": 8}
    assert any(trial.sample.items() >= best.items() for trial in history[:9])


def test_values_come_back_in_their_own_type() -> None:
    where = space(
        epochs=Choice((30, 15, 45)),
        rate=Choice((0.1, 1, 0.001)),
        on=Choice((False, True)),
        q=QUniform(0, 2, 0.5),
    )
    history = [Trial(random_sampler.draw(where, (), 5, index) or {}, index / 10) for index in range(12)]
    for seed in range(10):
        sample = drawn(where, history, seed, 12)
        assert sample["epochs"] in (15, 30, 45) and type(sample["epochs"]) is int
        assert sample["on"] in (True, False) and type(sample["on"]) is bool
        assert sample["q"] in (0, 0.5, 1, 1.5, 2)
        assert (type(sample["rate"]) is int) is (sample["rate"] == 1)


def test_trials_of_another_space_and_strange_scores_teach_nothing() -> None:
    where = space(x=Uniform(0.0, 1.0), n=Choice((1, 2, 3)))
    strange = [
        Trial({}, 1.0),
        Trial({"x": "text", "n": 1}, 1.0),
        Trial({"x": 0.5, "n": 7}, 1.0),
        Trial({"x": True, "n": 1}, 1.0),
    ] * 5
    assert drawn(where, strange, 1, 20) == random_sampler.draw(where, (), 1, 20)
    broken = [Trial({"x": x / 10, "n": 1}, math.nan if x % 2 else math.inf) for x in range(10)]
    assert drawn(where, broken, 1, 10) == random_sampler.draw(where, (), 1, 10)
    more = [Trial({"x": x / 10, "n": 1, "extra": 5}, x / 10) for x in range(10)]
    assert drawn(where, more + broken, 1, 20) != random_sampler.draw(where, (), 1, 20)


def test_a_space_that_bayesian_sampling_does_not_take_is_refused() -> None:
    two = Space((SubSpace({"x": Uniform(0, 1)}), SubSpace({"y": Uniform(0, 1)})))
    with pytest.raises(SpaceError, match="no conditional"):
        bayesian_sampler.draw(two, (), 1, 0)


@settings(max_examples=40, deadline=None)
@given(
    low=some.floats(-1e9, 1e9),
    width=some.floats(1e-6, 1e9),
    least=some.integers(-1000, 1000),
    count=some.integers(0, 500),
    q=some.sampled_from((0.001, 0.25, 0.3, 1, 7)),
    scores=some.lists(some.floats(-1e12, 1e12), min_size=6, max_size=12),
    seed=some.integers(-(2**31), 2**63),
)
def test_every_sample_is_one_of_the_space(
    low: float, width: float, least: int, count: int, q: float, scores: list[float], seed: int
) -> None:
    stepped = QUniform(least * q, (least + count) * q + q / 4, q)
    where = space(x=Uniform(low, low + width), s=stepped, c=Choice(("a", "b")))
    history = [
        Trial(random_sampler.draw(where, (), seed, index) or {}, score) for index, score in enumerate(scores)
    ]
    sample = drawn(where, history, seed, len(scores))
    assert low <= sample["x"] <= low + width and sample["c"] in ("a", "b")
    bottom, top = stepped.bounds()
    assert bottom <= sample["s"] <= top
    assert sample["s"] == stepped.at((sample["s"] - stepped.first) / (stepped.second - stepped.first))
