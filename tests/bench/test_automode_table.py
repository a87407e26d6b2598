"""The script that makes AutoMode's table: its data, its rows, its verdict."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import automode_table
import pytest


def row(arm: str, seed: int, score: str, **more: Any) -> dict[str, str]:
    found = {"set": "digits", "metric": "accuracy", "budget_s": 600, "status": "Completed", "seconds": 1.5}
    found |= {"trials": 4, "cores": 2, "model": "resnet18", "job": f"{arm}{seed}"}
    found |= {"images": 200, "arm": arm, "seed": seed, "score": score}
    return {key: str(value) for key, value in {**found, **more}.items()}


ROWS = [
    *(row("default", seed, "0.5") for seed in (1, 2)),
    *(row("random", seed, score) for seed, score in ((1, "0.9"), (2, "0.8"))),
    *(row("automode", seed, score) for seed, score in ((1, "0.9"), (2, "0.84"), (3, "0.1"))),
]


def test_the_table_compares_seeds_that_all_have() -> None:
    lines = automode_table.table(ROWS).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == 10
    cells = [cell.strip() for cell in lines[2].split("|")]
    assert cells[1:] == [
        "digits (accuracy)",
        "200",
        "600 s",
        "2",
        "2",
        "0.500 ± 0.000",
        "0.850 ± 0.071 (4.0 trials)",
        "0.870 ± 0.042 (4.0 trials)",
        "yes",
        "",
    ]
    assert "64 pixels, random weights" in lines[-1] and "mobilenetv2, resnet18" in lines[-1]
    # Other sizes and limits are rows of their own, of what all three have.
    more = [row(arm, 1, "0.7", **{key: 400}) for key in ("images", "cores") for arm in automode_table.ARMS]
    lines = automode_table.table([*ROWS, *more, row("default", 1, "0.1", budget_s=60)]).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:5]] == ["200", "400", "200"] and lines[5] == ""
    worse = [*ROWS[:-3], row("automode", 1, "0.8"), row("automode", 2, "")]
    assert automode_table.table(worse).splitlines()[2].endswith("| 0.400 ± 0.566 (4.0 trials) | no |")
    assert len(automode_table.table(ROWS[:4]).splitlines()) == 4


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "results" / "table.csv"
    assert automode_table.read(path) == []
    for one in ROWS:
        automode_table.append(path, one)
    assert automode_table.read(path) == ROWS
    there = {"set": "digits", "images": 200, "arm": "random", "seed": 2, "budget_s": 600, "cores": 2}
    assert automode_table.is_there(automode_table.read(path), **there)
    for key, value in (("set", "skewed"), ("images", 800), ("seed", 3), ("budget_s", 1200), ("cores", 1)):
        assert not automode_table.is_there(ROWS, **{**there, key: value})
    # A run that was killed while it wrote.
    with path.open("a") as file:
        file.write("digits,accuracy,def")
    assert automode_table.read(path) == ROWS
    automode_table.append(path, ROWS[0])
    assert automode_table.read(path) == [*ROWS, ROWS[0]]


def test_the_skewed_set(tmp_path: Path) -> None:
    counts = []
    for folder in automode_table.write_skewed(tmp_path, 800):
        rows = [json.loads(line) for line in (folder / "annotations.jsonl").read_text().splitlines()]
        assert all((folder / one["image_url"]).is_file() for one in rows)
        counts.append(Counter(one["label"] for one in rows))
    train, validation = counts
    assert [train[str(digit)] for digit in range(10)] == list(automode_table.SKEWED)
    assert set(validation.values()) == {10}
    assert automode_table.skewed(100) == [31, 22, 15, 11, 7, 5, 3, 3, 3, 3]


def test_the_jobs_of_the_arms(tmp_path: Path) -> None:
    data = (tmp_path / "train", tmp_path / "validation")
    bodies = {}
    for arm in automode_table.ARMS:
        job = automode_table.job_of(f"job-{arm}", arm, data, "accuracy", 3, 20)
        bodies[arm] = job._to_rest_object().as_dict()["properties"]["taskDetails"]
    assert [body["limitSettings"]["maxTrials"] for body in bodies.values()] == [1, 10, 10]
    assert {body["limitSettings"]["timeout"] for body in bodies.values()} == {"PT20M"}
    for body in bodies.values():
        settings = body["modelSettings"]
        assert (settings["trainingCropSize"], settings["randomSeed"]) == (64, 3)
        assert settings.get("modelName") is None
    # What makes a job AutoMode: several trials, and none of the three.
    assert not bodies["automode"].get("searchSpace") and not bodies["automode"].get("sweepSettings")
    assert bodies["random"]["searchSpace"] and bodies["random"]["sweepSettings"]


def test_arguments_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert automode_table.parsed(["--sets", "digits"]).sets == ["digits"]
    for given, message in (
        (["--budget", "90"], "whole minutes"),
        (["--sets", "digits,letters"], "letters is none of digits, sign-digits, skewed"),
        (["--arms", "best"], "best is none of default"),
        (["--images", "9"], "from 40 to 1400"),
    ):
        with pytest.raises(SystemExit):
            automode_table.parsed(given)
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="--sign-digits"):
        automode_table.write_set("sign-digits", Path("nowhere"), None, 100)


def test_a_part_of_a_folder_of_signs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    for part, count in (("train", 9), ("validation", 4)):
        rows = [{"image_url": f"images/{part}{number}.jpg", "label": str(number)} for number in range(count)]
        (source / f"{part}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        for one in rows:
            (source / one["image_url"]).write_bytes(b"x")
    made = automode_table.write_set("sign-digits", tmp_path / "made", source, 8)
    counts = [len((folder / "annotations.jsonl").read_text().splitlines()) for folder in made]
    assert counts == [8, 4]
    assert (made[0] / "images" / "train7.jpg").is_file() and not (made[0] / "images" / "train8.jpg").exists()
