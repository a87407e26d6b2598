"""Which Python a job gets: by setting, by version, by label; and what is said when there is none."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amlocal.emulator.arm import documents
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs.environments import DIFFERENCES, RESOLVED, JobEnvironments
from amlocal.emulator.settings import EnvironmentSettings


def stored(desk: Any, conda: str | None, name: str = "e", version: str = "1") -> None:
    properties = {"image": "i", **({"condaFile": conda} if conda else {})}
    body = {"properties": properties}
    desk.store.write(lambda c: documents.put(c, desk.workspace.id, "environments", name, version, body))


def environments(desk: Any, **settings: Any) -> JobEnvironments:
    chosen = replace(desk.settings, environments=EnvironmentSettings(**settings))
    return JobEnvironments(store=desk.store, folder=desk.folder, settings=chosen, python=sys.executable)


def python(folder: Path, name: str, version: str, **installed: str) -> Path:
    """A program that answers as a Python of that version would."""
    folder.mkdir(exist_ok=True)
    answer = {"version": version, "prefix": str(folder), "installed": installed, "folders": []}
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("wanted", "expected", "difference"),
    [
        ("python=3.10", "python3.10", None),
        ("python=3.10.12", "python3.10", None),
        ("python=3.10.4", "python3.10", "python: wanted =3.10.4, 3.10.12 installed"),
        ("python>=3.9,<3.11", "python3.10", None),
        ("python=3.9", "python3.9", None),
        ("python>=3.8", "own", None),
        ("numpy=1", "own", "numpy: wanted =1, not installed"),
    ],
)
def test_a_virtual_environment_begins_with_the_wanted_python(
    desk: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    expected: str,
    difference: str | None,
) -> None:
    programs = tmp_path / "programs"
    for name, version in (("python3.10", "3.10.12"), ("python3.9", "3.9.1")):
        python(programs, name, version)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    stored(desk, f"dependencies: ['{wanted}', {{pip: [tinything]}}]")
    asked = environments(desk, mode="venv")
    plan = asked.plan(desk.workspace, "azureml:e:1")
    assert plan.venv == ("tinything",)
    assert plan.python == (Path(sys.executable) if expected == "own" else programs / expected)
    assert [str(d) for d in plan.differences] == ([difference] if difference else [])
    assert asked.check(desk.workspace, "azureml:e:1").get(DIFFERENCES) == difference
    if difference:
        with pytest.raises(AzureError) as caught:
            environments(desk, mode="venv", strict=True).check(desk.workspace, "azureml:e:1")
        assert caught.value.status == 400 and difference in caught.value.message
        assert [detail["message"] for detail in caught.value.details] == [difference]


def test_a_python_that_is_not_there(desk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3.8").write_text("#!/bin/sh\nexit 127\n")
    (programs / "python3.8").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    stored(desk, "dependencies: [python=3.8, {pip: [x]}]")
    with pytest.raises(AzureError) as caught:
        environments(desk, mode="venv").check(desk.workspace, "azureml:e:1")
    assert caught.value.status == 400 and caught.value.target == "environmentId"
    for part in ("Python =3.8", "environments.interpreters", "for e in the setting"):
        assert part in caught.value.message


def test_settings_name_interpreters_by_version_name_and_curated_name(desk: Any, tmp_path: Path) -> None:
    one = python(tmp_path / "one", "python", "3.11.1", numpy="1.0")
    two = python(tmp_path / "two", "python3.12", "3.12.1")
    stored(desk, "dependencies: [numpy=2]")
    stored(desk, None, version="2")
    asked = environments(desk, interpreters={"E:2": two, "e": one, "sklearn-1.5": two, "host": one})

    def chosen(name: str) -> Path:
        return asked.plan(desk.workspace, name).python

    assert (chosen("azureml:e:1"), chosen("azureml:e:2"), chosen("azureml:host:1")) == (one, two, one)
    assert chosen("azureml:AzureML-sklearn-1.5@latest") == two
    assert chosen("azureml://registries/azureml/environments/sklearn-1.5/versions/9") == two
    plan = asked.plan(desk.workspace, "azureml:e:1")
    assert [str(d) for d in plan.differences] == ["numpy: wanted =2, 1.0 installed"]
    # What is named otherwise is `python` all the same.
    first, second = asked.folders(two)
    assert second == str(two.parent)
    assert os.readlink(Path(first) / "python") == str(two) == os.readlink(Path(first) / "python3")
    assert asked.folders(two) == [first, second]
    assert asked.folders(one) == [str(one.parent)]


def test_a_label_keeps_its_meaning(desk: Any) -> None:
    stored(desk, "dependencies: [no-such-package-here=1]")
    asked = environments(desk)
    told = asked.check(desk.workspace, "azureml:e@latest")
    assert told[RESOLVED] == "e:1"
    stored(desk, None, version="2")
    assert asked.check(desk.workspace, "azureml:e@latest")[RESOLVED] == "e:2"
    plan = asked.plan(desk.workspace, "azureml:e@latest", told[RESOLVED])
    assert plan.definition.label == "e:1" and len(plan.differences) == 1


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("azureml://registries/azureml/environments/never-heard-of/versions/1", "not among the curated"),
        ("azureml://registries/azureml/environments/acft-transformers-image-gpu/labels/latest", "published"),
        ("azureml:e:1", "an image alone"),
    ],
)
def test_what_cannot_be_compared_is_said_and_strict_refuses_it(desk: Any, name: str, part: str) -> None:
    stored(desk, None)
    plan = environments(desk).plan(desk.workspace, name)
    assert any(part in line for line in plan.lines) and plan.differences == ()
    with pytest.raises(AzureError) as caught:
        environments(desk, strict=True).check(desk.workspace, name)
    assert caught.value.status == 400 and part in caught.value.message


def test_an_old_record_that_is_no_conda_file(desk: Any) -> None:
    stored(desk, "dependencies: [")
    with pytest.raises(AzureError) as caught:
        environments(desk).check(desk.workspace, "azureml:e:1")
    assert caught.value.status == 400 and "line 2" in caught.value.message


def test_unknown_labels_are_refused(desk: Any) -> None:
    stored(desk, None)
    for name in ("azureml:e@stable", "azureml://registries/azureml/environments/sklearn-1.5/labels/stable"):
        with pytest.raises(AzureError) as caught:
            environments(desk).check(desk.workspace, name)
        assert "only label is latest" in caught.value.message
