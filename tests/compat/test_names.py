from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from amlocal.compat import names

TASK = "image-classification"
MULTILABEL = "image-classification-multilabel"


DEFAULTS = {
    "model_name": None,
    "number_of_epochs": 15,
    "training_batch_size": 78,
    "validation_batch_size": 78,
    "gradient_accumulation_step": 1,
    "early_stopping": True,
    "early_stopping_patience": 5,
    "early_stopping_delay": 5,
    "learning_rate": 0.01,
    "learning_rate_scheduler": "warmup_cosine",
    "step_lr_gamma": 0.5,
    "step_lr_step_size": 5,
    "warmup_cosine_lr_cycles": 0.45,
    "warmup_cosine_lr_warmup_epochs": 2,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "nesterov": True,
    "beta1": 0.9,
    "beta2": 0.999,
    "ams_gradient": False,
    "evaluation_frequency": 1,
    "checkpoint_frequency": None,
    "checkpoint_run_id": None,
    "checkpoint_model": None,
    "layers_to_freeze": None,
    "random_seed": None,
    "number_of_workers": 8,
    "distributed": True,
    "enable_onnx_normalization": False,
    "augmentations": None,
    "advanced_settings": None,
    "training_crop_size": 224,
    "validation_crop_size": 224,
    "validation_resize_size": 256,
    "weighted_loss": 0,
}


@pytest.mark.parametrize(("task", "changed"), [(TASK, {}), (MULTILABEL, {"learning_rate": 0.035})])
def test_every_documented_parameter_of_classification_is_known_with_its_default(
    task: str, changed: dict[str, object]
) -> None:
    found = {name: row.default for name, row in names.hyperparameters(task).items()}
    assert found == {**DEFAULTS, **changed}


@pytest.mark.parametrize("task", list(names.tasks()))
def test_the_rest_names_are_those_of_the_sdk(task: str) -> None:
    from azure.ai.ml._restclient.arm_ml_service import models

    kind = "Classification" if task in (TASK, MULTILABEL) else "ObjectDetection"
    # The SDK sends these two beside the fields of its REST model.
    beside = set() if kind == "Classification" else {"logTrainingMetrics", "logValidationLoss"}
    settings = getattr(models, f"ImageModelSettings{kind}")()
    fields = {rest._rest_name for rest in settings._attr_to_rest_field.values()}
    rows = names.hyperparameters(task).values()
    assert {row.rest for row in rows} == fields | beside
    space = getattr(models, f"ImageModelDistributionSettings{kind}")()
    fields = {rest._rest_name for rest in space._attr_to_rest_field.values()}
    assert {row.rest for row in rows if row.search} - {"advancedSettings", "checkpointFrequency"} == fields


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("number_of_epochs", "4.0", 4),
        ("number_of_epochs", 4.0, 4),
        ("number_of_epochs", " 7 ", 7),
        ("learning_rate", "1e-3", 0.001),
        ("learning_rate", 1, 1.0),
        ("nesterov", "Yes", True),
        ("nesterov", "T", True),
        ("nesterov", "on", True),
        ("nesterov", 1, True),
        ("nesterov", "OFF", False),
        ("nesterov", "n", False),
        ("nesterov", 0.0, False),
        ("optimizer", "Sgd", "sgd"),
        ("optimizer", "ADAMW", "adamw"),
        ("learning_rate_scheduler", "WarmupCosine", "warmup_cosine"),
        ("learning_rate_scheduler", "warmup_cosine", "warmup_cosine"),
        ("weighted_loss", "2", 2),
        ("layers_to_freeze", 0, 0),
        ("random_seed", 2**32 - 1, 2**32 - 1),
    ],
)
def test_values_are_read_by_azures_rules(name: str, value: object, expected: object) -> None:
    found = names.coerce(TASK, name, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("number_of_epochs", "4.2", "a whole number from 1 to 2147483647"),
        ("number_of_epochs", 0, "a whole number from 1 to 2147483647"),
        ("number_of_epochs", True, "a whole number from 1 to 2147483647"),
        ("number_of_epochs", "1_000", "a whole number from 1 to 2147483647"),
        ("number_of_epochs", "9" * 5000, "a whole number from 1 to 2147483647"),
        ("number_of_epochs", 10**400, "a whole number from 1 to 2147483647"),
        ("learning_rate", 1.5, "a number from 0 to 1"),
        ("learning_rate", "nan", "a number from 0 to 1"),
        ("learning_rate", float("inf"), "a number from 0 to 1"),
        ("learning_rate", [0.1], "a number from 0 to 1"),
        ("nesterov", "maybe", "true or false"),
        ("nesterov", 2, "true or false"),
        ("optimizer", "lion", "one of sgd, adam, adamw"),
        ("optimizer", 3, "one of sgd, adam, adamw"),
        ("weighted_loss", 3, "a whole number from 0 to 2"),
        ("random_seed", 2**32, "a whole number from 0 to 4294967295"),
        ("augmentations", 5, "text"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(name: str, value: object, allowed: str) -> None:
    with pytest.raises(names.BadParameter) as caught:
        names.coerce(TASK, name, value)
    assert (caught.value.parameter, caught.value.allowed) == (name, allowed)
    assert name in str(caught.value)
    assert allowed in str(caught.value)


def test_an_unknown_parameter_is_answered_with_the_nearest() -> None:
    with pytest.raises(names.BadParameter, match="did you mean learning_rate"):
        names.coerce(TASK, "learning_rat", 0.1)


def test_model_settings_of_the_wire_become_snake_case_and_the_rest_is_handed_back() -> None:
    found = names.from_rest(
        TASK,
        {
            "modelName": "resnet18",
            "warmupCosineLRWarmupEpochs": "3",
            "warmupCosineLRCycles": 0.5,
            "stepLRGamma": 0.1,
            "stepLRStepSize": 2,
            "amsGradient": "true",
            "optimizer": "Adam",
            "learningRateScheduler": "None",
            "numberOfEpochs": None,
            "logTrainingMetrics": "Enable",
        },
    )
    assert found.parameters == {
        "model_name": "resnet18",
        "warmup_cosine_lr_warmup_epochs": 3,
        "warmup_cosine_lr_cycles": 0.5,
        "step_lr_gamma": 0.1,
        "step_lr_step_size": 2,
        "ams_gradient": True,
        "optimizer": "adam",
    }
    assert found.unknown == {"logTrainingMetrics": "Enable"}


@pytest.mark.parametrize(
    ("model", "batch", "rate", "multilabel_rate"),
    [
        ("resnet18", 78, 0.01, 0.035),
        ("seresnext", 78, 0.01, 0.035),
        ("vits16r224", 128, 0.0125, 0.025),
        ("vitb16r224", 48, 0.0125, 0.025),
        ("vitl16r224", 10, 0.001, 0.002),
    ],
)
def test_defaults_depend_on_the_model(model: str, batch: int, rate: float, multilabel_rate: float) -> None:
    for task, expected in ((TASK, rate), (MULTILABEL, multilabel_rate)):
        found = names.effective(task, model, {"number_of_epochs": "3"})
        assert (found["number_of_epochs"], found["model_name"]) == (3, model)
        assert (found["training_batch_size"], found["validation_batch_size"]) == (batch, batch)
        assert found["learning_rate"] == expected


@pytest.mark.parametrize(
    ("given", "parameter"),
    [({"momentum": 0}, "nesterov"), ({"optimizer": "adam", "beta2": 1}, "beta2")],
)
def test_values_that_exclude_each_other_are_named(given: dict[str, object], parameter: str) -> None:
    with pytest.raises(names.BadParameter) as caught:
        names.effective(TASK, "resnet18", given)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize("task", [TASK, MULTILABEL])
def test_every_model_of_the_reference_can_be_trained(task: str) -> None:
    known = names.models(task)
    resnets = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnest50", "resnest101")
    others = ("mobilenetv2", "seresnext", "vits16r224", "vitb16r224", "vitl16r224")
    assert set(known) >= {*resnets, *others}
    assert {name for name, row in known.items() if not row.available} == set()
    assert names.model(task, "resnet18").architecture == "resnet18"
    with pytest.raises(names.BadParameter, match=r"did you mean .*resnet18"):
        names.model(task, "ResNet-18")


def test_tasks_and_primary_metrics_answer_to_every_spelling() -> None:
    spellings = {
        TASK: ("image_classification", "ImageClassification", TASK),
        MULTILABEL: ("image_classification_multilabel", "ImageClassificationMultilabel", MULTILABEL),
    }
    five = {"accuracy", "auc_weighted", "norm_macro_recall"}
    five |= {"average_precision_score_weighted", "precision_score_weighted"}
    metrics = {TASK: (five, "accuracy"), MULTILABEL: (five | {"iou"}, "iou")}
    for task, known in spellings.items():
        assert {names.task(spelling).name for spelling in known} == {task}
        assert names.default_model(task) == "vitb16r224"
        for spelling in ("auc_weighted", "AUCWeighted", "AUC_weighted"):
            assert names.primary_metric(task, spelling).logged == "AUC_weighted"
        with pytest.raises(names.BadParameter, match="norm_macro_recall"):
            names.primary_metric(task, "f1")
        row = names.task(task)
        found = {metric.yaml for metric in row.primary_metrics}, row.default_primary_metric
        assert found == metrics[task]
    assert names.primary_metric(MULTILABEL, "IOU").logged == "iou"
    with pytest.raises(names.BadParameter, match="primary_metric: 'iou'"):
        names.primary_metric(TASK, "iou")
    with pytest.raises(names.UnknownTask, match="image-classification"):
        names.task("image-sorting")


@pytest.mark.parametrize("task", list(names.tasks()))
def test_the_primary_metrics_are_those_of_the_sdk(task: str) -> None:
    from azure.ai.ml._restclient.arm_ml_service import models

    kind = names.task(task).rest.removeprefix("Image")
    enum = getattr(models, f"{kind}PrimaryMetrics")
    assert {metric.rest for metric in names.task(task).primary_metrics} == {one.value for one in enum}


@pytest.mark.parametrize(
    ("text", "settings", "warned"),
    [
        ('{"pretrained": false}', {"pretrained": False}, False),
        (None, {}, False),
        ("  ", {}, False),
        ("{pretrained}", {}, True),
        ("[1]", {}, True),
    ],
)
def test_advanced_settings_that_are_no_object_are_ignored_with_a_warning(
    text: str | None, settings: dict[str, object], warned: bool
) -> None:
    found, warning = names.advanced_settings(text)
    assert found == settings
    assert (warning is not None) == warned


def test_nearest_ignores_case_and_gives_up_on_strangers() -> None:
    assert names.nearest("RESNET18", ["resnet18", "seresnext", "yolov5"])[0] == "resnet18"
    assert names.nearest("zzz", ["resnet18"]) == []


def test_reading_the_tables_imports_nothing_heavy() -> None:
    code = (
        "import sys; from amlocal.compat import names, weights; names.models('image-classification'); "
        "heavy = {'torch', 'timm', 'numpy', 'mlflow', 'huggingface_hub', 'requests'} & set(sys.modules); "
        "assert not heavy, heavy; assert not [m for m in sys.modules if m.startswith('amlocal.emulator')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).anchor)
