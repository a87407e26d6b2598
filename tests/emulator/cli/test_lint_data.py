"""`amlocal lint` on data, and how it says what it finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from lint_desk import MLTABLE, job, write_data


def test_data_row_by_row(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    folder = write_data(
        tmp_path / "data/train",
        40,
        row_0={"image_url": "images/none.jpg"},
        row_1={"label": None},
        row_2={"label": ["can"]},
        row_3={"image_url": "images/3.webp"},
        row_4={"image_url": "../../secret.jpg"},
        row_5={"image_url": "https://host/5.jpg"},
        row_6={"image_url": "azureml://datastores/store/paths/6.jpg"},
        row_7={"image_url": "azureml://datastores/store/paths/7.gif"},
    )
    (folder / "images/3.webp").write_bytes(b"image")
    expected = {
        1: "the row is dropped: image not found: images/none.jpg",
        2: "the row is dropped: no label",
        3: "the row is dropped: label is a list, which is for multi-label",
        4: "'3.webp' does not end in one of .jpg, .jpeg, .png",
        5: "the row is dropped: '../../secret.jpg'",
        6: "the row is dropped: 'https://host/5.jpg' is neither a relative path nor an azureml reference",
        8: "'7.gif' does not end in one of",
    }
    (tmp_path / "job.yml").write_text(job())
    alike = {"data/train": "data/train/rows.jsonl", "data/train/MLTable": "data/train/rows.jsonl"}
    for argument, name in {**alike, "job.yml": alike["data/train"]}.items():
        lines = sorted(lint(argument), key=lambda line: int(line.split(":")[1]))
        assert len(lines) == len(expected), lines
        for line, (number, message) in zip(lines, expected.items(), strict=True):
            assert line.startswith(f"{name}:{number}: warning: ") and message in line, line
    assert len(lint("data/train/rows.jsonl")) == len(expected)
    assert lint("data/train", "--strict", code=1)


def test_data_that_cannot_be_used(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    folder = write_data(tmp_path / "few", 4)
    lines = lint("few", code=1)
    assert lines == ["few/MLTable:1: error: few: 4 of 4 rows can be used, at least 10 are needed."]
    (folder / "rows.jsonl").write_text('{"image_url": "images/1.jpg", "label": "a"}\n{"image_url": \n')
    lines = lint("few/rows.jsonl", code=1)
    assert lines[0].startswith("few/rows.jsonl:2: error: rows.jsonl:2:") and "not JSON" in lines[0]
    (folder / "MLTable").write_text(MLTABLE.replace("./rows.jsonl", "./none.jsonl"))
    assert "none.jsonl: no such file" in lint("few/MLTable", code=1)[0]
    (folder / "MLTable").write_text(MLTABLE.replace("./rows", "azureml://datastores/store/paths/rows"))
    assert "is in a datastore, so its rows are not checked here" in lint("few")[0]
    (folder / "MLTable").write_text("a: &a [*a]")
    assert lint("few", code=1)[0].startswith("few/MLTable:1: error: ")


def test_other_labels_and_tasks(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    write_data(tmp_path / "pairs", labels=[["a"], ["a", "b"]])
    assert len(lint("pairs", code=1)) == 21
    assert lint("pairs", "--task", "image-classification-multilabel") == []
    lines = lint("pairs", "--label-column", "lable", "--task", "image-classification-multilabel", code=1)
    assert any("no row has the column 'lable'" in line and "'label'" in line for line in lines), lines


def test_very_many_faults_are_counted(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data", 12)
    rows = "".join(f'{{"image_url": "images/none{number}.jpg", "label": "a"}}\n' for number in range(1000))
    with (folder / "rows.jsonl").open("a") as stream:
        stream.write(rows)
    lines = lint("data")
    assert 101 <= len(lines) <= 103 and any("900 more rows are dropped" in line for line in lines)


def test_formats(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    write_data(tmp_path / "a,b", row_3={"image_url": "images/10%.jpg"})
    text = lint("a,b")[0]
    assert text.startswith("a,b/rows.jsonl:4: warning: the row is dropped: ")
    line = lint("a,b", "--format", "github")[0]
    assert line.startswith("::warning file=a%2Cb/rows.jsonl,line=4::the row is dropped: image not found")
    assert "10%25" in line
    found = json.loads("\n".join(lint("a,b", "few", "--format", "json", code=2)))
    assert found[0].keys() == {"file", "line", "severity", "message"}
    assert (found[0]["file"], found[0]["line"], found[0]["severity"]) == ("a,b/rows.jsonl", 4, "warning")
    assert found[-1] == {"file": "few", "line": 1, "severity": "error", "message": "there is no such file"}
    assert json.loads("\n".join(lint(str(write_data(tmp_path / "good")), "--format", "json"))) == []


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"type: automl\n  x: 1\n", 2, "not YAML"),
        (b"a: &a [*a]\n", 1, "an alias names what it stands in"),
        (b"type: !!python/object/apply:os.system ['touch owned']\n", 1, "constructor for the tag"),
        (b"- a\n", 1, "it is no job"),
        (b"", 1, "it is no job"),
        (b"\xff\xfe", 1, "not UTF-8"),
        (b"name: x\n$schema: https://x/managedOnlineEndpoint.schema.json\n", 2, "managedOnlineEndpoint"),
    ],
)
def test_files_that_cannot_be_read(
    lint: Callable[..., list[str]], tmp_path: Path, content: bytes, line: int, message: str
) -> None:
    (tmp_path / "x.yml").write_bytes(content)
    lines = lint("x.yml", code=2)
    assert len(lines) == 1 and lines[0].startswith(f"x.yml:{line}: error: ") and message in lines[0], lines
    assert not (tmp_path / "owned").exists()


def test_nothing_that_can_be_read(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert lint("empty", code=2) == ["empty:1: error: the folder has no file MLTable"]
    assert lint("none.yml", code=2) == ["none.yml:1: error: there is no such file"]
    assert lint("/dev/null", code=2) == ["/dev/null:1: error: it is no plain file"]


def test_a_message_cannot_command_the_terminal(lint: Callable[..., list[str]], tmp_path: Path) -> None:
    text = job().replace("data/train", "azureml:x:1") + 'training_parameters: {"\\e[31mred\\n::error": 1}\n'
    (tmp_path / "job.yml").write_text(text)
    lines = lint("job.yml", code=1)
    assert len(lines) == 1 and "\x1b" not in lines[0] and "red" in lines[0]
