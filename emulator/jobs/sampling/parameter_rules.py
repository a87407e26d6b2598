"""Which training parameter may have which distribution, and whether all its values are allowed.

Source: the schema of AutoML search spaces in azure-ai-ml (distributions by type of field); the allowed values
stand in compat/hyperparameters.toml.
"""

from __future__ import annotations

import math

from amlocal.compat import names
from amlocal.compat.names import Hyperparameter
from amlocal.emulator.jobs.sampling.space import Choice, Distribution, SpaceError, SubSpace

_WHOLE = ("choice", "randint", "quniform", "qloguniform", "qnormal", "qlognormal")
_TEXTS = ("choice",)


def fitted(task: str, row: Hyperparameter, distribution: Distribution) -> Distribution:
    """The distribution with the values of a choice in the parameter's own type.

    The mean of a distribution without bounds must be allowed; what it draws is checked when it is drawn.
    Raises SpaceError for a distribution of the wrong kind, BadParameter for a value that is not allowed.
    """
    if isinstance(distribution, Choice):
        return Choice(tuple(_value(task, row, value) for value in distribution.values))
    kinds = {"float": (), "int": _WHOLE}.get(row.type, _TEXTS)
    if kinds and distribution.kind not in kinds:
        noun = {"int": "a whole number", "bool": "true or false"}.get(row.type, "text")
        raise SpaceError(
            f"{row.name} is {noun} and cannot be {distribution.kind}; use a single value or {_listed(kinds)}"
        )
    q = getattr(distribution, "q", None)
    if row.type == "int" and q is not None and not float(q).is_integer():
        raise SpaceError(f"{row.name} is a whole number, so q must be one, not {q}")
    low, high = distribution.bounds()
    ends = (low, high) if math.isfinite(low) and math.isfinite(high) else (distribution.at(0.5),)
    for end in ends:
        names.coerce(task, row.name, end)
    return distribution


def _value(task: str, row: Hyperparameter, value: object) -> bool | int | float | str:
    if isinstance(value, SubSpace):
        raise SpaceError(f"{row.name}: a sub-space inside choice is not possible here")
    coerced: bool | int | float | str = names.coerce(task, row.name, value)
    if row.name == "model_name":
        names.model(task, str(coerced))
    return coerced


def _listed(kinds: tuple[str, ...]) -> str:
    return kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"
