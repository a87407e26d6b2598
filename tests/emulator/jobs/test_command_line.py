"""Values in a command are values, wherever they stand; bash itself is asked."""

from __future__ import annotations

import subprocess

import pytest

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import command_line

HOSTILE = [
    "plain",
    "two words",
    "it's",
    '"',
    "$(echo no)",
    "`echo no`",
    "$HOME",
    "\\",
    "a\nb",
    "; exit 7",
    "*",
    "",
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "template",
    [
        "printf %s ${{inputs.x}}",
        'printf %s "${{inputs.x}}"',
        "printf %s '${{inputs.x}}'",
        'printf %s "$(printf %s ${{inputs.x}})"',
        'printf %s "$(printf %s "${{ inputs.x }}")"',
        "# don't\nprintf %s ${{inputs.x}}",
        "(printf %s ${{inputs.x}})",
    ],
)
def test_a_value_stays_a_value(template: str, value: str) -> None:
    filled = command_line.fill(template, {"x": value}, {})
    done = subprocess.run(["/bin/bash", "-c", filled], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", value)


def test_optional_parts() -> None:
    command = "run $[[--a ${{inputs.a}}]] $[[--b ${{inputs.b}} --o ${{outputs.o}}]]"
    assert command_line.fill(command, {"a": "1"}, {"o": "/p"}).split() == ["run", "--a", "1"]
    filled = command_line.fill(command, {"a": "1", "b": "2"}, {"o": "/p"})
    assert filled.split() == ["run", "--a", "1", "--b", "2", "--o", "/p"]


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("echo ${{inputs.y}}", "inputs.y"),
        ("echo ${{outputs.x}}", "outputs.x"),
        ("echo ${{search_space.lr}}", "search_space.lr"),
        ("echo ${{inputs.x.y}}", "inputs.x.y"),
    ],
)
def test_unknown_references_are_named(command: str, part: str) -> None:
    with pytest.raises(AzureError) as caught:
        command_line.check(command, {"x": "1"}, {})
    assert caught.value.status == 400 and part in caught.value.message


def test_known_and_optional_references_pass() -> None:
    command_line.check("echo ${{inputs.x}} $[[ ${{inputs.y}} ]] ${{outputs.o}}", {"x": "1"}, {"o": "2"})
