"""AutoMode's plan: what is tried first and why, what is left out, and what data, machine and time change."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from amlocal.compat import names
from amlocal.emulator.jobs.automode import cost
from amlocal.emulator.jobs.automode import policy as automode_policy
from amlocal.emulator.jobs.automode.facts import Facts, Start
from amlocal.emulator.jobs.automode.models import candidates
from amlocal.emulator.jobs.automode.plan import AutoPlan, span
from amlocal.emulator.jobs.automode.planner import plan
from amlocal.emulator.jobs.termination.policies import described
from amlocal.emulator.jobs.termination.progress import Progress

DAY = 86400.0
CONVOLUTIONAL = ("mobilenetv2", "resnet18", "resnet34", "resnet50", "resnet152", "seresnext")
POOL = (*CONVOLUTIONAL, "vits16r224", "vitb16r224")
RANDOM: dict[str, Start] = dict.fromkeys(POOL, "random")
PRETRAINED: dict[str, Start] = dict.fromkeys(POOL, "pretrained")
CROP = {"training_crop_size": 64, "validation_crop_size": 64, "validation_resize_size": 64}
SMALL = Facts(
    task="image-classification",
    metric="accuracy",
    train_images=800,
    validation_images=200,
    classes=10,
    timeout=7 * DAY,
    max_trials=10,
    starts=RANDOM,
    median_side=64,
    largest_side=64,
    cores=2,
    fixed=CROP,
)
LARGE = replace(
    SMALL, train_images=40_000, validation_images=8_000, median_side=400, largest_side=900, fixed={}, gpu=True
)
BOXES = Facts(
    task="image-object-detection",
    metric="mean_average_precision",
    train_images=120,
    validation_images=30,
    classes=3,
    timeout=7 * DAY,
    max_trials=8,
    starts={
        "yolov5": "pretrained",
        "yolov5:small": "pretrained",
        "yolov5:large": "random",
        "fasterrcnn_resnet18_fpn": "pretrained",
        "fasterrcnn_resnet50_fpn": "pretrained",
        "retinanet_resnet50_fpn": "pretrained",
    },
    median_side=320,
    cores=8,
    gpu=True,
)


def models(made: AutoPlan) -> list[str]:
    return [str(choice.sample.get("model_name")) for choice in made.first]


def test_the_default_model_comes_first_as_a_single_trial_would_train_it() -> None:
    made = plan(SMALL, 1)
    assert made.default_first
    assert made.first[0].sample == {"model_name": "vitb16r224"}
    assert made.first[0].seconds == cost.seconds(SMALL, {"model_name": "vitb16r224"})
    assert "is not worse" in made.first[0].reason


def test_few_images_from_random_weights_get_small_networks_small_batches_and_many_epochs() -> None:
    made = plan(SMALL, 1)
    assert models(made) == ["vitb16r224", "resnet18", "mobilenetv2", "resnet34", "resnet50"]
    assert made.first[1].sample == {
        "model_name": "resnet18",
        "training_batch_size": 32,
        "number_of_epochs": 40,
        "early_stopping_patience": 13,
        "learning_rate": 0.021,
    }
    assert (
        "11.7 million parameters from random weights, where 800 images of 10 classes" in made.first[1].reason
    )
    assert made.trials == 10 and not made.tight
    # Transformers with random weights need far more images than these.
    assert not {"vits16r224", "vitl16r224"} & set(models(made)[1:])


def test_two_data_sets_of_different_size_give_different_plans() -> None:
    small, large = plan(SMALL, 1), plan(LARGE, 1)
    assert models(small) != models(large)
    assert models(large)[1] == "resnet152"
    sample = large.first[1].sample
    assert (sample["training_batch_size"], sample["number_of_epochs"]) == (78, 15)
    # Images as large as these keep the default size, the small ones do not.
    assert "training_crop_size" not in sample
    tiny = plan(replace(SMALL, train_images=200, fixed={}), 1).first[1].sample
    assert tiny["model_name"] == "mobilenetv2"
    assert (tiny["training_crop_size"], tiny["validation_crop_size"]) == (64, 64)
    assert (tiny["training_batch_size"], tiny["number_of_epochs"]) == (16, 60)


def test_pretrained_weights_keep_the_documented_defaults() -> None:
    made = plan(replace(SMALL, train_images=1200, starts=PRETRAINED), 1)
    assert models(made)[1] in ("resnet34", "resnet50")
    assert made.first[1].sample == {"model_name": models(made)[1]}
    # So few images would be a few steps an epoch: smaller batches, and a smaller rate with them.
    few = dict(plan(replace(SMALL, train_images=120, starts=PRETRAINED), 1).first[1].sample)
    assert few.pop("model_name") in CONVOLUTIONAL
    assert few == {"training_batch_size": 8, "learning_rate": 0.0032}
    # A pretrained network comes before one with random weights.
    mixed = plan(replace(SMALL, train_images=120, starts={**RANDOM, "resnet152": "pretrained"}), 1)
    assert "resnet152" in models(mixed)


def test_a_skewed_set_is_weighted_where_every_class_counts_alike() -> None:
    for metric, imbalance, expected in (
        ("norm_macro_recall", 8.0, 1),
        ("norm_macro_recall", 2.0, None),
        ("accuracy", 8.0, None),
    ):
        made = plan(replace(SMALL, metric=metric, imbalance=imbalance), 1)
        assert made.first[1].sample.get("weighted_loss") == expected
        assert "weighted_loss" not in made.first[0].sample


def test_a_model_whose_predicted_time_exceeds_its_share_is_left_out_and_the_log_says_so() -> None:
    facts = replace(SMALL, timeout=3600.0)
    made = plan(facts, 1)
    rest = 0.95 * 3600 - made.first[0].seconds
    assert made.share == pytest.approx(rest / (made.trials - 1))
    assert made.tight
    left_out = {one.model: one.reason for one in made.left_out}
    for name in ("seresnext", "resnet152"):
        assert name in left_out and name not in models(made)
    assert (
        left_out["resnet152"] == f"predicted 11 min for 16 epochs, more than its share of {span(made.share)}"
    )
    assert f"left out: resnet152: {left_out['resnet152']}" in made.lines()
    # What is taken has its epochs cut to the share, and says so.
    cut = [choice for choice in made.first[1:] if choice.sample["number_of_epochs"] < choice.epochs]
    assert cut and all("keep it within its share" in choice.reason for choice in cut)
    assert all(choice.seconds <= made.share for choice in made.first[1:])
    # With any amount of time, one that takes much longer than others is not worth it.
    (dear,) = plan(SMALL, 1).left_out
    assert dear.model == "seresnext" and "more than 10 times the 4.5 min of resnet18" in dear.reason


def test_where_shares_would_be_too_small_there_are_fewer_trials() -> None:
    made = plan(replace(SMALL, timeout=1300.0), 1)
    assert 1 < made.trials < 10 and made.tight
    assert sum(choice.seconds for choice in made.first) <= 1300 * 0.95
    only = plan(replace(SMALL, timeout=1000.0), 1)
    assert (only.trials, len(only.first), only.default_first) == (1, 1, True)


def test_a_default_model_that_cannot_end_in_time_is_left_out() -> None:
    made = plan(replace(SMALL, timeout=600.0), 1)
    assert not made.default_first and models(made)[0] == "resnet18"
    assert made.left_out[0].model == "vitb16r224"
    assert (
        "more than the whole time limit of 10 min, so alone it would not end either"
        in made.left_out[0].reason
    )
    # The least that can be done: one trial of the cheapest model.
    hurry = plan(replace(SMALL, timeout=60.0), 1)
    assert models(hurry) == ["mobilenetv2"] and hurry.first[0].sample["number_of_epochs"] >= 1


def test_a_default_model_without_weights_is_left_out() -> None:
    starts = {name: start for name, start in PRETRAINED.items() if name != "vitb16r224"}
    made = plan(replace(SMALL, starts=starts), 1)
    assert not made.default_first and "vitb16r224" not in models(made)
    assert "left out: vitb16r224: it has no pretrained weights here" in made.lines()
    with pytest.raises(ValueError, match="no model of this task can be trained here"):
        plan(replace(SMALL, starts={}), 1)


def test_what_is_fixed_is_never_chosen() -> None:
    fixed = {**CROP, "model_name": "resnet18", "learning_rate": 0.5, "number_of_epochs": 3}
    made = plan(replace(SMALL, fixed=fixed), 1)
    assert made.first[0].sample == {} and made.first[0].epochs == 3
    assert models(made) == ["None", "None"] and made.first[1].sample["training_batch_size"] == 32
    for choice in made.first:
        assert not choice.sample.keys() & fixed.keys()
    assert "the model that the job names, as a job of one trial" in made.first[0].reason


def test_a_fixed_parameter_that_a_model_cannot_have_leaves_only_that_model_out() -> None:
    found = {one.model for one in candidates(replace(SMALL, fixed=dict.fromkeys(CROP, 8)))}
    assert found == set(CONVOLUTIONAL)


def test_a_machine_without_room_gets_smaller_batches() -> None:
    wide = replace(LARGE, train_images=4000, gpu=False, memory=4 * 2**30)
    sample = plan(wide, 1).first[1].sample
    assert sample["training_batch_size"] < 32
    assert cost.memory(wide, sample) <= 4 * 2**30 * 0.8
    assert "fits into memory" in plan(wide, 1).first[1].reason


def test_detectors_are_tried_in_sizes_and_families() -> None:
    made = plan(BOXES, 1)
    assert made.first[0].sample == {"model_name": names.default_model("image-object-detection")}
    tried = [(choice.sample["model_name"], choice.sample.get("model_size")) for choice in made.first[1:]]
    assert len({model for model, _ in tried}) > 1
    assert ("yolov5", "large") not in tried
    for choice in made.first[1:]:
        key = "image_size" if choice.sample["model_name"] == "yolov5" else "min_size"
        assert 256 <= choice.sample[key] < 600


def test_a_gpu_and_cores_change_what_fits() -> None:
    slow = plan(replace(LARGE, timeout=8 * 3600.0, gpu=False), 1)
    fast = plan(replace(LARGE, timeout=8 * 3600.0), 1)
    assert fast.trials == 10 and slow.trials < 10
    assert "on a GPU" in fast.lines()[0] and "on 2 cores, no GPU" in slow.lines()[0]


def test_the_log_gives_each_choice_with_its_reason() -> None:
    made = plan(SMALL, 7)
    lines = made.lines()
    assert lines[0] == (
        "AutoMode's plan (seed 7): 10 trials of at most 10 within 7 days, 1 at once, on 2 cores, no GPU; 800 "
        "training and 200 validation images of 10 classes, median side 64 pixels, at most 64; 0 of 8 models "
        "have pretrained weights"
    )
    for number, choice in enumerate(made.first):
        assert lines[1 + number].startswith(f"trial {number}: {choice.sample['model_name']} with ")
        assert choice.reason in lines[1 + number]
    assert lines[len(made.first) + 1].startswith(
        "trials 5 to 9: the best trial so far with another learning_rate"
    )
    assert lines[-1] == automode_policy.sentence(made.policy)


def test_a_plan_is_read_back_as_it_was_written() -> None:
    for facts in (SMALL, LARGE, BOXES, replace(SMALL, timeout=700.0)):
        made = plan(facts, 3)
        assert AutoPlan.of(json.loads(json.dumps(made.as_dict()))) == made


def test_the_policy_ends_trials_but_never_the_first() -> None:
    policy = plan(SMALL, 1).policy
    assert described(policy)["name"] == "Bandit"
    assert (policy.schedule.delay_evaluation, policy.slack_factor) == (13, 0.25)
    first = Progress("job_HD_0", [0.1] * 13)
    good = Progress("job_HD_1", [0.8] * 13)
    poor = Progress("job_HD_2", [0.6] * 13)
    fair = Progress("job_HD_3", [0.65] * 13)
    trials = [first, good, poor, fair]
    assert policy.ends(first, trials, True) is None
    assert policy.ends(fair, trials, True) is None
    # Neither where the first has not logged anything yet, nor for another whose number ends in 0.
    tenth = replace(poor, name="job_HD_10")
    assert policy.ends(tenth, [tenth, good], True) is not None
    assert policy.ends(replace(poor, values=[0.6] * 12), trials, True) is None
    assert str(policy.ends(poor, trials, True)).startswith(
        "bandit: at interval 13 its best is 0.6, below 0.64"
    )


@settings(max_examples=60, deadline=None)
@given(
    images=some.integers(10, 200_000),
    classes=some.integers(2, 2000),
    side=some.one_of(some.none(), some.integers(8, 4000)),
    timeout=some.floats(60, 60 * DAY),
    trials=some.integers(2, 50),
    at_once=some.integers(1, 8),
    gpu=some.booleans(),
    pretrained=some.booleans(),
    boxes=some.booleans(),
    imbalance=some.floats(1, 50),
)
def test_every_plan_keeps_its_promises(pretrained: bool, boxes: bool, side: int | None, **facts: Any) -> None:
    base = BOXES if boxes else replace(SMALL, starts=PRETRAINED if pretrained else RANDOM, fixed={})
    given_ = {
        "train_images": facts["images"],
        "classes": facts["classes"],
        "timeout": facts["timeout"],
        "max_trials": facts["trials"],
        "max_concurrent": facts["at_once"],
        "gpu": facts["gpu"],
        "imbalance": facts["imbalance"],
    }
    whole = replace(base, median_side=side, largest_side=side, **given_)
    made = plan(whole, 1)
    assert plan(whole, 1) == made
    assert 1 <= len(made.first) <= made.trials <= whole.max_trials
    default = names.default_model(whole.task)
    assert made.default_first is (
        models(made)[0] == default and made.first[0].sample == {"model_name": default}
    )
    assert made.default_first or any(one.model == default for one in made.left_out)
    for choice in made.first:
        values = cost.whole(whole, choice.sample)
        assert 1 <= values["number_of_epochs"] <= choice.epochs
        assert choice.seconds == cost.seconds(whole, choice.sample)
        assert choice.reason
    if made.default_first:
        assert all(choice.seconds <= made.share * 1.0001 for choice in made.first[1:])
