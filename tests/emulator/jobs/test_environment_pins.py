"""Conda files: what they ask for, what of it is compared, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from amlocal.emulator.jobs import environment_differences as differing
from amlocal.emulator.jobs import environment_pins
from amlocal.emulator.jobs.environment_differences import Difference
from amlocal.emulator.jobs.environment_interpreters import Interpreter
from amlocal.emulator.jobs.environment_pins import CondaFileError

WHOLE = """
name: model
channels: [conda-forge, pytorch]
dependencies:
  - python=3.10
  - pip=21.2.4
  - NumPy=1.26
  - conda-forge::scipy>=1.7,<1.9|2.*
  - pytorch::pytorch==2.0.1=py3_0
  - pandas 2.1.*
  - scikit-learn[version='>=1.5']
  - cudatoolkit=11.8
  - https://user:secret@host/x.conda
  - pip:
    - azureml_mlflow==1.50.0   # why
    - ray[tune]>=2; python_version<"3.9"
    - -r requirements.txt
    - --extra-index-url https://user:secret@host/simple
    - git+https://user:secret@host/a.git
    - tqdm==4.1 --hash=sha256:00
"""


def python(version: str = "3.10.4", **installed: str) -> Interpreter:
    packages = {name.replace("_", "-"): text for name, text in installed.items()}
    return Interpreter(Path(sys.executable), version, Path("/"), packages)


def test_a_whole_file() -> None:
    pins = environment_pins.read(WHOLE)
    assert [(wanted.package, wanted.text) for wanted in pins.conda] == [
        ("numpy", "=1.26"),
        ("scipy", ">=1.7,<1.9|2.*"),
        ("torch", "==2.0.1=py3_0"),
        ("pandas", "2.1.*"),
        ("scikit-learn", ">=1.5"),
    ]
    assert [wanted.package for wanted in pins.pip] == ["pip", "azureml_mlflow", "ray", "tqdm"]
    assert pins.not_compared == (
        "cudatoolkit=11.8",
        "https://****@host/x.conda",
        "-r requirements.txt",
        "--extra-index-url https://****@host/simple",
        "git+https://****@host/a.git",
    )
    assert pins.elsewhere == ("-r requirements.txt",)
    assert pins.pip_lines[3] == "--extra-index-url https://user:secret@host/simple"


def test_the_differences_of_an_interpreter() -> None:
    pins = environment_pins.read(WHOLE)
    good = {
        "pip": "21.2.4", "numpy": "1.26.9", "scipy": "2.3", "torch": "2.0.1+cu118", "pandas": "2.1.0",
        "scikit_learn": "1.6rc1", "azureml_mlflow": "1.50.0", "tqdm": "4.1",
    }  # fmt: skip
    assert differing.between(pins, python(**good)) == []
    bad = {**good, "numpy": "2.0.0", "scipy": "1.9", "torch": "2.0.2"}
    del bad["tqdm"]
    assert differing.between(pins, python("3.11.0", **bad)) == [
        Difference("python", "=3.10", "3.11.0"),
        Difference("numpy", "=1.26", "2.0.0"),
        Difference("scipy", ">=1.7,<1.9|2.*", "1.9"),
        Difference("torch", "==2.0.1=py3_0", "2.0.2"),
        Difference("tqdm", "==4.1", None),
    ]
    # The marker of ray holds for an old Python only.
    assert Difference("ray", ">=2", None) in differing.between(pins, python("3.8.1", **good))


@pytest.mark.parametrize(
    ("wish", "yes", "no"),
    [
        ("x", "0.1", None),
        ("x=1.2", "1.2.9", "1.20"),
        ("x=1.2.*", "1.2", "1.3"),
        ("x==1.2", "1.2.0", "1.2.1"),
        ("x 1.2", "1.2", "1.2.1"),
        ("x>=1.2", "1.10", "1.1"),
        ("x!=1.2", "1.3", "1.2"),
        ("x~=1.2", "1.9", "2.0"),
        ("x=1|=3", "3.1", "2.1"),
        ("x =1.2", "1.2.3", "1.3"),
    ],
)
def test_versions_as_conda_means_them(wish: str, yes: str, no: str | None) -> None:
    (wanted,) = environment_pins.read(f"dependencies: ['{wish}']").conda
    assert wanted.accepts(yes) and (no is None or not wanted.accepts(no))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- numpy", "must be a mapping"),
        ("just text", "must be a mapping"),
        ("", "must be a mapping"),
        ("dependencies: [", "line 2, column 1"),
        ("dependencies: numpy", "`dependencies` must be a list"),
        ("channels: {a: b}", "`channels` must be a list"),
        ("dependencies: [numpy, 3.1]", "`dependencies[1]` must be a package"),
        ("dependencies: ['']", "`dependencies[0]`"),
        ("dependencies: [{npm: [x]}]", "mapping of npm"),
        ("dependencies: [{pip: numpy}]", "`dependencies[0]`.pip must be a list"),
        ("dependencies: [{pip: [1.0]}]", ".pip[0] must be one requirement"),
        ('dependencies: [{pip: ["a\\nb"]}]', ".pip[0]"),
        ("a: &a [x]\nb: [*a, *a]", "line 2 has an alias"),
        ("[" * 5000, "nested too deeply"),
        ("x: !!python/object/apply:os.system ['id']", "not YAML: line 1"),
        ("x: \0", "not YAML"),
        ("x: 2020-99-99", "not YAML"),
        ("dependencies:\n" + "- numpy\n" * 100_000, "bytes; at most"),
        ("dependencies:\n" + "- a\n" * 2000, "2000 entries"),
    ],
)
def test_what_is_no_conda_file_is_said_with_its_place(text: str, part: str) -> None:
    with pytest.raises(CondaFileError) as caught:
        environment_pins.read(text)
    assert part in str(caught.value), str(caught.value)
    assert len(str(caught.value)) < 400


def test_many_differences_are_told_shortly() -> None:
    many = [Difference(f"package-{number}", "==1", None) for number in range(500)]
    text = differing.told(many)
    assert len(text) < 1100 and text.startswith("package-0: wanted ==1, not installed; package-1: ")
    shown = text.count("wanted")
    assert text.endswith(f"; and {500 - shown} more")
