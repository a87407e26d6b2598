"""Every distribution: the range of its values, its quantum, its quantiles, and what it refuses."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as some

from amlocal.emulator.jobs.sampling.space import (
    KINDS,
    Choice,
    Normal,
    QUniform,
    Randint,
    Space,
    SpaceError,
    SubSpace,
    of_numbers,
    quantized,
)

U = some.floats(0, 1, exclude_max=True)
NUMBER = some.floats(-1000, 1000)
LOGARITHM = some.floats(-20, 20)
QUANTUM = some.sampled_from([1, 2, 5, 32, 0.5, 0.1, 0.001, 3.7])


def multiple(value: float, q: float) -> bool:
    return Decimal(repr(value)) % Decimal(repr(q)) == 0


@given(some.lists(some.one_of(some.integers(), some.text(), some.booleans()), min_size=1), U)
def test_choice(values: list[int | str | bool], u: float) -> None:
    assert Choice(tuple(values)).at(u) in values


@given(some.integers(1, 20))
def test_choice_gives_each_value_an_equal_share(count: int) -> None:
    drawn = [Choice(tuple(range(count))).at(step / (count * 10)) for step in range(count * 10)]
    assert [drawn.count(value) for value in range(count)] == [10] * count


@given(some.integers(1, 2**53), U)
def test_randint(upper: int, u: float) -> None:
    drawn = Randint(upper).at(u)
    assert isinstance(drawn, int) and 0 <= drawn < upper
    assert Randint(upper).at(0) == 0 and Randint(3).at(math.nextafter(1, 0)) == 2


@given(NUMBER, NUMBER, U, QUANTUM)
def test_uniform_and_quniform(one: float, two: float, u: float, q: float) -> None:
    low, high = sorted((one, two))
    if low == high:
        return
    plain = of_numbers("uniform", [low, high])
    assert plain.bounds() == (low, high) and low <= plain.at(u) <= high
    drawn = of_numbers("quniform", [low, high, q])
    value = drawn.at(u)
    assert value == quantized(plain.at(u), q) and multiple(value, q)
    assert low - q / 2 - 1e-9 <= value <= high + q / 2 + 1e-9
    assert drawn.bounds()[0] <= value <= drawn.bounds()[1]


@given(LOGARITHM, LOGARITHM, U, QUANTUM)
def test_loguniform_and_qloguniform(one: float, two: float, u: float, q: float) -> None:
    low, high = sorted((one, two))
    plain = of_numbers("loguniform", [low, high])
    value = plain.at(u)
    assert math.exp(low) <= value <= math.exp(high)
    assert math.log(value) == pytest.approx(low + (high - low) * u, abs=1e-9)
    drawn = of_numbers("qloguniform", [low, high, q])
    assert drawn.at(u) == quantized(value, q) and multiple(drawn.at(u), q)
    assert drawn.bounds()[0] <= drawn.at(u) <= drawn.bounds()[1]


@given(NUMBER, some.floats(0.001, 100), U, QUANTUM)
def test_normal_and_qnormal(mu: float, sigma: float, u: float, q: float) -> None:
    plain = of_numbers("normal", [mu, sigma])
    assert abs(plain.at(u) - mu) < 9 * sigma and plain.at(0.5) == mu
    assert plain.at(0.841344746068543) == pytest.approx(mu + sigma, abs=1e-6)
    value = of_numbers("qnormal", [mu, sigma, q]).at(u)
    assert value == quantized(plain.at(u), q) and multiple(value, q)
    assert plain.bounds() == (-math.inf, math.inf)


@given(some.floats(-5, 5), some.floats(0.001, 3), U, QUANTUM)
def test_lognormal_and_qlognormal(mu: float, sigma: float, u: float, q: float) -> None:
    plain = of_numbers("lognormal", [mu, sigma])
    assert plain.at(u) > 0 and plain.at(0.5) == pytest.approx(math.exp(mu))
    assert math.log(plain.at(u)) == pytest.approx(of_numbers("normal", [mu, sigma]).at(u), abs=1e-9)
    value = of_numbers("qlognormal", [mu, sigma, q]).at(u)
    assert value == quantized(plain.at(u), q) and multiple(value, q) and value >= 0


def test_hand_worked_values() -> None:
    assert of_numbers("uniform", [0.1, 0.9]).at(0.25) == pytest.approx(0.3)
    assert of_numbers("quniform", [1, 10, 4]).at(0.0) == 0
    # round(5.5 / 4) * 4 and round(9.5 / 4) * 4
    assert [of_numbers("quniform", [1, 10, 4]).at(u) for u in (0.5, 0.9444444444444444)] == [4, 8]
    assert of_numbers("quniform", [0, 1, 0.1]).at(0.3) == 0.3
    assert isinstance(of_numbers("quniform", [0.5, 9.5, 1]).at(0.3), int)
    assert of_numbers("loguniform", [-6, -1]).at(0.5) == pytest.approx(math.exp(-3.5))
    assert of_numbers("loguniform", [-3, -1]).at(0.5, base=10) == pytest.approx(0.01)
    assert of_numbers("loguniform", [-3, -1]).bounds(base=10) == (pytest.approx(0.001), pytest.approx(0.1))
    assert of_numbers("qloguniform", [math.log(16), math.log(64), 16]).at(0.5) == 32


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "choice"])
def test_numbers_come_back_as_they_were(kind: str) -> None:
    numbers = {"randint": (7,)}.get(kind, (1, 2, 3) if kind.startswith("q") else (1, 2))
    made = of_numbers(kind, numbers)
    assert made.kind == kind and made.numbers() == numbers
    for count in range(5):
        if count != len(numbers):
            with pytest.raises(SpaceError, match=f"{kind} takes"):
                of_numbers(kind, [1] * count)


@pytest.mark.parametrize(
    ("kind", "numbers", "message"),
    [
        ("uniform", [2, 1], "min_value must be the smaller"),
        ("uniform", [1, 1], "min_value must be the smaller"),
        ("quniform", [5, 1, 1], "min_value must be the smaller"),
        ("quniform", [1, 5, 0], "q is 0; it must be larger than 0"),
        ("loguniform", [0, 800], "numbers given are logarithms"),
        ("lognormal", [700, 10], "numbers given are logarithms"),
        ("normal", [0, 0], "sigma is 0"),
        ("qnormal", [0, -1, 1], "sigma is -1"),
        ("uniform", [0, math.inf], "max_value is inf; it must be a number"),
        ("normal", [math.nan, 1], "mu is nan"),
        ("uniform", [0, 10**400], "must be a number"),
        ("randint", [0], "at least 1"),
        ("randint", [1.5], "whole number"),
        ("randint", [2**60], "larger than 2"),
    ],
)
def test_refused_numbers(kind: str, numbers: list[float], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        of_numbers(kind, numbers)


def test_refused_forms() -> None:
    for made in (lambda: Choice(()), lambda: QUniform(0, 1), lambda: Normal(0, 1, 2), lambda: Space(())):
        with pytest.raises(SpaceError):
            made()
    with pytest.raises(SpaceError, match="at most 10000"):
        Choice(tuple(range(10_001)))


def test_the_size_of_a_space() -> None:
    two, three = Choice((1, 2)), Choice(("a", "b", "c"))
    flat = SubSpace({"x": two, "y": three})
    assert flat.size == 6 and SubSpace({}).size == 1
    assert Space((flat, SubSpace({"x": two}))).size == 8
    assert SubSpace({"x": Choice((flat, 1)), "y": Randint(10)}).size == 70
    assert Space((flat, SubSpace({"x": of_numbers("uniform", [0, 1])}))).size is None
    assert Space((flat, flat)).conditional and Space((SubSpace({"x": Choice((flat,))}),)).conditional
    assert not Space((flat,)).conditional
