"""What the commands say when they cannot do what they were asked: one line, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def amlocal(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "amlocal.emulator.cli", *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (["status"], 3, "Start one with: amlocal serve"),
        (["stop"], 0, "No server runs"),
        (["env"], 1, "no server was ever started"),
        (["workspace", "add", "a/b"], 1, "'a/b' is not of the form SUBSCRIPTION/GROUP/NAME"),
        (["workspace", "add", "a/b/-c"], 1, "'-c' is not a valid workspace name"),
        (["workspace", "add", "missing.json"], 1, "missing.json does not exist"),
        (["serve", "--port", "99999"], 1, "port = 99999 (from command line)"),
    ],
)
def test_one_line_says_it(tmp_path: Path, arguments: list[str], code: int, wanted: str) -> None:
    done = amlocal(*arguments, "--data-dir", str(tmp_path / "data"))
    assert done.returncode == code
    assert wanted in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_made_is_named() -> None:
    done = amlocal("serve", "--data-dir", "/proc/amlocal")
    assert done.returncode == 1
    assert done.stderr.startswith("amlocal: /proc/amlocal: ")


@pytest.mark.parametrize("text", ["not json", "[]", '{"subscription_id": "s", "resource_group": "g"}'])
def test_a_config_json_must_hold_the_three_names(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(text)
    done = amlocal("workspace", "add", str(config), "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 1
    assert "subscription_id, resource_group and workspace_name" in done.stderr


def test_workspaces_are_added_while_no_server_runs(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    names = {"subscription_id": "s1", "resource_group": "g1", "workspace_name": "w1"}
    config.write_text(json.dumps(names))
    data = ["--data-dir", str(tmp_path / "data")]
    assert amlocal("workspace", "add", str(config), *data).returncode == 0
    assert amlocal("workspace", "add", "S1/G1/W1", *data).returncode == 0
    assert amlocal("workspace", "add", "s1/g1/w2", *data).returncode == 0
    # The first spelling stays: names compare without case.
    assert amlocal("workspace", "list", *data).stdout.split() == ["s1/g1/w1", "s1/g1/w2"]


def test_a_command_that_is_not_known(tmp_path: Path) -> None:
    done = amlocal("bogus")
    assert done.returncode == 2
    assert "invalid choice: 'bogus'" in done.stderr
