"""Every training parameter of every task: what it takes, its bounds, and that everything else is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from amlocal.compat import names
from amlocal.compat.names import Hyperparameter

ROWS = [(task, row) for task in names.tasks() for row in names.hyperparameters(task).values()]
A_MODEL = {
    "image-classification": "vitb16r224",
    "image-classification-multilabel": "vitb16r224",
    "image-object-detection": "retinanet_resnet50_fpn",
    "image-instance-segmentation": "maskrcnn_resnet50_fpn",
}
MODEL = {"jobInputType": "mlflow_model", "uri": "azureml:digits:1"}
NOT_NUMBERS = ("", " ", "many", "1,5", "1_0", "0x1", "nan", "inf", "-inf", "1e400", "9" * 65, "1 2", "true")
NEVER = ([], {}, [1], {"a": 1}, b"1", math.nan, math.inf, -math.inf)
TRUE, FALSE = ("y", "YES", "t", "True", "on", "1"), ("n", "No", "f", "FALSE", "off", "0")


def of(*types: str) -> Any:
    rows = [(task, row) for task, row in ROWS if row.type in types]
    return pytest.mark.parametrize(("task", "row"), rows, ids=[f"{task}-{row.name}" for task, row in rows])


def read(task: str, row: Hyperparameter, value: object) -> Any:
    """The value by the way that a job takes: through the wire's name, then through the trainer's defaults."""
    found = names.from_rest(task, {row.rest: value})
    assert found.unknown == {} and list(found.parameters) == [row.name]
    assert names.coerce(task, row.name, found.parameters[row.name]) == found.parameters[row.name]
    return found.parameters[row.name]


def refused(task: str, row: Hyperparameter, value: object) -> None:
    with pytest.raises(names.BadParameter) as caught:
        names.from_rest(task, {row.rest: value})
    error = caught.value
    assert (error.parameter, error.allowed) == (row.name, row.allowed())
    assert str(error).startswith(f"{row.name}: ") and str(error).endswith(f"must be {row.allowed()}")
    assert len(str(error)) < 400


@of("int", "float")
def test_a_number_is_taken_from_its_minimum_to_its_maximum(task: str, row: Hyperparameter) -> None:
    kind = int if row.type == "int" else float
    assert row.minimum is not None
    if row.maximum is None:
        assert (row.name, row.minimum, row.below) == ("tile_overlap_ratio", 0, 1)
        assert [read(task, row, value) for value in (0, "0.5", 1 - 1e-9)] == [0, 0.5, 1 - 1e-9]
        for value in (-1e-9, 1, "1.0", 2):
            refused(task, row, value)
        assert row.allowed() == "a number of at least 0 and less than 1"
        return
    for bound in (row.minimum, row.maximum):
        for value in (bound, kind(bound), float(bound), str(bound), f" {kind(bound)} ", f"{bound:.10e}"):
            found = read(task, row, value)
            assert found == bound and type(found) is kind, value
    step = 1 if row.type == "int" else 1e-9
    for value in (row.minimum - step, row.maximum + step, row.minimum - 10**18, row.maximum + 10**18):
        refused(task, row, value)
        refused(task, row, repr(value))
    for huge in (10**400, 10**5000, -(10**400), 1e308):
        refused(task, row, huge)
    words = row.allowed()
    assert f"from {row.minimum:g} to {row.maximum:.10g}" in words
    assert words.startswith("a whole number" if row.type == "int" else "a number")


@of("int", "float")
def test_a_number_is_no_text_truth_value_or_list(task: str, row: Hyperparameter) -> None:
    for value in (*NOT_NUMBERS, *NEVER, True, False):
        refused(task, row, value)


@of("int")
def test_a_whole_number_has_no_fraction(task: str, row: Hyperparameter) -> None:
    assert row.minimum is not None
    for value in (row.minimum + 0.5, str(row.minimum + 0.5), row.minimum + 1e-6):
        refused(task, row, value)


@of("bool")
def test_truth_values_have_their_spellings_and_no_others(task: str, row: Hyperparameter) -> None:
    for expected, spellings in ((True, TRUE), (False, FALSE)):
        for value in (*spellings, expected, int(expected), float(expected), f" {spellings[0]} "):
            assert read(task, row, value) is expected, value
    for value in (*NEVER, "", "maybe", "2", "10", "tr", 2, -1, 0.5, 10**5000, 1e308):
        refused(task, row, value)


@of("enum")
def test_choices_are_taken_in_both_spellings_and_any_case(task: str, row: Hyperparameter) -> None:
    assert len(row.choices) == len(row.rest_choices) > 1
    for yaml, rest in zip(row.choices, row.rest_choices, strict=True):
        for value in (yaml, rest, yaml.upper(), rest.lower(), f" {rest} "):
            assert read(task, row, value) == yaml
    for alias, choice in row.aliases.items():
        assert read(task, row, alias) == read(task, row, alias.upper()) == choice
    for value in (*NEVER, "", "lion", row.choices[0] + "x", 0, 1, True, 10**400):
        refused(task, row, value)
    # REST's word for "not given", but for the parameter that can be told not to measure anything.
    meant = {"validation_metric_type": "none"} if row.name == "validation_metric_type" else {}
    assert names.from_rest(task, {row.rest: "None"}).parameters == meant


@of("grid")
def test_a_grid_of_tiles_has_two_spellings(task: str, row: Hyperparameter) -> None:
    for value in ("3x2", "3X2", " 3 x 2 ", "(3, 2)", "(3,2)"):
        assert read(task, row, value) == "3x2"
    assert read(task, row, "100x1") == "100x1"
    for value in (*NEVER, "", "3", "3x", "x2", "3x2x1", "0x2", "1x1", "(1, 1)", "101x1", "-3x2", "3.0x2", 3):
        refused(task, row, value)
    refused(task, row, "\u0663x\u0662")


@of("str")
def test_a_text_is_a_text(task: str, row: Hyperparameter) -> None:
    assert read(task, row, "text") == "text"
    for value in (*NEVER, 5, 0.5, True, 10**400):
        refused(task, row, value)


@of("model")
def test_a_model_is_an_input_of_a_job(task: str, row: Hyperparameter) -> None:
    assert read(task, row, MODEL) == MODEL
    for value in ([], [1], {}, "azureml:digits:1", 5, True, math.nan):
        refused(task, row, value)


def test_every_type_is_tested_above() -> None:
    assert {row.type for _, row in ROWS} == {"int", "float", "bool", "enum", "str", "model", "grid"}
    assert {task for task, _ in ROWS} == set(names.tasks())


@pytest.mark.parametrize(("task", "row"), ROWS, ids=[f"{task}-{row.name}" for task, row in ROWS])
def test_a_row_is_whole(task: str, row: Hyperparameter) -> None:
    assert row.effect in ("used", "ignored") and bool(row.note) == (row.effect == "ignored")
    assert set(row.except_models + row.only_models) <= {"yolov5"}
    assert row.source and row.rest and row.trainer
    for default in (row.default, *row.model_defaults.values()):
        assert default is None or names.coerce(task, row.name, default) == default
    assert names.from_rest(task, {row.rest: None}).parameters == {}


def fixed_and_default(task: str) -> Iterator[tuple[str, object]]:
    for row in names.hyperparameters(task).values():
        default = row.default_for(A_MODEL[task])
        unset = {"str": "text", "grid": "3x2"}.get(row.type, 3)
        if row.name not in ("model_name", "checkpoint_model"):
            yield row.name, unset if row.type == "str" or default is None else default


@pytest.mark.parametrize("task", list(names.tasks()))
def test_what_is_given_wins_over_the_defaults_and_the_rest_is_filled_in(task: str) -> None:
    given = dict(fixed_and_default(task))
    given |= {"learning_rate": "0.25", "number_of_epochs": "4.0", "nesterov": "off", "optimizer": "AdamW"}
    found = names.effective(task, A_MODEL[task], {**given, "momentum": None})
    expected = {"learning_rate": 0.25, "number_of_epochs": 4, "nesterov": False, "optimizer": "adamw"}
    defaults = {"momentum": 0.9, "checkpoint_model": None, "model_name": A_MODEL[task]}
    assert found == {**given, **expected, **defaults}
