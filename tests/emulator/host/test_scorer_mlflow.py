"""MLflow models in real scorers: tables, tensors, no signature, warm-up, pickles that are not trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LOADER = """
import numpy as np
class Model:
    calls = 0
    def predict(self, given, params=None):
        Model.calls += 1
        if isinstance(given, dict):
            return {name: value.tolist() for name, value in given.items()}
        if hasattr(given, "columns"):
            total = given.select_dtypes("number").sum(axis=1)
            return given.assign(total=total, calls=Model.calls, mean=float("nan"))
        return [str(given.dtype), given.shape, given.sum()]
def _load_pyfunc(path):
    return Model()
"""


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Saves a model of LOADER with a signature and an input example."""
    import mlflow.pyfunc

    def save(signature: Any = None, example: Any = None) -> str:
        folder = tmp_path_factory.mktemp("model")
        code = folder / "adding_model.py"
        code.write_text(LOADER)
        mlflow.pyfunc.save_model(
            str(folder / "m"),
            loader_module="adding_model",
            code_paths=[str(code)],
            pip_requirements=["mlflow"],
            signature=signature,
        )
        if example is not None:
            from mlflow.models import Model
            from mlflow.models.utils import _Example

            model = Model.load(str(folder / "m"))
            saved = _Example(example)
            saved.save(str(folder / "m"))
            model.saved_input_example_info = saved.info
            model.save(str(folder / "m" / "MLmodel"))
        return str(folder / "m")

    return save


def test_tables(scorers: Any, save: Any) -> None:
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    columns = [ColSpec("double", "a"), ColSpec("long", "b"), ColSpec("string", "c", required=False)]
    signature = ModelSignature(Schema(columns), Schema([ColSpec("double", "total")]))
    example = pandas.DataFrame({"a": [1.0], "b": [2], "c": ["x"]})
    scorer = scorers.start(
        kind="mlflow", model_dir=save(signature, example), deployment={"endpoint": "sums", "name": "blue"}
    ).ready()
    assert "warm-up with the input example took" in scorer.log
    reply = scorer.score({"input_data": {"columns": ["a", "b"], "index": [5], "data": [[1.5, 2]]}})
    # The first call was the warm-up.
    assert (reply.status, reply.json) == (200, [{"a": 1.5, "b": 2, "total": 3.5, "calls": 2, "mean": None}])
    assert scorer.score({"input_data": [{"a": 1, "b": 2, "c": "y"}]}).json[0]["total"] == 3
    for data, words in (
        ([["x", 1]], "Incompatible input types"),
        ([[1.0]], "row 0 has 1 values for 2 columns"),
        ([[1.0, 2], [1e999, 2]], "row 1, column 'a': an infinite"),
        ([[1.0, 2**70]], "row 0, column 'b': the number has more than 64 bits"),
    ):
        text = scorer.score({"input_data": {"columns": ["a", "b"], "data": data}})
        assert text.status == 400 and words in text.message, text.body
    found = scorer.ask("GET", "/swagger.json?version=3").json
    assert found["info"]["title"] == "sums/blue"
    properties = found["components"]["schemas"]["Records"]["items"]["properties"]
    assert [properties[name]["type"] for name in "abc"] == ["number", "integer", "string"]


@pytest.fixture
def loaded(host_module: Callable[[str], ModuleType]) -> Callable[[str], Any]:
    """Models as a scorer loads them, in this process: a scorer of its own for each takes seconds to start."""

    def load(folder: str) -> Callable[[Any], Any]:
        model = host_module("scorer_mlflow").MlflowModel({"model_dir": folder}, print)
        request = host_module("scorer_requests").Request

        def score(value: Any) -> Any:
            body = json.dumps(value).encode()
            return json.loads(model.score(request("POST", "/score", "", {}, body)).body)

        return score

    return load


def test_tensors(loaded: Any, save: Any, host_module: Callable[[str], ModuleType]) -> None:
    import numpy
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    spec = TensorSpec(numpy.dtype("float32"), (-1, 2))
    tensor = loaded(save(ModelSignature(Schema([spec]))))
    named = Schema([TensorSpec(numpy.dtype("int64"), (-1,), name) for name in ("x", "y")])
    pair = loaded(save(ModelSignature(named)))
    bad = host_module("scorer_requests").BadInput
    assert tensor({"input_data": [[1, 2], [3, 4]]}) == ["float32", [2, 2], 10]
    for given, words in (
        ([[1, 2], [3]], "inhomogeneous"),
        ([[1, 2, 3]], "shape"),
        ([[1, float("nan")]], "NaN"),
    ):
        with pytest.raises(bad, match=words):
            tensor({"input_data": given})
    assert pair({"input_data": {"x": [1], "y": [2]}}) == {"x": [1], "y": [2]}
    with pytest.raises(bad, match=re.escape("['x', 'y']")):
        pair({"input_data": {"x": [1]}})


def test_pickled_models_alone_are_refused_where_pickles_are_not_trusted(
    scorers: Any, save: Any, tmp_path: Path
) -> None:
    import mlflow.sklearn
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    folder = str(tmp_path / "sklearn")
    mlflow.sklearn.save_model(model, folder, serialization_format="cloudpickle", pip_requirements=["mlflow"])
    refused = scorers.start(kind="mlflow", model_dir=folder, trust_pickle="never")
    # Without a signature, too.
    plain = scorers.start(kind="mlflow", model_dir=save(), trust_pickle="never")
    assert "trust_pickle is 'never' (serve --trust-pickle)" in refused.failure()
    assert plain.ready().score({"input_data": [[1, 2]]}).json[0]["total"] == 3
    assert plain.score({"input_data": {"columns": ["q"], "data": [[7]]}}).json[0]["q"] == 7
    assert "warm-up" not in plain.log
