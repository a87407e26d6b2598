"""Samplers: the same seed and number give the same sample, none comes twice, each algorithm's own rules."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as some

from amlocal.emulator.jobs.sampling import command_form, grid_sampler, random_sampler, samplers, walk
from amlocal.emulator.jobs.sampling.samplers import Sampling
from amlocal.emulator.jobs.sampling.space import (
    Choice,
    LogUniform,
    Randint,
    Space,
    SpaceError,
    SubSpace,
    Trial,
    Uniform,
)

FINITE = Space(
    (
        SubSpace({"model": Choice(("a", "b")), "depth": Choice((1, 2, 3))}),
        SubSpace({"model": Choice(("c",)), "freeze": Randint(2)}),
    )
)
ENDLESS = Space(
    (
        SubSpace({"model": Choice(("a", "b")), "rate": Uniform(0.001, 0.1)}),
        SubSpace({"model": Choice(("c",)), "rate": Uniform(0.5, 0.6), "depth": Choice((1, 2, 3))}),
    )
)
NESTED = command_form.parse(
    {
        "model": ["choice", [["plain", {"name": "deep", "depth": ["choice", [[1, 2]]]}]]],
        "lr": ["uniform", [0, 1]],
    }
)


def text(sample: object) -> str:
    return json.dumps(sample, sort_keys=True)


@pytest.mark.parametrize("rule", random_sampler.RULES)
@pytest.mark.parametrize("space", [FINITE, ENDLESS, NESTED])
def test_a_sample_depends_on_seed_and_number_only(space: Space, rule: str) -> None:
    first = [random_sampler.draw(space, (), 7, index, rule=rule) for index in range(8)]
    again = [
        random_sampler.draw(space, [Trial({"x": 1}, 0.5)] * 5, 7, index, rule=rule)
        for index in reversed(range(8))
    ]
    assert again[::-1] == first
    assert len({text(sample) for sample in first}) == 8
    assert [random_sampler.draw(space, (), 8, index, rule=rule) for index in range(8)] != first


def test_the_numbers_stay_the_same_from_version_to_version() -> None:
    """A job that was queued before an update must draw the same after it."""
    assert walk.uniform(7, 0, "x") == 0.5899481069991943
    sample = random_sampler.draw(ENDLESS, (), 7, 0)
    assert sample == {"model": "a", "rate": 0.06593089974110337}
    assert random_sampler.draw(FINITE, (), 7, 3) == {"model": "a", "depth": 1}
    sobol = random_sampler.draw(ENDLESS, (), 7, 5, rule="sobol")
    assert sobol == {"model": "c", "rate": 0.5680994777008891, "depth": 3}


@given(some.integers(-(2**31), 2**63), some.integers(0, 10**6))
def test_a_sub_space_is_drawn_whole_and_alone(seed: int, index: int) -> None:
    for rule in random_sampler.RULES:
        if rule == "sobol":
            index %= 1000
        sample = random_sampler.draw(ENDLESS, (), seed, index, rule=rule)
        assert sample is not None
        if sample["model"] == "c":
            assert sample.keys() == {"model", "rate", "depth"} and 0.5 <= sample["rate"] <= 0.6
        else:
            assert sample.keys() == {"model", "rate"} and 0.001 <= sample["rate"] <= 0.1


def test_a_finite_space_ends_without_repeats() -> None:
    drawn = [random_sampler.draw(FINITE, (), 3, index) for index in range(10)]
    assert drawn[8:] == [None, None]
    assert len({text(sample) for sample in drawn[:8]}) == 8
    # A sub-space is as likely as another, however many samples each has.
    first = Counter(str(random_sampler.draw(FINITE, (), seed, 0)) for seed in range(2000))
    small = sum(count for sample, count in first.items() if "'c'" in sample)
    assert len(first) == 8 and 900 < small < 1100


def test_a_finite_sub_space_runs_out_beside_one_that_does_not() -> None:
    space = Space((SubSpace({"a": Choice((1, 2))}), SubSpace({"x": Uniform(0, 1)})))
    for seed in range(20):
        drawn = [random_sampler.draw(space, (), seed, index) for index in range(30)]
        assert all(sample is not None and len(sample) == 1 for sample in drawn)
        assert sorted(sample["a"] for sample in drawn if sample and "a" in sample) == [1, 2]
        assert len({sample["x"] for sample in drawn if sample and "x" in sample}) == 28


def test_a_huge_finite_space_is_drawn_from_at_once() -> None:
    space = Space((SubSpace({str(number): Choice(tuple(range(1000))) for number in range(200)}),))
    sample = random_sampler.draw(space, (), 1, 999)
    assert sample is not None and len(sample) == 200


def test_random_numbers_are_even() -> None:
    counts = Counter(int(walk.uniform(5, index, "x") * 10) for index in range(10_000))
    assert all(900 < counts[tenth] < 1100 for tenth in range(10))


def test_sobol_fills_the_range_evenly() -> None:
    space = Space((SubSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)}),))
    for seed in (0, 1, 99):
        drawn = [random_sampler.draw(space, (), seed, index, rule="sobol") for index in range(16)]
        for name in ("x", "y"):
            # Sixteen points, one in each sixteenth: what plain random numbers do not.
            assert sorted(int(sample[name] * 16) for sample in drawn if sample) == list(range(16))


def test_logbase() -> None:
    space = Space((SubSpace({"x": LogUniform(-3, -1)}),))
    values = [Sampling(base=10.0).draw(space, (), 1, index) for index in range(50)]
    assert all(value is not None and 0.001 <= value["x"] <= 0.1 for value in values)
    natural = Sampling().draw(space, (), 1, 0)
    assert values[0] is not None and natural is not None
    assert math.log10(values[0]["x"]) == pytest.approx(math.log(natural["x"]))
    with pytest.raises(SpaceError, match="too large"):
        Sampling(base=1e-300).draw(space, (), 1, 0)


def test_the_grid_in_its_order() -> None:
    drawn = [grid_sampler.draw(FINITE_CHOICES, (), 0, index) for index in range(8)]
    assert drawn == [
        {"model": "a", "depth": 1},
        {"model": "a", "depth": 2},
        {"model": "b", "depth": 1},
        {"model": "b", "depth": 2},
        {"model": "c"},
        None,
        None,
        None,
    ]
    nested = command_form.parse(
        {"m": ["choice", [["x", {"d": ["choice", [[1, 2]]]}]]], "n": ["choice", [[8, 9]]]}
    )
    assert [grid_sampler.draw(nested, (), 0, index) for index in range(7)] == [
        {"m": "x", "n": 8},
        {"m": "x", "n": 9},
        {"m": {"d": 1}, "n": 8},
        {"m": {"d": 1}, "n": 9},
        {"m": {"d": 2}, "n": 8},
        {"m": {"d": 2}, "n": 9},
        None,
    ]


FINITE_CHOICES = Space(
    (
        SubSpace({"model": Choice(("a", "b")), "depth": Choice((1, 2))}),
        SubSpace({"model": Choice(("c",))}),
    )
)


def test_what_each_algorithm_refuses() -> None:
    with pytest.raises(SpaceError, match="rate: grid sampling takes choice only, not uniform"):
        Sampling("grid").check(ENDLESS)
    with pytest.raises(SpaceError, match="no conditional"):
        Sampling("bayesian").check(ENDLESS)
    with pytest.raises(SpaceError, match="no conditional"):
        Sampling("bayesian").check(NESTED)
    for body, message in (
        (["loguniform", [0, 1]], "x: bayesian sampling takes choice, uniform and quniform only, not log"),
        (["choice", [["a", 1]]], "a choice of texts or one without"),
        (["quniform", [0, 100_001, 1]], "at most 100000"),
    ):
        with pytest.raises(SpaceError, match=message):
            Sampling("bayesian").check(command_form.parse({"x": body}))
    Sampling("bayesian").check(
        command_form.parse({"x": ["quniform", [0, 100, 1]], "y": ["choice", [[1, 2.5]]]})
    )
    Sampling("random").check(NESTED)
    assert set(samplers.SAMPLERS) == set(samplers.CHECKS)


def test_bayesian_sampling_begins_at_random() -> None:
    space = Space((SubSpace({"x": Uniform(0, 1)}),))
    assert Sampling("bayesian").draw(space, (), 5, 0) == random_sampler.draw(space, (), 5, 0)


def test_a_seed_that_was_given_counts() -> None:
    assert Sampling(seed=5).draw(ENDLESS, (), 1, 0) == random_sampler.draw(ENDLESS, (), 5, 0)


@pytest.mark.parametrize(
    ("body", "sampling"),
    [
        ("Random", Sampling()),
        ("grid", Sampling("grid")),
        ("Bayesian", Sampling("bayesian")),
        ({"samplingAlgorithmType": "Grid"}, Sampling("grid")),
        (
            {"samplingAlgorithmType": "Random", "seed": 0, "rule": "Sobol", "logbase": "10"},
            Sampling("random", 0, "sobol", 10.0),
        ),
        ({"samplingAlgorithmType": "random", "rule": None, "logbase": "e"}, Sampling()),
    ],
)
def test_the_body_of_a_sampling(body: object, sampling: Sampling) -> None:
    assert samplers.read(body) == sampling


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("lucky", "sampling_algorithm is 'lucky'; it must be one of random, grid, bayesian"),
        ({}, "sampling_algorithm is"),
        (7, "sampling_algorithm is 7"),
        ({"samplingAlgorithmType": "Random", "seed": "x"}, "seed is 'x'"),
        ({"samplingAlgorithmType": "Random", "seed": True}, "seed is True"),
        ({"samplingAlgorithmType": "Random", "seed": 2**40}, "32 bits"),
        ({"samplingAlgorithmType": "Random", "rule": "halton"}, "must be random or sobol"),
        ({"samplingAlgorithmType": "Random", "logbase": -1}, "logbase is -1"),
        ({"samplingAlgorithmType": "Random", "logbase": 1}, "logbase is 1"),
        ({"samplingAlgorithmType": "Random", "logbase": "nan"}, "logbase is 'nan'"),
        ({"samplingAlgorithmType": "Random", "logbase": [2]}, "logbase is"),
    ],
)
def test_faults_of_a_sampling(body: object, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        samplers.read(body)
