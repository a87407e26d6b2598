"""AutoMode trial by trial: the plan's models, then what varies the best, the same for the same history."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as some

from amlocal.compat import names
from amlocal.emulator.jobs.automode import cost
from amlocal.emulator.jobs.automode import procedure as automode
from amlocal.emulator.jobs.automode.facts import Facts
from amlocal.emulator.jobs.automode.plan import AutoPlan, Choice
from amlocal.emulator.jobs.sampling.space import Sample
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps.plan import Played

DAY = 86400.0
CROP = {"training_crop_size": 64, "validation_crop_size": 64, "validation_resize_size": 64}
FACTS = Facts(
    task="image-classification",
    metric="accuracy",
    train_images=800,
    validation_images=200,
    classes=10,
    timeout=7 * DAY,
    max_trials=14,
    starts=dict.fromkeys(("mobilenetv2", "resnet18", "resnet34", "resnet50", "vitb16r224"), "random"),
    median_side=64,
    largest_side=64,
    cores=2,
    fixed=CROP,
)
FREE = replace(FACTS, fixed={})
Score = Callable[[dict[str, Any]], float]


def hill(values: dict[str, Any]) -> float:
    """Highest for a resnet18 with SGD, a rate near 0.06 and many epochs."""
    top = {"resnet18": 0.95, "resnet34": 0.94, "mobilenetv2": 0.92}.get(values["model_name"], 0.7)
    rate = values["learning_rate"] * (20 if values["optimizer"] != "sgd" else 1)
    return float(top - 0.05 * abs(math.log10(rate / 0.06)) - 0.3 * math.exp(-values["number_of_epochs"] / 15))


def sweep(made: AutoPlan, score: Score = hill, speed: float = 1.0) -> list[tuple[Played, Choice]]:
    """The whole sweep, one trial after the other; `speed`: how much longer trials take than predicted."""
    found: list[tuple[Played, Choice]] = []
    while (choice := automode.next_sample(made, [one for one, _ in found], len(found))) is not None:
        seconds = speed * cost.seconds(made.facts, choice.sample)
        trial = played(len(found), choice.sample, score(cost.whole(made.facts, choice.sample)), seconds)
        found.append((trial, choice))
    return found


def played(
    index: int,
    sample: Sample,
    score: float | None = None,
    seconds: float | None = 60.0,
    state: JobState = JobState.COMPLETED,
) -> Played:
    return Played(index, f"job_HD_{index}", sample, state, (), score, seconds)


def tried(found: Sequence[tuple[Played, Choice]]) -> list[str]:
    return [json.dumps(cost.whole(FACTS, trial.sample), sort_keys=True) for trial, _ in found]


def test_a_sweep_follows_its_plan_and_then_climbs() -> None:
    made = automode.plan(FACTS, 1)
    found = sweep(made)
    assert len(found) == 14
    assert [choice for _, choice in found[: len(made.first)]] == list(made.first)
    assert len(set(tried(found))) == 14
    scores = [trial.score or 0.0 for trial, _ in found]
    # Never worse than the default model, better than the plan's models; the second best has its turn.
    assert max(scores) >= scores[0] and max(scores) > max(scores[: len(made.first)]) + 0.03
    late = found[len(made.first) :]
    assert {trial.sample["model_name"] for trial, _ in late} == {"resnet18", "resnet34"}
    assert all(choice.reason.startswith("around trial ") for _, choice in late)


def test_each_change_says_around_which_trial_and_why() -> None:
    made = automode.plan(FACTS, 1)
    found = sweep(made)
    first, second = found[len(made.first)][1], found[len(made.first) + 1][1]
    assert first.reason == (
        "around trial 1 (resnet18, score 0.9064): learning_rate 0.063 instead of 0.021; not tried yet"
    )
    assert first.sample == {**made.first[1].sample, "learning_rate": 0.063}
    # Raising the rate helped, so it is raised again.
    assert second.sample["learning_rate"] == 0.19 and second.reason.endswith("this helped before")
    # That did not help: it is not done again to this network.
    third = [trial.sample for trial, _ in found if trial.sample["model_name"] == "resnet18"][3:]
    assert third and all(sample["learning_rate"] <= 0.063 for sample in third)


def test_the_same_history_gives_the_same_trial_and_the_seed_counts() -> None:
    one, other = automode.plan(FACTS, 1), automode.plan(FACTS, 2)
    assert tried(sweep(one)) == tried(sweep(one))
    trials = [trial for trial, _ in sweep(one)]
    again = AutoPlan.of(json.loads(json.dumps(one.as_dict())))
    for index in range(14):
        before = trials[:index]
        assert automode.next_sample(again, before, index) == automode.next_sample(one, before, index)
    # With most of the parameters fixed the changes run out, and what is near the best is drawn by the seed.
    few = {"number_of_epochs": 5, "training_batch_size": 32, "optimizer": "sgd", "weight_decay": 0.0}
    narrow = replace(FACTS, fixed={**CROP, **few, "model_name": "resnet18"})
    sweeps = [sweep(automode.plan(narrow, seed)) for seed in (1, 2)]
    drawn = [[trial.sample.get("learning_rate") for trial, _ in one] for one in sweeps]
    assert drawn[0] != drawn[1] and len(set(drawn[0])) == 14
    assert one != other


def test_time_changes_trials_only_where_it_is_short() -> None:
    long, short = automode.plan(FACTS, 1), automode.plan(replace(FACTS, timeout=2400.0), 1)
    assert tried(sweep(long)) == tried(sweep(long, speed=2.5))
    assert short.tight and tried(sweep(short)) != tried(sweep(short, speed=2.5))


@pytest.mark.parametrize("speed", [0.4, 1.0, 1.3])
def test_a_sweep_ends_within_its_time_limit_and_uses_it(speed: float) -> None:
    made = automode.plan(replace(FACTS, timeout=2400.0), 1)
    found = sweep(made, speed=speed)
    spent = sum(trial.seconds or 0.0 for trial, _ in found)
    assert 0.6 * 2400 < spent <= 2400
    assert len(found) > 1
    trials = [trial for trial, _ in found]
    if len(found) < FACTS.max_trials:
        left = automode.time_left(made, trials)
        why = automode.why_none(made, trials, len(trials))
        assert why.startswith("no more trials: none is predicted to end within the ")
        assert left < cost.seconds(made.facts, trials[1].sample) * speed
    assert automode.why_none(made, trials, 14) == "all 14 trials are made"


def test_faster_trials_than_predicted_get_their_epochs_back() -> None:
    made = automode.plan(replace(FACTS, timeout=2400.0), 1)
    planned = made.first[1]
    assert planned.sample["number_of_epochs"] < planned.epochs == 40
    fast = [played(0, made.first[0].sample, 0.5, made.first[0].seconds / 4)]
    choice = automode.next_sample(made, fast, 1)
    assert choice is not None and choice.sample["number_of_epochs"] == 40
    slow = [played(0, made.first[0].sample, 0.5, made.first[0].seconds * 1.2)]
    choice = automode.next_sample(made, slow, 1)
    assert choice is not None and 16 <= choice.sample["number_of_epochs"] < planned.sample["number_of_epochs"]
    assert "by the time that is left and what the trials so far took" in choice.reason


def test_a_default_model_that_was_left_out_is_trained_where_trials_are_fast() -> None:
    made = automode.plan(replace(FACTS, timeout=800.0), 1)
    assert not made.default_first and made.default is not None
    first = made.first[0]
    for speed, expected in ((0.2, "vitb16r224"), (1.0, "mobilenetv2")):
        trials = [played(0, first.sample, 0.5, speed * first.seconds)]
        choice = automode.next_sample(made, trials, 1)
        assert choice is not None and choice.sample["model_name"] == expected
    late = automode.next_sample(made, [played(0, first.sample, 0.5, 0.2 * first.seconds)], 1)
    assert late is not None and late.sample == {"model_name": "vitb16r224"}
    assert late.reason.endswith("by what the first trials took, it fits")
    # Once only.
    trials = [played(0, first.sample, 0.5, 20.0), played(1, late.sample, 0.3, 100.0)]
    third = automode.next_sample(made, trials, 2)
    assert third is not None and third.sample["model_name"] != "vitb16r224"


def test_trials_that_run_at_once_are_different() -> None:
    made = automode.plan(replace(FACTS, max_concurrent=14), 1)
    trials: list[Played] = []
    while (choice := automode.next_sample(made, trials, len(trials))) is not None:
        trials.append(played(len(trials), choice.sample, None, 5.0, JobState.RUNNING))
    assert len(trials) == 14
    assert len({json.dumps(cost.whole(FACTS, trial.sample), sort_keys=True) for trial in trials}) == 14
    assert trials[0].sample == {"model_name": "vitb16r224"}


def test_failed_trials_are_left_alone() -> None:
    made = automode.plan(FACTS, 1)

    def score(index: int) -> tuple[float | None, JobState]:
        return (None, JobState.FAILED) if index % 2 else (0.5 + index / 100, JobState.COMPLETED)

    trials: list[Played] = []
    while (choice := automode.next_sample(made, trials, len(trials))) is not None:
        value, state = score(len(trials))
        trials.append(played(len(trials), choice.sample, value, 30.0, state))
    assert len(trials) == 14
    assert len({json.dumps(cost.whole(FACTS, trial.sample), sort_keys=True) for trial in trials}) == 14
    # All failed: the sweep still goes on with other samples to its end.
    failed = [replace(trial, score=None, state=JobState.FAILED) for trial in trials[:13]]
    last = automode.next_sample(made, failed, 13)
    assert last is not None and all(last.sample != trial.sample for trial in failed)


def test_pretrained_networks_get_smaller_rates_and_frozen_layers() -> None:
    facts = replace(FREE, starts=dict.fromkeys(FREE.starts, "pretrained"), median_side=300, largest_side=500)
    made = automode.plan(replace(facts, max_trials=20), 1)
    found = sweep(made, lambda values: values["model_name"] == "resnet34")
    changes = " ".join(choice.reason for _, choice in found)
    assert "learning_rate 0.0033 instead of 0.01" in changes
    assert "layers_to_freeze 1 instead of none" in changes
    assert "training_crop_size 256 instead of 224" in changes


def test_fixed_parameters_win_in_every_trial() -> None:
    fixed = {**CROP, "learning_rate": 0.3, "number_of_epochs": 4, "layers_to_freeze": 1}
    found = sweep(automode.plan(replace(FACTS, fixed=fixed), 1))
    assert len(found) > 5
    for trial, _ in found:
        assert not trial.sample.keys() & fixed.keys()


def test_a_thousand_trials_are_drawn_in_fair_time() -> None:
    """Not every two of them are compared."""
    facts = replace(FACTS, max_trials=1000, starts={"resnet18": "random", "vitb16r224": "random"})
    made = automode.plan(facts, 1)
    base = dict(made.first[1].sample)
    trials = [
        played(index, {**base, "learning_rate": 0.001 + index / 10000}, 0.5 + index / 2000, 9.0)
        for index in range(600)
    ]
    choice = automode.next_sample(made, trials, 600)
    assert choice is not None and "around trial 599" in choice.reason


ENDS = [JobState.COMPLETED, JobState.FAILED, JobState.CANCELED]


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    scores=some.lists(some.one_of(some.none(), some.floats(0, 1)), min_size=12, max_size=12),
    states=some.lists(some.sampled_from(ENDS), min_size=12, max_size=12),
    at_once=some.integers(1, 4),
    timeout=some.sampled_from((900.0, 3000.0, 7 * DAY)),
    seed=some.integers(0, 2**63),
    boxes=some.booleans(),
)
@example([None] * 12, ENDS[:1] * 12, 1, 900.0, 0, False)
def test_whatever_happens_samples_are_valid_and_new(
    scores: list[float | None],
    states: list[JobState],
    at_once: int,
    timeout: float,
    seed: int,
    boxes: bool,
) -> None:
    facts = replace(FREE, max_trials=12, max_concurrent=at_once, timeout=timeout)
    if boxes:
        known = ("fasterrcnn_resnet18_fpn", "retinanet_resnet50_fpn", "yolov5")
        starts = dict.fromkeys(known, "pretrained")
        facts = replace(facts, task="image-object-detection", starts=starts, gpu=True)
    made = automode.plan(facts, seed)
    trials: list[Played] = []
    seen: set[str] = set()
    while (choice := automode.next_sample(made, trials, len(trials))) is not None:
        assert automode.next_sample(made, list(trials), len(trials)) == choice
        for name, value in choice.sample.items():
            assert names.coerce(facts.task, name, value) == value
        values = cost.whole(facts, choice.sample)
        seen.add(json.dumps(values, sort_keys=True))
        state, index = states[len(trials)], len(trials)
        score = scores[index] if state is JobState.COMPLETED else None
        trials.append(played(index, choice.sample, score, cost.seconds(facts, choice.sample), state))
    assert 1 <= len(trials) <= 12
    assert len(seen) == len(trials)
