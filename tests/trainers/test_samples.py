from __future__ import annotations

import json
from pathlib import Path

import pytest

from amlocal.trainers.data import samples
from amlocal.trainers.errors import TrainingError


def manifest(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def row(image: str, label: object, line: int) -> dict[str, object]:
    return {"path": image, "etag": "e", "label": label, "source": f"t.jsonl:{line}"}


def test_of_two_rows_for_one_image_the_later_counts(tmp_path: Path) -> None:
    path = manifest(tmp_path / "m", row("/a", "x", 1), row("/b", "y\u2028", 2), row("/a", "z", 3))
    found = samples.read_manifest(path)
    assert [(str(s.path), s.label, s.source) for s in found] == [
        ("/a", "z", "t.jsonl:3"),
        ("/b", "y\u2028", "t.jsonl:2"),
    ]


def test_a_bad_manifest_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"m:2 is not a manifest row"):
        samples.read_manifest(manifest(tmp_path / "m", row("/a", "x", 1), {"path": "/b"}))
    with pytest.raises(TrainingError, match=r"t\.jsonl:1: the label of a multi-class image must be one text"):
        samples.read_manifest(manifest(tmp_path / "m", row("/a", ["x"], 1)))
    with pytest.raises(TrainingError, match="cannot read the manifest"):
        samples.read_manifest(tmp_path / "none")


def test_the_split_is_whole_sized_as_asked_and_repeated_by_its_seed() -> None:
    rows = [samples.Sample(Path(f"/{n}"), "e", "x", f"t:{n}") for n in range(50)]
    train, validation = samples.split(rows, 0.2, 3)
    assert (len(train), len(validation)) == (40, 10)
    assert {s.path for s in train} | {s.path for s in validation} == {s.path for s in rows}
    assert samples.split(rows, 0.2, 3) == (train, validation)
    assert samples.split(rows, 0.2, 4) != (train, validation)
    assert [len(half) for half in samples.split(rows[:2], 0.01, 3)] == [1, 1]
    with pytest.raises(TrainingError, match="give validation_data"):
        samples.split(rows[:1], 0.2, 3)


def test_the_report_adds_to_the_earlier_one_without_repeating(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = tmp_path / "earlier.json"
    old = {"file": "t.jsonl", "line": 4, "reason": "no label"}
    earlier.write_text(json.dumps({"rows": 30, "dropped": [old]}))
    new = [samples.Dropped("t.jsonl:4", "again"), samples.Dropped("t.jsonl:9", "a.jpg: cannot be decoded")]
    samples.report(tmp_path / "out" / "data_report.json", earlier, new)
    assert json.loads((tmp_path / "out" / "data_report.json").read_text()) == {
        "rows": 30,
        "dropped": [old, {"file": "t.jsonl", "line": 9, "reason": "a.jpg: cannot be decoded"}],
    }
    assert "WARNING: t.jsonl:9 is left out: a.jpg: cannot be decoded" in capsys.readouterr().out


def test_a_long_list_is_cut_in_the_log_and_whole_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = [samples.Dropped(f"t.jsonl:{n}", "bad") for n in range(1, 31)]
    samples.report(tmp_path / "r.json", None, many)
    assert "10 more images are left out" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "r.json").read_text())["dropped"]) == 30


def test_split_files_quote_what_needs_it(tmp_path: Path) -> None:
    odd = samples.Sample(Path('/a"b\tc.jpg'), "e", "x", "t:1")
    samples.write_split(tmp_path, [odd], [])
    assert (tmp_path / "train_df.csv").read_text() == '"/a""b\tc.jpg"\tx\n'
    assert (tmp_path / "val_df.csv").read_text() == ""
