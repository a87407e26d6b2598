"""The file MLTable: which files it names, which transformations are carried out, which are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amlocal.compat.mltable import Report, lint

HEAD = "paths:\n  - file: ./a.jsonl\ntransformations:\n"
READ = "  - read_json_lines:\n      encoding: utf8\n"
STREAM = "  - convert_column_types:\n      - columns: image_url\n        column_type: stream_info\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An MLTable folder "train" with 30 images and three JSON lines files of ten rows."""
    train = tmp_path / "train"
    (train / "images").mkdir(parents=True)
    (train / "more").mkdir()
    for number in range(30):
        (train / "images" / f"{number}.jpg").write_bytes(b"image")
    for at, name in enumerate(("a.jsonl", "b.jsonl", "more/c.jsonl")):
        rows = [{"image_url": f"images/{n}.jpg", "label": str(at)} for n in range(10 * at, 10 * at + 10)]
        (train / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return train


def check(folder: Path, text: str | bytes) -> Report:
    (folder / "MLTable").write_bytes(text if isinstance(text, bytes) else text.encode())

    def resolve(uri: str) -> Path:
        if uri.startswith("azureml://datastores/here/paths/"):
            return folder / uri.removeprefix("azureml://datastores/here/paths/")
        raise ValueError(f"{uri} is not allowed here")

    return lint(folder, resolve=resolve)


@pytest.mark.parametrize(
    ("paths", "sources"),
    [
        ("- file: ./a.jsonl", ["a.jsonl"]),
        ("- file: a.jsonl\n- file: ./b.jsonl", ["a.jsonl", "b.jsonl"]),
        ("- file: b.jsonl\n- file: a.jsonl\n- file: ./b.jsonl", ["b.jsonl", "a.jsonl"]),
        ("- folder: ./", ["a.jsonl", "b.jsonl", "more/c.jsonl"]),
        ("- folder: more", ["more/c.jsonl"]),
        ("- pattern: ./*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("- pattern: ./**/*.jsonl", ["a.jsonl", "b.jsonl", "more/c.jsonl"]),
        ("- pattern: more/[a-c].jsonl", ["more/c.jsonl"]),
        ("- pattern: more/c.jsonl", ["more/c.jsonl"]),
        ("- file: azureml://datastores/here/paths/b.jsonl", ["b.jsonl"]),
        ("- folder: azureml://datastores/here/paths/more", ["more/c.jsonl"]),
        ("- pattern: azureml://datastores/here/paths/more/*.jsonl", ["more/c.jsonl"]),
    ],
)
def test_paths(folder: Path, paths: str, sources: list[str]) -> None:
    report = check(folder, f"paths:\n{paths}\ntransformations:\n{READ}{STREAM}")
    assert report.errors == []
    assert list(dict.fromkeys(row.source.split(":")[0] for row in report.rows)) == sources
    assert len(report.rows) == 10 * len(sources)


@pytest.mark.parametrize(
    ("paths", "code", "part"),
    [
        ("- file: ./none.jsonl", "MLTablePathNotFound", "train/MLTable: file: ./none.jsonl: no such file."),
        ("- folder: images", "MLTablePathNotFound", "no .jsonl, .json, .ndjson file there"),
        ("- folder: nowhere", "MLTablePathNotFound", "folder: nowhere"),
        ("- pattern: ./*.csv", "MLTablePathNotFound", "pattern: ./*.csv"),
        ("- file: ../outside.jsonl", "MLTablePathInvalid", "'..'"),
        ("- folder: ../", "MLTablePathInvalid", "'..'"),
        ("- pattern: ../*.jsonl", "MLTablePathInvalid", "'..'"),
        ("- pattern: more/*/../../../*.jsonl", "MLTablePathInvalid", "'..'"),
        ("- file: /etc/passwd", "MLTablePathInvalid", "/etc/passwd is not allowed here"),
        ("- pattern: /etc/*.jsonl", "MLTablePathInvalid", "/etc/ is not allowed here"),
        ("- file: https://example.com/a.jsonl", "MLTablePathInvalid", "is not allowed here"),
        ("- file: azureml://datastores/here/paths/../a.jsonl", "MLTablePathInvalid", "'..'"),
        ("- file: link.jsonl", "MLTablePathInvalid", "is a link that leaves its folder"),
        ("- pattern: ./link*.jsonl", "MLTablePathInvalid", "is a link that leaves its folder"),
        ("- table: a.jsonl", "MLTableInvalid", "use file, folder or pattern"),
        ("- a.jsonl", "MLTableInvalid", "paths must be a list such as"),
        ("- file: [a.jsonl]", "MLTableInvalid", "with a path as text"),
        ("- {file: a.jsonl, folder: more}", "MLTableInvalid", "paths must be a list such as"),
    ],
)
def test_paths_that_cannot_be_used(folder: Path, paths: str, code: str, part: str) -> None:
    (folder.parent / "outside.jsonl").write_text("{}\n")
    (folder / "link.jsonl").symlink_to(folder.parent / "outside.jsonl")
    report = check(folder, f"paths:\n{paths}\ntransformations:\n{READ}{STREAM}")
    assert [(error.code, error.where) for error in report.errors] == [(code, "train/MLTable")]
    assert part in report.errors[0].message


def test_a_folder_without_the_file_says_what_to_create(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()

    def resolve(uri: str) -> Path:
        raise ValueError(uri)

    report = lint(tmp_path / "train", resolve=resolve)
    assert [(error.code, error.where) for error in report.errors] == [("MLTableNotFound", "train")]
    assert "'train' has no file named MLTable" in report.errors[0].message
    assert "- read_json_lines:" in report.errors[0].message
    with pytest.raises(ValueError, match="has no file named MLTable"):
        report.raise_for_errors()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "must be a mapping with paths"),
        ("just text", "must be a mapping with paths"),
        ("- a\n", "must be a mapping with paths"),
        ("paths: [\n", "train/MLTable:2: not YAML"),
        ("paths:\n\t- file: x\n", "train/MLTable:2: not YAML"),
        (b"a: \xff", "not YAML"),
        ("!!python/object/apply:os.system ['true']\n", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("transformations:\n" + READ, "paths must be a list such as"),
        ("paths: []\n", "paths must be a list such as"),
        ("paths: ./a.jsonl\n", "paths must be a list such as"),
        ("paths:\n  - file: ./a.jsonl\n", "image data needs the transformation read_json_lines"),
        (HEAD + STREAM, "image data needs the transformation read_json_lines"),
        ("paths:\n  - file: a.jsonl\ntransformations: read_json_lines\n", "transformations must be a list"),
        (HEAD + "  - [a, b]\n", "is not one transformation"),
        (HEAD + "  - read_json_lines: {encoding: utf16}\n" + STREAM, "encoding 'utf16' is not supported"),
        (HEAD + "  - read_json_lines: {invalid_lines: guess}\n" + STREAM, "use error or drop"),
        (HEAD + READ + "  - convert_column_types: stream_info\n", "convert_column_types takes a list"),
        (
            HEAD + READ + "  - drop_columns: {a: b}\n" + STREAM,
            "drop_columns: columns must be names",
        ),
    ],
)
def test_files_that_cannot_be_read(folder: Path, text: str | bytes, part: str) -> None:
    report = check(folder, text)
    assert [error.code for error in report.errors] == ["MLTableInvalid"]
    assert part in report.errors[0].message
    assert len(report.errors[0].message) < 1000


def test_repeated_aliases_stay_small(folder: Path) -> None:
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for one, two in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{two}: &{two} [{', '.join(['*' + one] * 9)}]\n"
    report = check(folder, text + "paths: [*i]\n")
    assert [error.code for error in report.errors] == ["MLTableInvalid"]
    assert len(report.errors[0].message) < 1000


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("filter", '\'col("label") == "a"\''),
        ("take", "5"),
        ("skip", "1"),
        ("take_random_sample", "{probability: 0.5}"),
        ("sample", "{sampler: top_n}"),
        ("select_partitions", "[1]"),
        ("read_delimited", "{delimiter: ','}"),
        ("read_parquet", "{include_path_column: false}"),
        ("rotate_images", "90"),
    ],
)
def test_transformations_that_would_change_the_rows_are_refused_by_name(
    folder: Path, name: str, options: str
) -> None:
    report = check(folder, f"{HEAD}{READ}  - {name}: {options}\n{STREAM}")
    assert [error.code for error in report.errors] == ["MLTableTransformationNotSupported"]
    assert f"the transformation '{name}' is not supported" in report.errors[0].message


@pytest.mark.parametrize(
    "steps",
    [
        "  - read_json_lines\n" + STREAM,
        READ + STREAM + "  - drop_columns: [image_details]\n",
        READ + STREAM + "  - drop_columns: image_details\n",
        READ + STREAM + "  - keep_columns: [image_url, label]\n",
        READ + STREAM + "  - extract_columns_from_partition_format: {partition_format: '/{x}'}\n",
        READ + STREAM + "  - convert_column_types:\n      - {columns: label, column_type: string}\n",
        READ + STREAM + "  - convert_column_types:\n      - {columns: [width], column_type: int}\n",
        READ + "  - convert_column_types:\n      - {columns: [image_url], column_type: {stream_info: {}}}\n",
        "  - read_json_lines: {encoding: utf8, invalid_lines: error, include_path_column: true}\n" + STREAM,
        "  - read_json_lines: {encoding: latin1, partition_size: 1000}\n" + STREAM,
    ],
)
def test_transformations_that_leave_the_rows_alone(folder: Path, steps: str) -> None:
    report = check(folder, HEAD + steps)
    assert (report.errors, len(report.rows)) == ([], 10)


@pytest.mark.parametrize(
    ("steps", "code", "part"),
    [
        (READ, "ImageColumnNotStream", "the column 'image_url' must be a stream; add to transformations"),
        (READ + STREAM + "  - drop_columns: [label]\n", "ColumnNotFound", "takes the column 'label' away"),
        (READ + STREAM + "  - keep_columns: label\n", "ColumnNotFound", "takes the column 'image_url' away"),
        (
            READ + STREAM + "  - convert_column_types:\n      - {columns: label, column_type: int}\n",
            "MLTableTransformationNotSupported",
            "converting the label column 'label' to int",
        ),
    ],
)
def test_transformations_that_take_a_needed_column(folder: Path, steps: str, code: str, part: str) -> None:
    report = check(folder, HEAD + steps)
    assert [error.code for error in report.errors] == [code]
    assert part in report.errors[0].message


def test_other_encodings(folder: Path) -> None:
    rows = "".join(f'{{"image_url": "images/{n}.jpg", "label": "Möhre"}}\n' for n in range(10))
    (folder / "a.jsonl").write_bytes(rows.encode("latin-1"))
    assert check(folder, HEAD + "  - read_json_lines: {encoding: iso88591}\n" + STREAM).labels == {
        "Möhre": 10
    }
    wrong = check(folder, HEAD + READ + STREAM)
    assert wrong.errors[0].message.startswith("a.jsonl:1:42: byte 0xf6 is not utf-8")
    ascii_only = check(folder, HEAD + "  - read_json_lines: {encoding: ascii}\n" + STREAM)
    assert "byte 0xf6 is not ascii" in ascii_only.errors[0].message


@pytest.mark.slow
def test_the_real_mltable_package_reads_the_same_rows(folder: Path) -> None:
    mltable = pytest.importorskip("mltable")
    report = check(folder, HEAD + READ + "      invalid_lines: drop\n" + STREAM)
    with (folder / "a.jsonl").open("a") as stream:
        stream.write("not json\n\n")
    again = check(folder, HEAD + READ + "      invalid_lines: drop\n" + STREAM)
    frame = mltable.load(str(folder)).to_pandas_dataframe()
    assert list(frame["label"].astype(str)) == [row.label for row in again.rows]
    assert len(report.rows) == len(again.rows) == 10
