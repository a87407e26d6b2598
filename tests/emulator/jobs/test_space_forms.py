"""The two forms in which search spaces come over the wire; errors point at the place."""

from __future__ import annotations

import decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from amlocal.compat import names
from amlocal.emulator.jobs.sampling import automl_form, command_form, parameter_rules
from amlocal.emulator.jobs.sampling.space import (
    Choice,
    LogUniform,
    QUniform,
    Space,
    SpaceError,
    SubSpace,
    Uniform,
    of_numbers,
)

TASK = "image-classification"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("choice('vitb16r224','vits16r224')", ("vitb16r224", "vits16r224")),
        ("choice(2, 360)", (2, 360)),
        ("choice(True,False)", (True, False)),
        ("choice(0.01,1,'x, (y)',\"it's\")", (0.01, 1, "x, (y)", "it's")),
        (" Choice ( sgd , microsoft/beit-base-patch16-224-pt22k-ft22k ) ", None),
        ("choice('')", ("",)),
        ("choice(-1,+2,.5,1e-5)", (-1, 2, 0.5, 1e-5)),
        ("True", (True,)),
        ("false", (False,)),
        ("5", (5,)),
        ("0.00005", (0.00005,)),
        ("yolov5", ("yolov5",)),
        ("'seresnext'", ("seresnext",)),
        ("google/vit-base-patch16-224", ("google/vit-base-patch16-224",)),
        ("3x2", ("3x2",)),
        ("(3, 2)", ("(3, 2)",)),
        ("it's", ("it's",)),
    ],
)
def test_choices_and_single_values(text: str, values: tuple[Any, ...] | None) -> None:
    found = automl_form.parse(text)
    assert isinstance(found, Choice)
    if values is None:
        values = ("sgd", "microsoft/beit-base-patch16-224-pt22k-ft22k")
    assert found.values == values and [type(v) for v in found.values] == [type(v) for v in values]


def test_distributions() -> None:
    assert automl_form.parse("uniform(0.001,0.01)") == Uniform(0.001, 0.01)
    assert automl_form.parse("UNIFORM( 0 , 1 )") == Uniform(0, 1)
    assert automl_form.parse("loguniform(-6,-1)") == LogUniform(-6, -1)
    assert automl_form.parse("quniform(2,100,32)") == QUniform(2, 100, 32)


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "empty"),
        ("unifrm(1,2)", 0, "did you mean uniform"),
        ("  frobnicate(1)", 2, "use one of choice, randint"),
        ("uniform(0.1,,2)", 12, "a value is expected, not ','"),
        ("uniform(0.1,)", 12, r"a value is expected, not '\)'"),
        ("uniform(0.1", 11, "expected, not the end"),
        ("uniform(", 8, "expected, not the end"),
        ("uniform(0.1,0.2) 3", 17, "nothing may follow"),
        ("uniform(0.1,'a')", 12, "uniform takes numbers"),
        ("uniform(0.1,0.2,0.3)", 0, "uniform takes 2 numbers"),
        ("uniform(0.2,0.1)", 0, "min_value must be the smaller"),
        ("choice('a' 'b')", 11, "',' or '\\)' is expected"),
        ("choice('a", 7, "without its partner"),
        ("choice(1;2)", 8, "';' has no meaning"),
        ("choice(choice(1))", 13, "',' or '\\)' is expected, not '\\('"),
        ("choice()", 0, "at least one value"),
        ("randint(2.5)", 0, "whole number"),
        ("normal(1e999,1)", 0, "mu is inf"),
        ("x" * 200_000, 100_000, "longer than"),
    ],
)
def test_errors_point_into_the_text(text: str, position: int, message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        automl_form.parse(text)
    assert caught.value.position == position


@given(some.text(alphabet="choiceunfrm()',.0123 -eE'\"\\\n", max_size=60))
def test_any_text_is_a_distribution_or_a_fault_at_a_place(text: str) -> None:
    try:
        automl_form.parse(text)
    except SpaceError as error:
        assert error.position is not None and 0 <= error.position <= len(text)


@settings(deadline=None)
@given(
    some.lists(
        some.one_of(
            some.integers(-(10**9), 10**9),
            some.booleans(),
            # From 1e16 on a float is written like a whole number, and then is one.
            some.floats(-1e15, 1e15).filter(lambda value: abs(value) > 1e-9 or value == 0),
            some.text(alphabet="abcXYZ019-_/. ,()", max_size=10),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_what_the_sdk_writes_of_a_choice_is_read_back(values: list[Any]) -> None:
    from azure.ai.ml.entities._job.automl.search_space_utils import _convert_to_rest_object
    from azure.ai.ml.sweep import Choice as SdkChoice

    found = automl_form.parse(_convert_to_rest_object(SdkChoice(values)))
    assert isinstance(found, Choice)
    # The SDK keeps 20 digits of a number.
    wanted = [float(decimal.Decimal(repr(v))) if isinstance(v, float) else v for v in values]
    assert list(found.values) == wanted


@settings(deadline=None)
@given(some.floats(-5, 5), some.floats(0.001, 5))
def test_what_the_sdk_writes_of_numbers_is_read_back(low: float, width: float) -> None:
    from azure.ai.ml import sweep as sdk
    from azure.ai.ml.entities._job.automl.search_space_utils import _convert_to_rest_object

    for made in (
        sdk.Uniform(low, low + width),
        sdk.QUniform(low, low + width, 2),
        sdk.LogUniform(low, low + width),
        sdk.QLogUniform(low, low + width, 2),
        sdk.Normal(low, width),
        sdk.QNormal(low, width, 2),
        sdk.LogNormal(low, width),
        sdk.QLogNormal(low, width, 2),
        sdk.Randint(7),
    ):
        kind, numbers = made._to_rest_object()
        assert automl_form.parse(_convert_to_rest_object(made)) == of_numbers(kind, numbers)


def test_the_command_form() -> None:
    body = {
        "lr": ["uniform", [0.1, 0.9]],
        "size": ["quniform", [1, 10, 2]],
        "model": ["choice", [["a", {"name": "b", "depth": ["randint", [4]], "wide": True}]]],
    }
    space = command_form.parse(body)
    inner = SubSpace({"name": Choice(("b",)), "depth": of_numbers("randint", [4]), "wide": Choice((True,))})
    assert space == Space(
        (SubSpace({"lr": Uniform(0.1, 0.9), "size": QUniform(1, 10, 2), "model": Choice(("a", inner))}),)
    )
    # Once read, a single value is a choice of one; so is what is written.
    written = command_form.dump(space)
    assert written["lr"] == ["uniform", [0.1, 0.9]] and command_form.parse(written) == space


def test_several_sub_spaces_are_written_as_a_choice_of_models() -> None:
    space = Space((SubSpace({"x": Choice((1,))}), SubSpace({"y": Uniform(0, 1)})))
    assert command_form.dump(space) == {
        "model": ["choice", [[{"x": ["choice", [[1]]]}, {"y": ["uniform", [0, 1]]}]]]
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "must be an object"),
        ({}, "must be an object"),
        ({"lr": 0.1}, r"search_space.lr is 0.1; it must be a list"),
        ({"lr": ["uniform", 1]}, "search_space.lr is"),
        ({"lr": ["unifrm", [1, 2]]}, "search_space.lr: 'unifrm' is no distribution"),
        ({"lr": ["uniform", [1]]}, "search_space.lr: uniform takes 2 numbers"),
        ({"lr": ["uniform", [1, "2"]]}, "search_space.lr: uniform takes numbers, not '2'"),
        ({"lr": ["uniform", [1, True]]}, "takes numbers, not True"),
        ({"lr": ["choice", [1, 2]]}, "search_space.lr: choice takes one list"),
        ({"lr": ["choice", [[]]]}, "at least one value"),
        ({"lr": ["choice", [[None]]]}, r"search_space.lr\[0\] is None"),
        ({"lr": ["choice", [[{"x": ["uniform", [2, 1]]}]]]}, r"search_space.lr\[0\].x: uniform: min_value"),
        ({"lr": [["choice"], [[1]]]}, "is no distribution"),
    ],
)
def test_faults_of_the_command_form(body: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        command_form.parse(body)


def test_deep_nesting_is_refused() -> None:
    body: Any = {"x": ["uniform", [0, 1]]}
    for _ in range(500):
        body = {"x": ["choice", [[body]]]}
    with pytest.raises(SpaceError, match="nested more than 8"):
        command_form.parse(body)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("learning_rate", "loguniform(-9,-2)"),
        ("learning_rate", "lognormal(-5,1)"),
        ("learning_rate", "qnormal(0.1,0.01,0.05)"),
        ("number_of_epochs", "quniform(1,20,5)"),
        ("number_of_epochs", "choice(4.0,'15')"),
        ("layers_to_freeze", "randint(3)"),
        ("optimizer", "choice('sgd','Adam','adamw')"),
        ("early_stopping", "choice(True,'no',0)"),
        ("model_name", "choice('resnet18','org/model')"),
    ],
)
def test_a_distribution_that_fits_its_parameter(name: str, text: str) -> None:
    row = names.hyperparameters(TASK)[name]
    if name == "number_of_epochs" and text.startswith("q"):
        # round(1 / 5) * 5 = 0 epochs.
        with pytest.raises(names.BadParameter, match="number_of_epochs: 0"):
            parameter_rules.fitted(TASK, row, automl_form.parse(text))
        text = "quniform(3,20,5)"
    found = parameter_rules.fitted(TASK, row, automl_form.parse(text))
    if isinstance(found, Choice):
        assert all(names.coerce(TASK, name, value) is not None for value in found.values)
        kinds = {"number_of_epochs": int, "early_stopping": bool}
        assert all(type(value) is kinds.get(name, str) for value in found.values)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("number_of_epochs", "uniform(1,5)", "whole number and cannot be uniform; use .*choice, randint"),
        ("number_of_epochs", "quniform(1,5,0.5)", "q must be one"),
        ("number_of_epochs", "randint(5)", "number_of_epochs: 0 is not allowed"),
        ("number_of_epochs", "choice(1,2.5)", "number_of_epochs: 2.5 is not allowed"),
        ("optimizer", "uniform(0,1)", "cannot be uniform; use a single value or choice"),
        ("optimizer", "choice('sgd','lion')", "'lion' is not allowed; it must be one of sgd, adam, adamw"),
        ("early_stopping", "randint(2)", "true or false and cannot be randint"),
        ("model_name", "choice('resnet18','resnet81')", "did you mean resnet18"),
        ("learning_rate", "uniform(0.1,1.5)", "learning_rate: 1.5 is not allowed"),
        ("learning_rate", "uniform(-0.1,0.5)", "learning_rate: -0.1 is not allowed"),
        ("learning_rate", "loguniform(-1,1)", "learning_rate: 2.7"),
        ("learning_rate", "normal(2,0.1)", "learning_rate: 2"),
        ("learning_rate", "choice(0.1,'big')", "'big' is not allowed"),
    ],
)
def test_a_distribution_that_does_not(name: str, text: str, message: str) -> None:
    row = names.hyperparameters(TASK)[name]
    with pytest.raises((SpaceError, names.BadParameter), match=message):
        parameter_rules.fitted(TASK, row, automl_form.parse(text))
