"""Search spaces: distributions, and the sub-spaces of which a trial gets one.

Source: "Hyperparameter tuning a model" and the sweep job's YAML reference of Azure Machine Learning. Every
distribution is given by its quantile function, so that plain and quasi-random numbers give samples alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from statistics import NormalDist
from typing import Any, ClassVar

Value = bool | int | float | str
Sample = Mapping[str, Any]
"""A trial's drawn values by parameter; a value that is a mapping is itself a sample of an inner sub-space."""

_STANDARD = NormalDist()
# The quantile function of the normal distribution is infinite at 0.
_LEAST = 2.0**-54
_LARGEST = 1e300
MOST_VALUES = 10_000
"""Most values that one choice may have."""


class SpaceError(ValueError):
    """A search space cannot be used; the message says why, `position` where in a text (from 0)."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


@dataclass(frozen=True)
class Trial:
    """What a sampler knows of an earlier trial; `score` None: it has none (yet). The larger score is the
    better one: where the goal is to minimize, it is the metric's negative."""

    sample: Sample
    score: float | None = None


class Distribution:
    """One parameter's distribution. `size` is the number of its values, None where they cannot be listed."""

    kind: ClassVar[str] = ""

    @property
    def size(self) -> int | None:
        return None

    def at(self, quantile: float, base: float = math.e) -> Any:
        """The value at a quantile in [0, 1); `base` is that of the logarithms. Raises SpaceError."""
        raise NotImplementedError

    def bounds(self, base: float = math.e) -> tuple[float, float]:
        """The least and the largest value, which may be infinite; for numbers only."""
        raise NotImplementedError

    def numbers(self) -> tuple[int | float, ...]:
        """What `of_numbers` makes it of; for all but choice."""
        raise NotImplementedError


@dataclass(frozen=True)
class SubSpace:
    """Parameters that are drawn together, by name."""

    parameters: Mapping[str, Distribution]

    @property
    def size(self) -> int | None:
        sizes = [distribution.size for distribution in self.parameters.values()]
        known = [size for size in sizes if size is not None]
        return math.prod(known) if len(known) == len(sizes) else None


@dataclass(frozen=True)
class Space:
    """Sub-spaces; a trial draws one of them, and then only its parameters."""

    subspaces: Sequence[SubSpace]

    def __post_init__(self) -> None:
        if not self.subspaces:
            raise SpaceError("a search space needs at least one sub-space")

    @property
    def conditional(self) -> bool:
        return len(self.subspaces) > 1 or any(
            isinstance(option, SubSpace)
            for _, distribution in self.parameters()
            if isinstance(distribution, Choice)
            for option in distribution.values
        )

    @property
    def size(self) -> int | None:
        """The number of different samples, None where they cannot be listed."""
        sizes = [subspace.size for subspace in self.subspaces]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def parameters(self) -> Iterator[tuple[str, Distribution]]:
        """Every parameter of the sub-spaces with its name; those of inner sub-spaces are not among them."""
        for subspace in self.subspaces:
            yield from subspace.parameters.items()


@dataclass(frozen=True)
class Choice(Distribution):
    """One of `values`, each as likely as the others; a value can be a sub-space of its own."""

    values: tuple[Value | SubSpace, ...]
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        if not self.values:
            raise SpaceError("choice needs at least one value")
        if len(self.values) > MOST_VALUES:
            raise SpaceError(f"choice has {len(self.values)} values; at most {MOST_VALUES} are taken")

    @property
    def size(self) -> int | None:
        sizes = [value.size if isinstance(value, SubSpace) else 1 for value in self.values]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def at(self, quantile: float, base: float = math.e) -> Any:
        return self.values[min(int(quantile * len(self.values)), len(self.values) - 1)]


@dataclass(frozen=True)
class Randint(Distribution):
    """A whole number from 0 to below `upper`."""

    upper: int
    kind: ClassVar[str] = "randint"

    def __post_init__(self) -> None:
        if self.upper < 1:
            raise SpaceError(f"randint: the upper bound is {self.upper}; it must be at least 1")
        if self.upper > 2**53:
            raise SpaceError("randint: the upper bound is larger than 2**53")

    @property
    def size(self) -> int | None:
        return self.upper

    def at(self, quantile: float, base: float = math.e) -> Any:
        return min(int(quantile * self.upper), self.upper - 1)

    def bounds(self, base: float = math.e) -> tuple[float, float]:
        return 0, self.upper - 1

    def numbers(self) -> tuple[int | float, ...]:
        return (self.upper,)


@dataclass(frozen=True)
class _Continuous(Distribution):
    """What the other distributions share: two numbers, an optional logarithm, an optional quantum.

    `first` and `second` are the bounds (uniform) or mean and standard deviation (normal).
    """

    first: float
    second: float
    q: float | None = None
    log: ClassVar[bool] = False
    names: ClassVar[tuple[str, str]] = ("min_value", "max_value")

    def __post_init__(self) -> None:
        for name, value in zip((*self.names, "q"), (self.first, self.second, self.q), strict=True):
            if value is not None and not abs(value) < _LARGEST:
                raise SpaceError(f"{self.kind}: {name} is {value}; it must be a number")
        if (self.q is None) is self.kind.startswith("q"):
            raise SpaceError(f"{self.kind}: q is {'missing' if self.q is None else 'not taken'}")
        if self.q is not None and self.q <= 0:
            raise SpaceError(f"{self.kind}: q is {self.q}; it must be larger than 0")

    def numbers(self) -> tuple[int | float, ...]:
        return (self.first, self.second) if self.q is None else (self.first, self.second, self.q)

    def plain(self, quantile: float) -> float:
        """The quantile before logarithm and quantum."""
        raise NotImplementedError

    def at(self, quantile: float, base: float = math.e) -> Any:
        return self._finish(self.plain(quantile), base)

    def _finish(self, plain: float, base: float) -> Any:
        value = plain
        if self.log:
            try:
                value = math.exp(plain) if base == math.e else math.pow(base, plain)
            except OverflowError:
                value = math.inf
        if not math.isfinite(value):
            raise SpaceError(f"{self.kind}: its values are too large; the numbers given are logarithms")
        return value if self.q is None else quantized(value, self.q)


@dataclass(frozen=True)
class Uniform(_Continuous):
    """Any number from `first` to `second`."""

    kind: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first > self.second or (self.first == self.second and not self.log):
            raise SpaceError(
                f"{self.kind}: min_value is {self.first} and max_value is {self.second}; "
                "min_value must be the smaller one"
            )
        self.bounds()

    def plain(self, quantile: float) -> float:
        # The sum can be rounded up past the bound.
        return min(self.first + (self.second - self.first) * quantile, self.second)

    def bounds(self, base: float = math.e) -> tuple[float, float]:
        ends = self._finish(self.first, base), self._finish(self.second, base)
        return min(ends), max(ends)


@dataclass(frozen=True)
class QUniform(Uniform):
    """A uniform number, rounded to a multiple of q."""

    kind: ClassVar[str] = "quniform"


@dataclass(frozen=True)
class LogUniform(Uniform):
    """exp of a uniform number: the bounds are logarithms."""

    kind: ClassVar[str] = "loguniform"
    log: ClassVar[bool] = True


@dataclass(frozen=True)
class QLogUniform(LogUniform):
    """exp of a uniform number, rounded to a multiple of q."""

    kind: ClassVar[str] = "qloguniform"


@dataclass(frozen=True)
class Normal(_Continuous):
    """A normal number of the mean `first` and the standard deviation `second`."""

    kind: ClassVar[str] = "normal"
    names: ClassVar[tuple[str, str]] = ("mu", "sigma")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.second <= 0:
            raise SpaceError(f"{self.kind}: sigma is {self.second}; it must be larger than 0")
        self.at(0.5)
        self.at(1 - 2**-53)

    def plain(self, quantile: float) -> float:
        return self.first + self.second * _STANDARD.inv_cdf(max(quantile, _LEAST))

    def bounds(self, base: float = math.e) -> tuple[float, float]:
        return (0.0 if self.log else -math.inf), math.inf


@dataclass(frozen=True)
class QNormal(Normal):
    """A normal number, rounded to a multiple of q."""

    kind: ClassVar[str] = "qnormal"


@dataclass(frozen=True)
class LogNormal(Normal):
    """exp of a normal number: mean and deviation are those of the logarithm."""

    kind: ClassVar[str] = "lognormal"
    log: ClassVar[bool] = True


@dataclass(frozen=True)
class QLogNormal(LogNormal):
    """exp of a normal number, rounded to a multiple of q."""

    kind: ClassVar[str] = "qlognormal"


_CONTINUOUS: Mapping[str, tuple[type[_Continuous], int]] = {
    "uniform": (Uniform, 2),
    "quniform": (QUniform, 3),
    "loguniform": (LogUniform, 2),
    "qloguniform": (QLogUniform, 3),
    "normal": (Normal, 2),
    "qnormal": (QNormal, 3),
    "lognormal": (LogNormal, 2),
    "qlognormal": (QLogNormal, 3),
}
KINDS: tuple[str, ...] = ("choice", "randint", *_CONTINUOUS)
"""The names of all distributions."""


def of_numbers(kind: str, numbers: Sequence[int | float]) -> Distribution:
    """The distribution `kind`, any but choice, of its numbers in the order of the REST body.

    Raises SpaceError naming what is wrong.
    """
    if kind == "randint":
        if len(numbers) != 1:
            raise SpaceError(f"randint takes 1 number, the upper bound; {len(numbers)} are given")
        upper = numbers[0]
        if isinstance(upper, float) and not upper.is_integer():
            raise SpaceError(f"randint: the upper bound is {upper}; it must be a whole number")
        return Randint(int(upper))
    made, count = _CONTINUOUS[kind]
    if len(numbers) != count:
        wanted = ", ".join((*made.names, "q")[:count])
        raise SpaceError(f"{kind} takes {count} numbers ({wanted}); {len(numbers)} given")
    return made(*numbers)


def quantized(value: float, q: float) -> float | int:
    """round(value / q) * q, without the noise of binary fractions; whole where q is."""
    steps = round(value / q)
    if float(q).is_integer():
        return steps * int(q)
    try:
        return float(steps * Decimal(repr(q)))
    except (InvalidOperation, OverflowError):
        return steps * q
