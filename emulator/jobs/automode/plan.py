"""AutoMode's plan: what it says, how it is written down and read back. `planner` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from amlocal.emulator.jobs.automode import policy as automode_policy
from amlocal.emulator.jobs.automode.facts import MODEL, Facts
from amlocal.emulator.jobs.automode.policy import KeepingBandit
from amlocal.emulator.jobs.sampling.space import Sample
from amlocal.emulator.jobs.termination.policies import described


@dataclass(frozen=True)
class Choice:
    """What a trial is made with, and why. `sample` is without fixed parameters; `seconds` are predicted.

    `epochs` is how many the sample would have if time were no matter.
    """

    sample: Sample
    reason: str
    seconds: float
    epochs: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**vars(self), "sample": dict(self.sample)}


@dataclass(frozen=True)
class LeftOut:
    """A model that is not tried."""

    model: str
    reason: str


@dataclass(frozen=True)
class AutoPlan:
    """What is tried. `first` are the trials of the plan, the default model's first where `default_first`;
    `default` is that trial wherever it stands, None where it cannot be trained here. `trials` is how many are
    expected in all; `share` seconds for each but the first. `tight`: time cuts trials or their epochs."""

    facts: Facts
    seed: int
    first: tuple[Choice, ...]
    trials: int
    share: float
    tight: bool
    default: Choice | None
    default_first: bool
    left_out: tuple[LeftOut, ...]
    policy: KeepingBandit

    @property
    def lanes(self) -> int:
        """How many trials run at once."""
        return self.facts.lanes

    def lines(self) -> list[str]:
        """The plan for the log, one sentence a line, each choice with its reason."""
        return [
            _heading(self),
            *(
                f"trial {number}: {_told(choice.sample)}: {choice.reason}; predicted {span(choice.seconds)}"
                for number, choice in enumerate(self.first)
            ),
            *self._rest(),
            *(f"left out: {one.model}: {one.reason}" for one in self.left_out),
            automode_policy.sentence(self.policy),
        ]

    def _rest(self) -> list[str]:
        rest = range(len(self.first), self.trials)
        if not rest:
            return []
        which = f"trial {rest[0]}" if len(rest) == 1 else f"trials {rest[0]} to {rest[-1]}"
        return [
            f"{which}: the best trial so far with another learning_rate, number_of_epochs, batch or image "
            "size, optimizer, or layers_to_freeze, and each third of them the best trial of the second best "
            "model; what helped is repeated, what did not is avoided"
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; also what the log says."""
        return {
            "schema": 1,
            "seed": self.seed,
            "facts": self.facts.as_dict(),
            "first": [choice.as_dict() for choice in self.first],
            "trials": self.trials,
            "share_seconds": self.share,
            "tight": self.tight,
            "default": None if self.default is None else self.default.as_dict(),
            "default_first": self.default_first,
            "left_out": [vars(one) for one in self.left_out],
            "early_termination": described(self.policy),
            "lines": self.lines(),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What `as_dict` gave, so that a plan outlives the server and its updates. Raises KeyError and
        TypeError for what it did not give."""
        return cls(
            facts=Facts.of(document["facts"]),
            seed=document["seed"],
            first=tuple(Choice(**choice) for choice in document["first"]),
            trials=document["trials"],
            share=document["share_seconds"],
            tight=document["tight"],
            default=None if document["default"] is None else Choice(**document["default"]),
            default_first=document["default_first"],
            left_out=tuple(LeftOut(**one) for one in document["left_out"]),
            policy=automode_policy.of(document["early_termination"]),
        )


def _told(sample: Sample) -> str:
    model = sample.get(MODEL, "the model that the job names")
    rest = ", ".join(f"{key} {value}" for key, value in sample.items() if key != MODEL)
    return f"{model} with {rest}" if rest else f"{model} with its defaults"


def _heading(made: AutoPlan) -> str:
    facts = made.facts
    device = "a GPU" if facts.gpu else f"{facts.cores} cores, no GPU"
    sides = f"{facts.median_side} pixels, at most {facts.largest_side}" if facts.median_side else "unknown"
    trained = sum(start == "pretrained" for start in facts.starts.values())
    return (
        f"AutoMode's plan (seed {made.seed}): {made.trials} trials of at most {facts.max_trials} within "
        f"{span(facts.timeout)}, {facts.max_concurrent} at once, on {device}; {facts.train_images} training "
        f"and {facts.validation_images} validation images of {facts.classes} classes, median side {sides}; "
        f"{trained} of {len(facts.starts)} models have pretrained weights"
    )


def span(seconds: float) -> str:
    """A time for a reader: two digits are more than a prediction is worth."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{float(f'{seconds:.2g}'):g} s"
