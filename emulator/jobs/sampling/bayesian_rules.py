"""What a space must be like for bayesian sampling.

Source: "Hyperparameter tuning a model" (choice, uniform and quniform only) and the AutoML documentation (no
conditional spaces).
"""

from __future__ import annotations

from amlocal.emulator.jobs.sampling.space import Choice, QUniform, Space, SpaceError, Uniform

_MOST_POINTS = 100_000


def check(space: Space) -> None:
    """Raises SpaceError naming the parameter and what it may be instead."""
    if space.conditional:
        raise SpaceError("bayesian sampling takes no conditional search space; use random or grid")
    for name, distribution in space.parameters():
        if type(distribution) not in (Choice, Uniform, QUniform):
            raise SpaceError(
                f"{name}: bayesian sampling takes choice, uniform and quniform only, not {distribution.kind}"
            )
        if isinstance(distribution, Choice):
            texts = sum(isinstance(value, str) for value in distribution.values)
            if 0 < texts < len(distribution.values):
                raise SpaceError(f"{name}: bayesian sampling takes a choice of texts or one without any text")
        if isinstance(distribution, QUniform) and distribution.q is not None:
            points = (distribution.second - distribution.first) / distribution.q
            if points > _MOST_POINTS:
                raise SpaceError(
                    f"{name}: bayesian sampling takes a quniform of at most {_MOST_POINTS} steps"
                )
