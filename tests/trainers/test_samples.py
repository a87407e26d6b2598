from __future__ import annotations

import ast
import csv
import json
from pathlib import Path

import pytest

from amlocal.trainers.data import balance, samples
from amlocal.trainers.errors import TrainingError


def manifest(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def row(image: str, label: object, line: int) -> dict[str, object]:
    return {"path": image, "etag": "e", "label": label, "source": f"t.jsonl:{line}"}


def test_of_two_rows_for_one_image_the_later_counts(tmp_path: Path) -> None:
    path = manifest(tmp_path / "m", row("/a", "x", 1), row("/b", "y\u2028", 2), row("/a", "z", 3))
    found = samples.read_manifest(path, multilabel=False)
    assert [(str(s.path), s.labels, s.source) for s in found] == [
        ("/b", ("y\u2028",), "t.jsonl:2"),
        ("/a", ("z",), "t.jsonl:3"),
    ]


def test_a_bad_manifest_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"m:2 is not a manifest row"):
        samples.read_manifest(manifest(tmp_path / "m", row("/a", "x", 1), {"path": "/b"}), multilabel=False)
    with pytest.raises(TrainingError, match=r"t\.jsonl:1: the label of a multi-class image must be one text"):
        samples.read_manifest(manifest(tmp_path / "m", row("/a", ["x"], 1)), multilabel=False)
    with pytest.raises(TrainingError, match="cannot read the manifest"):
        samples.read_manifest(tmp_path / "none", multilabel=False)


def test_multilabel_rows_have_any_number_of_labels_each_once(tmp_path: Path) -> None:
    rows = [row("/a", ["x", "y", "x"], 1), row("/b", [], 2), row("/c", ["y"], 3)]
    found = samples.read_manifest(manifest(tmp_path / "m", *rows), multilabel=True)
    assert [s.labels for s in found] == [("x", "y"), (), ("y",)]


@pytest.mark.parametrize("label", ["x", None, ["x", 3], {"x": 1}])
def test_a_multilabel_row_without_a_list_of_texts_is_named(tmp_path: Path, label: object) -> None:
    with pytest.raises(TrainingError, match=r"^t\.jsonl:7: the label of a multi-label image must be a list"):
        samples.read_manifest(manifest(tmp_path / "m", row("/a", label, 7)), multilabel=True)


def test_the_split_is_scikit_learns_not_by_class() -> None:
    from sklearn.model_selection import train_test_split

    rows = [samples.Sample(Path(f"/{n}"), "e", ("ab"[n % 9 == 0],), f"t:{n}") for n in range(43)]
    for share in (0.2, 0.1, 0.37):
        theirs = train_test_split(rows, test_size=share, random_state=11)
        assert samples.split(rows, share, 11) == tuple(theirs)


def test_the_split_is_whole_sized_as_asked_and_repeated_by_its_seed() -> None:
    rows = [samples.Sample(Path(f"/{n}"), "e", ("x",), f"t:{n}") for n in range(50)]
    train, validation = samples.split(rows, 0.2, 3)
    assert (len(train), len(validation)) == (40, 10)
    assert {s.path for s in train} | {s.path for s in validation} == {s.path for s in rows}
    assert samples.split(rows, 0.2, 3) == (train, validation)
    assert samples.split(rows, 0.2, 4) != (train, validation)
    assert [len(half) for half in samples.split(rows[:2], 0.01, 3)] == [1, 1]
    with pytest.raises(TrainingError, match="give validation_data"):
        samples.split(rows[:1], 0.2, 3)


def test_without_a_seed_the_images_decide_how_they_are_split() -> None:
    rows = [samples.Sample(Path(f"/{n}"), "e", ("x",), f"t:{n}") for n in range(50)]
    relabelled = [samples.Sample(row.path, "other", ("y",), "u:1") for row in rows]
    train, validation = samples.split(rows, 0.2, None)
    assert (len(train), len(validation)) == (40, 10)
    assert samples.split(rows, 0.2, None) == (train, validation)
    assert [row.path for row in samples.split(relabelled, 0.2, None)[1]] == [row.path for row in validation]
    assert {row.path for row in samples.split(rows[1:], 0.2, None)[1]} != {row.path for row in validation}


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
    odd = samples.Sample(Path('/a"b\tc.jpg'), "e", ("x",), "t:1")
    samples.write_split(tmp_path, [odd], [])
    assert (tmp_path / "train_df.csv").read_text() == '"/a""b\tc.jpg"\tx\n'
    assert (tmp_path / "val_df.csv").read_text() == ""


def test_split_files_of_multilabel_data_hold_lists_that_json_and_python_read(tmp_path: Path) -> None:
    labels = [("b", 'a "ü"'), (), ("c",)]
    rows = [samples.Sample(Path(f"/{n}.jpg"), "e", some, f"t:{n}") for n, some in enumerate(labels)]
    samples.write_split(tmp_path, rows, rows[:1], multilabel=True)
    with (tmp_path / "train_df.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.reader(file, delimiter="\t"))
    assert [path for path, _ in found] == ["/0.jpg", "/1.jpg", "/2.jpg"]
    assert [json.loads(text) for _, text in found] == [list(some) for some in labels]
    assert [ast.literal_eval(text) for _, text in found] == [list(some) for some in labels]


def made(*labels: tuple[str, ...]) -> list[samples.Sample]:
    return [samples.Sample(Path(f"/{n}"), "e", some, f"t:{n}") for n, some in enumerate(labels)]


def test_a_class_without_a_training_image_is_told() -> None:
    train, validation = made(("a",), ("b",), ("a",)), made(("c",), ("a",), ("d", "c"))
    assert balance.notices(train, validation) == [
        "no training image has the classes 'c', 'd', which validation images have; they cannot be learned",
    ]
    assert balance.notices(train, made(("c",)))[0].startswith("no training image has the class 'c', which")
    assert balance.notices(train, train) == []


def test_imbalance_is_told_from_three_to_one_on() -> None:
    assert balance.notices(made(*[("a",)] * 5, ("b",), ("b",)), []) == []
    assert balance.notices(made(*[("a", "c")] * 6, ("b",), ("b",)), []) == [
        "imbalanced classes: 'a' has 6 training images, 'b' has 2, 3.0 to 1; weighted_loss can help"
    ]


def test_many_classes_are_cut_short() -> None:
    validation = made(*[(f"c{n:02}",) for n in range(12)])
    assert balance.notices(made(("a",)), validation)[0].startswith(
        "no training image has the classes 'c00', 'c01', 'c02', 'c03', 'c04' and 7 more, which"
    )
