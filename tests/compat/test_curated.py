"""The tables of what the registry azureml publishes."""

from __future__ import annotations

import re

import pytest

from amlocal.compat import curated


def test_environments_are_well_formed() -> None:
    found = curated.environments()
    assert len(found) > 30
    for name, row in found.items():
        assert row.name == name and row.versions and all(v.isdigit() for v in row.versions)
        assert list(row.versions) == sorted(row.versions, key=int) and row.latest == row.versions[-1]
        assert re.fullmatch(r"(mcr\.microsoft\.com/azureml/curated/[a-z0-9.-]+)?", row.image), name
        assert row.description.endswith(".")
    keys = [name.lower().removeprefix("azureml-") for name in found]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("sklearn-1.5", "sklearn-1.5"),
        ("AzureML-sklearn-1.5", "sklearn-1.5"),
        ("azureml-ACPT-pytorch-2.8-cuda12.6", "acpt-pytorch-2.8-cuda12.6"),
        ("AzureML-tensorflow-2.16-cuda12", "tensorflow-2.16-cuda12"),
        ("AzureML-lightgbm-3.3", "lightgbm-3.3"),
        ("AzureML-AutoML", "AzureML-AutoML"),
        ("AzureML-ACPT-pytorch-1.12-py39-cuda11.6-gpu", "AzureML-ACPT-pytorch-1.12-py39-cuda11.6-gpu"),
        ("responsibleai-tabular", "responsibleai-tabular"),
    ],
)
def test_the_names_of_samples_are_known(asked: str, name: str) -> None:
    found = curated.environment(asked)
    assert found is not None and found.name == name


def test_other_names_are_not() -> None:
    assert curated.environment("sklearn") is None and curated.environment("") is None


def test_models_are_those_of_the_guides_table() -> None:
    found = curated.models()
    by_task: dict[str, int] = {}
    for name, row in found.items():
        by_task[row.task] = by_task.get(row.task, 0) + 1
        assert row.name == name == row.model_name.replace("/", "-")
        assert re.fullmatch(r"[0-9a-f]{40}", row.sha) and "python_function" in row.flavors
        assert [int(v) for v in row.versions] == sorted(int(v) for v in row.versions)
    assert by_task == {"image-classification": 4, "object-detection": 6, "image-segmentation": 1}


def test_the_tables_cannot_be_changed_by_their_readers() -> None:
    with pytest.raises(TypeError):
        curated.environments()["x"] = None  # type: ignore[index]
    with pytest.raises(TypeError):
        curated.environments()["sklearn-1.5"].tags["x"] = "y"  # type: ignore[index]
