"""Rows: what is kept, what is dropped and with which words."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from mltable_desk import GOOD, check

from amlocal.compat.azureml_uri import parse_datastore
from amlocal.compat.mltable import write_manifest


def test_good_rows_become_the_manifest(folder: Path, tmp_path: Path) -> None:
    report = check(folder, list(GOOD))
    assert (len(report.rows), report.dropped, report.errors, report.complete) == (20, [], [], True)
    assert report.labels == {"a": 10, "b": 10}
    assert report.notices == []
    image = folder / "images" / "3.jpg"
    manifest = tmp_path / "train.manifest.jsonl"
    assert write_manifest(report, manifest) == 20
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert lines[3] == {
        "path": str(image),
        "etag": f"5-{image.stat().st_mtime_ns}",
        "label": "b",
        "source": "train_annotations.jsonl:4",
    }
    assert stat.S_IMODE(manifest.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["train.manifest.jsonl"]


SAMPLE = (
    '{"image_url": "azureml://subscriptions/my-subscription-id/resourcegroups/my-resource-group/workspaces/'
    'my-workspace/datastores/my-datastore/paths/image_data/Image_01.jpg", "image_details":{"format": "jpg", '
    '"width": "400px", "height": "258px"}, "label": "can"}\n'
    '{"image_url": "azureml://subscriptions/my-subscription-id/resourcegroups/my-resource-group/workspaces/'
    'my-workspace/datastores/my-datastore/paths/image_data/Image_02.jpg", "image_details": {"format": "jpg", '
    '"width": "397px", "height": "296px"}, "label": "milk_bottle"}\n'
    ".\n.\n.\n"
    '{"image_url": "azureml://subscriptions/my-subscription-id/resourcegroups/my-resource-group/workspaces/'
    'my-workspace/datastores/my-datastore/paths/image_data/Image_n.jpg", "image_details": {"format": "jpg", '
    '"width": "1024px", "height": "768px"}, "label": "water_bottle"}\n'
)
MULTILABEL_SAMPLE = SAMPLE.replace('"can"', '["can"]').replace('"milk_bottle"', '["can","milk_bottle"]')
MULTILABEL_SAMPLE = MULTILABEL_SAMPLE.replace('"water_bottle"}', '["carton","milk_bottle","water_bottle"]}')


def datastore(folder: Path) -> Callable[[str], Path]:
    def resolve(uri: str) -> Path:
        place = parse_datastore(uri)
        assert place.workspace is not None
        if place.workspace.subscription != "my-subscription-id" or place.datastore != "my-datastore":
            raise ValueError(f"no datastore {place.datastore}")
        return folder / place.path

    return resolve


@pytest.mark.parametrize(
    ("task", "sample", "labels"),
    [
        ("image-classification", SAMPLE, ["can", "milk_bottle", "water_bottle"]),
        (
            "image-classification-multilabel",
            MULTILABEL_SAMPLE,
            [("can",), ("can", "milk_bottle"), ("carton", "milk_bottle", "water_bottle")],
        ),
    ],
)
def test_the_documentations_own_rows(folder: Path, task: str, sample: str, labels: list[object]) -> None:
    store = folder.parent / "store"
    (store / "image_data").mkdir(parents=True)
    for name in ("Image_01.jpg", "Image_02.jpg", "Image_n.jpg"):
        (store / "image_data" / name).write_bytes(b"image")
    report = check(
        folder, sample.encode(), invalid_lines="drop", task=task, resolve=datastore(store), minimum_rows=3
    )
    assert report.errors == []
    assert [row.label for row in report.rows] == labels
    assert [row.source for row in report.rows] == [f"train_annotations.jsonl:{line}" for line in (1, 2, 6)]
    assert [(row.line, row.reason) for row in report.dropped] == [
        (line, "not JSON: Expecting value (column 1)") for line in (3, 4, 5)
    ]
    strict = check(folder, sample.encode(), task=task, resolve=datastore(store), minimum_rows=3)
    assert [error.where for error in strict.errors] == [f"train_annotations.jsonl:{n}" for n in (3, 4, 5)]


HOW_TO_SAMPLE = """\
{
      "image_url": "azureml://subscriptions/<my-subscription-id>/resourcegroups/<my-resource-group>/workspaces/\
<my-workspace>/datastores/<my-datastore>/paths/image_data/Image_01.png",
      "image_details":
      {
          "format": "png",
          "width": "2230px",
          "height": "4356px"
      },
      "label": "cat"
  }
"""


def test_a_row_over_many_lines_is_refused_with_the_reason(folder: Path) -> None:
    report = check(folder, HOW_TO_SAMPLE.encode())
    assert report.errors[0].message.startswith("train_annotations.jsonl:1:2: not JSON: ")
    assert "an object must be whole on one line" in report.errors[0].message


def test_a_row_with_placeholders_is_dropped_with_the_reason(folder: Path) -> None:
    one_line = " ".join(HOW_TO_SAMPLE.split("\n"))
    report = check(folder, one_line.encode(), resolve=datastore(folder))
    assert "placeholder <my-subscription-id>" in report.dropped[0].reason


MANY_DEEP = b"[" * 200_000


@pytest.mark.parametrize(
    ("line", "column", "fault"),
    [
        (b'{"image_url": "images/1.jpg" "label": "a"}', 30, "not JSON: Expecting ',' delimiter"),
        (b'{"image_url": "images/1.jpg", "label": "a",}', None, "not JSON: "),
        (b'{"image_url": "images/1.jpg"', 29, "an object must be whole on one line"),
        (b"nonsense", 1, "not JSON: Expecting value"),
        (b'["images/1.jpg", "a"]', 1, "is JSON but not an object: ['images/1.jpg', 'a']"),
        (b'"text"', 1, "is JSON but not an object: 'text'"),
        (b'{"image_url": "images/\xff.jpg", "label": "a"}', 23, "byte 0xff is not utf-8: invalid start byte"),
        (b'{"label": ' + b"9" * 5000 + b"}", 1, "not usable JSON: "),
        (MANY_DEEP, 1, "not usable JSON: maximum recursion depth exceeded"),
    ],
)
def test_a_line_that_is_not_json(folder: Path, line: bytes, column: int | None, fault: str) -> None:
    good = b"".join(json.dumps(row).encode() + b"\n" for row in GOOD)
    strict = check(folder, good + line + b"\n")
    assert [error.code for error in strict.errors] == ["InvalidJsonLine"]
    assert strict.errors[0].where == "train_annotations.jsonl:21"
    assert fault in strict.errors[0].message
    assert "set invalid_lines: drop in train/MLTable" in strict.errors[0].message
    if column is not None:
        assert strict.errors[0].message.startswith(f"train_annotations.jsonl:21:{column}: ")
    for word in ("drop", "ignore"):
        lenient = check(folder, good + line + b"\n", invalid_lines=word)
        assert (lenient.errors, len(lenient.rows)) == ([], 20)
        assert [row.where for row in lenient.dropped] == ["train_annotations.jsonl:21"]
        assert fault in lenient.dropped[0].reason


def test_byte_order_mark_crlf_and_empty_lines(folder: Path) -> None:
    body = b"\xef\xbb\xbf" + b"\r\n\r\n   \r\n".join(json.dumps(row).encode() for row in GOOD)
    report = check(folder, body)
    assert (len(report.rows), report.dropped, report.errors) == (20, [], [])
    assert [row.source.split(":")[1] for row in report.rows[:3]] == ["1", "4", "7"]


def test_very_long_lines_are_capped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amlocal.compat import jsonl

    monkeypatch.setattr(jsonl.read_lines, "__kwdefaults__", {"encoding": "utf8", "limit": 1000})
    monkeypatch.setattr(jsonl, "_SKIP_BYTES", 64)
    rows = [*GOOD, {"image_url": "images/1.jpg", "label": "a", "more": "x" * 5000}, *GOOD[:1]]
    report = check(folder, rows, invalid_lines="drop")
    assert [(row.line, row.reason) for row in report.dropped if row.column == ""] == [
        (21, "line is longer than 1,000 bytes (column 1001)")
    ]
    assert report.rows[-1].source == "train_annotations.jsonl:22"


@pytest.mark.parametrize(
    ("value", "label"),
    [("cat", "cat"), (" cat", " cat"), (3, "3"), (0, "0"), (1.5, "1.5"), ("3", "3"), ("ü✓", "ü✓")],
)
def test_labels_are_text(folder: Path, value: object, label: str) -> None:
    report = check(folder, [{"image_url": "images/1.jpg", "label": value}], minimum_rows=1)
    assert [row.label for row in report.rows] == [label]


MISSING = object()


@pytest.mark.parametrize(
    ("task", "value", "reason"),
    [
        ("image-classification", MISSING, "no label"),
        ("image-classification", None, "no label"),
        ("image-classification", "", "label is empty"),
        ("image-classification", "  ", "label is empty"),
        (
            "image-classification",
            ["a"],
            "label is a list, which is for multi-label data; one text or number is needed",
        ),
        (
            "image-classification",
            [{"label": "a"}],
            "label is a list, which is for object detection or segmentation",
        ),
        ("image-classification", {"label": "a"}, "label is an object; one text or number is needed"),
        ("image-classification", float("nan"), "label is not a finite number"),
        ("image-classification", "a\nb", "label has a control character"),
        ("image-classification", "\ud800", "is not valid Unicode"),
        ("image-classification", "x" * 1025, "label is longer than 1,024 characters"),
        ("image-classification", True, "label is true or false; one text or number is needed"),
        ("image-classification", False, "label is true or false"),
        ("image-classification-multilabel", MISSING, "no label"),
        ("image-classification-multilabel", None, "no label"),
        ("image-classification-multilabel", "", "label is empty"),
        ("image-classification-multilabel", {"label": "a"}, "label is an object"),
        ("image-classification-multilabel", True, "label is true or false"),
        ("image-classification-multilabel", [True], "label is true or false"),
        ("image-classification-multilabel", ["a", {"label": "a"}], "label is an object"),
        ("image-classification-multilabel", ["a", None], "no label"),
        ("image-classification-multilabel", [["a"]], "label is a list; one text or number is needed"),
    ],
)
def test_rows_with_a_wrong_label_are_dropped(folder: Path, task: str, value: object, reason: str) -> None:
    fine = [{"image_url": f"images/{n}.jpg", "label": ["a"] if "multi" in task else "a"} for n in range(10)]
    bad = {"image_url": "images/40.jpg"} | ({} if value is MISSING else {"label": value})
    report = check(folder, [*fine[:4], bad, *fine[4:]], task=task)
    assert (report.errors, len(report.rows)) == ([], 10)
    assert [(row.file, row.line, row.column) for row in report.dropped] == [
        ("train_annotations.jsonl", 5, "label")
    ]
    assert reason in report.dropped[0].reason


def test_a_number_and_the_same_text_are_one_class(folder: Path) -> None:
    rows = [{"image_url": f"images/{n}.jpg", "label": (7, "7")[n % 2]} for n in range(10)]
    assert check(folder, list(rows)).labels == {"7": 10}
    many = [row | {"label": [row["label"], "x"]} for row in rows]
    report = check(folder, list(many), task="image-classification-multilabel")
    assert (report.labels, report.dropped) == ({"7": 10, "x": 10}, [])


@pytest.mark.parametrize(
    "details",
    [
        {"format": "jpg", "width": "400px", "height": "258px"},
        {"format": "jpeg", "width": 400, "height": 258},
        {"format": "gif", "width": -1, "height": "much"},
        {"width": None},
        {},
        None,
        "400px",
        [400, 258],
    ],
)
def test_image_details_do_no_harm(folder: Path, details: object) -> None:
    rows = [
        {"image_url": f"images/{n}.jpg", "label": "ab"[n % 2], "image_details": details} for n in range(10)
    ]
    report = check(folder, list(rows))
    assert (len(report.rows), report.dropped, report.errors) == (10, [], [])


@pytest.mark.parametrize(
    "form",
    [
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/images/{n}.jpg",
        "azureml://subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
        "/datastores/d/paths/images/{n}.jpg",
        "azureml://datastores/d/paths/images/{n}.jpg",
        "{folder}/images/{n}.jpg",
        "file://{folder}/images/{n}.jpg",
        "images/{n}.jpg",
        "./images/{n}.jpg",
    ],
)
def test_every_form_of_image_url_names_the_same_image(folder: Path, form: str) -> None:
    def resolve(uri: str) -> Path:
        if uri.startswith("azureml:"):
            return folder / parse_datastore(uri).path
        return Path(uri.removeprefix("file://"))

    rows = [{"image_url": form.format(n=n, folder=folder), "label": "a"} for n in range(10)]
    report = check(folder, list(rows), resolve=resolve)
    assert [row.path for row in report.rows] == [str(folder / "images" / f"{n}.jpg") for n in range(10)]


def test_one_text_or_number_counts_as_a_list_of_one(folder: Path) -> None:
    rows = [{"image_url": f"images/{n}.jpg", "label": ("a", 2, ["a"])[n % 3]} for n in range(12)]
    report = check(folder, list(rows), task="image-classification-multilabel")
    assert [row.label for row in report.rows[:3]] == [("a",), ("2",), ("a",)]
    assert report.rows[0].as_dict()["label"] == ["a"]
    assert "8 of 12 labels are no list; each counts as a list of one here, Azure drops such rows." in (
        report.notices
    )


def test_multilabel_rows_keep_each_class_once_and_may_have_none(folder: Path) -> None:
    rows = [{"image_url": "images/1.jpg", "label": ["b", 1, "b"]}, {"image_url": "images/2.jpg", "label": []}]
    report = check(folder, rows, task="image-classification-multilabel", minimum_rows=1)
    assert [row.label for row in report.rows] == [("b", "1"), ()]
    assert report.labels == {"b": 1, "1": 1}
    assert [row.as_dict()["label"] for row in report.rows] == [["b", "1"], []]
    assert report.as_dict()["labels"] == {"1": 1, "b": 1}
    assert report.unlabelled == 1
    assert "1 of 2 images have no label; they are trained on." in report.notices


def test_not_one_label_is_an_error(folder: Path) -> None:
    rows = [{"image_url": f"images/{n}.jpg", "label": []} for n in range(10)]
    report = check(folder, list(rows), task="image-classification-multilabel")
    assert [(error.code, error.message) for error in report.errors] == [
        ("NoLabels", "train: not one of 10 images has a label.")
    ]


@pytest.mark.parametrize(
    ("image_url", "reason"),
    [
        (None, "no image_url"),
        ("", "no image_url"),
        (7, "image_url is not a text"),
        (["images/1.jpg"], "image_url is not a text"),
        ("images/nothing.jpg", "image not found: images/nothing.jpg"),
        ("images/1.jpg/x", "image not found: images/1.jpg/x"),
        ("images", "is a folder"),
        (".", "is a folder"),
        ("empty.jpg", "the image file is empty"),
        ("pipe", "is not a plain file"),
        ("../outside.jpg", "'..'"),
        ("images/../../outside.jpg", "'..'"),
        ("%2e%2e/outside.jpg", "'..'"),
        ("images%2f1.jpg", "encoded slash"),
        ("images\\1.jpg", "backslash"),
        ("images/1.jpg\x00.png", "control character"),
        ("\ud800.jpg", "not valid Unicode"),
        ("a" * 300, "image cannot be read"),
        ("link.jpg", "is a link that leaves the MLTable folder"),
        ("linked/outside.jpg", "goes through a link that leaves the MLTable folder"),
        ("/etc/hostname", "/etc/hostname is not allowed here"),
        ("file:///etc/hostname", "file:///etc/hostname is not allowed here"),
        ("https://example.com/1.jpg", "https://example.com/1.jpg is not allowed here"),
        ("azureml://datastores/d/paths/../1.jpg", "'..'"),
        (
            "azureml://datastores/d/1.jpg",
            "'azureml://datastores/d/1.jpg': has no /paths/ after the datastore's name.",
        ),
        ("azureml://datastores/d/paths/1.jpg", "azureml://datastores/d/paths/1.jpg is not allowed here"),
    ],
)
def test_rows_without_a_usable_image_are_dropped(folder: Path, image_url: object, reason: str) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "outside.jpg").write_bytes(b"image")
    (folder.parent / "outside.jpg").write_bytes(b"image")
    (folder / "empty.jpg").touch()
    (folder / "link.jpg").symlink_to(outside / "outside.jpg")
    (folder / "linked").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    report = check(folder, [*GOOD, {"image_url": image_url, "label": "a"}])
    assert (report.errors, len(report.rows)) == ([], 20)
    assert [(row.where, row.column) for row in report.dropped] == [
        ("train_annotations.jsonl:21", "image_url")
    ]
    assert reason in report.dropped[0].reason
    assert len(report.dropped[0].reason) < 400


def test_a_link_that_stays_in_the_folder_is_fine(folder: Path) -> None:
    (folder / "link.jpg").symlink_to(folder / "images" / "50.jpg")
    report = check(folder, [*GOOD, {"image_url": "link.jpg", "label": "a"}])
    assert (len(report.rows), report.dropped) == (21, [])


def test_the_later_row_of_one_image_wins(folder: Path) -> None:
    report = check(folder, [*GOOD, {"image_url": "./images//3.jpg", "label": "c"}])
    assert len(report.rows) == 20
    assert [(row.label, row.source) for row in report.rows if row.path.endswith("/3.jpg")] == [
        ("c", "train_annotations.jsonl:21")
    ]
    assert [(row.where, row.reason) for row in report.dropped] == [
        ("train_annotations.jsonl:4", "replaced by train_annotations.jsonl:21, which has the same image")
    ]
    assert report.notices[0] == "1 row replaced by a later one of the same image: train_annotations.jsonl:4."
