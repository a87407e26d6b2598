"""The pictures of the final documents: their points, their labels, and that nothing can break them."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from amlocal.trainers import charts
from amlocal.trainers.charts import curves, labels, matrix, page, points, report
from amlocal.trainers.metrics.documents import final_documents

CURVES = {
    "roc_curve.png",
    "precision_recall_curve.png",
    "calibration_curve.png",
    "lift_curve.png",
    "cumulative_gains_curve.png",
}
HOSTILE = [
    *("$x_1$", "$\\frac{1}{0}$", "$", "a\nb\tc", "\x00\x07\x1b[31mred", "_hidden", "", "   "),
    *("x" * 300, "y" * 299 + "1", "y" * 299 + "2", "\u202eevil", "evil", "\ud800", "日本語", "العربية"),
    *("Ελληνικά", "русский", "हिन्दी", "😀 smile", "{}%s%d", "<b>&amp;", "micro", "a" + "\u0301" * 50),
]


def evaluation(
    classes: int, images: int, missing: tuple[int, ...] = ()
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Class numbers, and probabilities that are right more often than not."""
    rng = np.random.default_rng(classes)
    truth = rng.integers(0, classes, images)
    for c in missing:
        truth[truth == c] = (c + 1) % classes
    scores = rng.normal(size=(images, classes)) * 1.3
    scores[np.arange(images), truth] += 3.0
    probabilities = np.exp(scores)
    return truth, probabilities / probabilities.sum(1, keepdims=True)


def documents(
    classes: int, images: int = 60, names: list[str] | None = None, missing: tuple[int, ...] = ()
) -> dict[str, dict[str, Any]]:
    names = names or [f"class {i}" for i in range(classes)]
    return final_documents(*evaluation(classes, images, missing), names, False)


def many_labels(classes: int, names: list[str] | None = None) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(classes)
    truth = (rng.random((80, classes)) < 0.4).astype(np.int64)
    names = names or [f"label {i}" for i in range(classes)]
    return final_documents(truth, 0.3 * truth + 0.6 * rng.random(truth.shape), names, True)


def ink(path: Path) -> float:
    """Share of pixels that are not background."""
    pixels = np.asarray(Image.open(path).convert("L"))
    return float((pixels < 200).mean())


def test_multi_class_pictures_are_written_and_not_empty(tmp_path: Path) -> None:
    written = charts.draw(documents(10), tmp_path / "new")
    assert {path.name for path in written} == CURVES | {
        "confusion_matrix.png",
        "classification_report.png",
    }
    assert sorted(written) == sorted((tmp_path / "new").iterdir())
    for path in written:
        width, height = Image.open(path).size
        assert 300 < width < 1600
        assert 150 < height < 1600
        assert ink(path) > 0.004, path.name


def test_two_hundred_classes_are_drawn(tmp_path: Path) -> None:
    for path in charts.draw(documents(200, 400), tmp_path):
        assert max(Image.open(path).size) < 2500
        assert ink(path) > 0.004, path.name


def test_multi_label_has_the_report_only(tmp_path: Path) -> None:
    for classes in (3, 200):
        (path,) = charts.draw(many_labels(classes), tmp_path / str(classes))
        assert path.name == "classification_report.png"
        assert ink(path) > 0.05


def test_the_same_documents_give_the_same_bytes_whatever_the_users_style(tmp_path: Path) -> None:
    given = documents(3)
    first = charts.draw(given, tmp_path / "first")
    before = dict(mpl.rcParams)
    with mpl.rc_context({"text.usetex": True, "font.size": 40, "figure.facecolor": "red"}):
        inside = dict(mpl.rcParams)
        second = charts.draw(json.loads(json.dumps(given)), tmp_path / "second")
        assert dict(mpl.rcParams) == inside
    assert dict(mpl.rcParams) == before
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert Image.open(one).info.get("Software") is None


def test_no_window_and_no_figure_is_ever_opened(tmp_path: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from amlocal.trainers import charts\n"
        "assert 'matplotlib' not in sys.modules\n"
        "charts.draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    (tmp_path / "documents.json").write_text(json.dumps(documents(2)))
    argv = [sys.executable, "-c", code, str(tmp_path / "documents.json"), str(tmp_path / "drawn")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "drawn").iterdir())) == 7


@pytest.mark.parametrize("many", [False, True])
def test_hostile_labels_break_nothing(many: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    given = many_labels(len(HOSTILE), HOSTILE) if many else documents(len(HOSTILE), 300, HOSTILE)
    written = charts.draw(given, tmp_path)
    assert len(written) == (1 if many else 7)
    assert [str(w.message) for w in recwarn if "lyph" in str(w.message)] == []
    for path in written:
        assert max(Image.open(path).size) < 2000


def test_labels_are_shown_on_one_line_and_can_be_told_apart() -> None:
    shown = dict(zip(range(len(HOSTILE)), labels.shown(HOSTILE), strict=True))
    assert shown[0] == "$x_1$"
    assert shown[3] == "a b c"
    assert shown[4] == "#4 \ufffd[31mred"
    assert shown[5] == "_hidden"
    assert (shown[6], shown[7]) == ("#6", "#7")
    assert shown[8] == "x" * 18 + "…" + "x" * 9
    assert (shown[11], shown[12]) == ("#11 evil", "#12 evil")
    assert shown[13] == "#13 \ufffd"
    assert shown[16] == "Ελληνικά"
    assert shown[17] == "русский"
    assert len(shown[23]) <= 3
    assert len(set(shown.values())) == len(HOSTILE)
    assert all(len(text) <= 28 and "\n" not in text for text in shown.values())
    assert labels.shown(["cat", "dog"]) == ["cat", "dog"]


def test_dollars_are_drawn_as_they_are() -> None:
    with page.settings():
        figure = matrix.confusion_matrix(["$a_1$", "b"], [[3, 1], [0, 2]])
        ticks = figure.axes[0].get_yticklabels()
        assert [tick.get_text() for tick in ticks] == ["$a_1$", "b"]
        assert not any(tick.get_parse_math() for tick in ticks)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_matrix_shows_images_and_shares() -> None:
    with page.settings():
        figure = matrix.confusion_matrix(["a", "b", "c"], [[3, 1, 0], [0, 20_000, 0], [0, 0, 0]])
        assert texts(figure) == ["3\n75%", "1\n25%", "20k\n100%"]
        notes = figure.get_supxlabel()
        assert notes == "grey rows: 1 of 3 classes without validation images"
        assert figure.get_suptitle().endswith("20,004 validation images, 3 classes, 100.0% right")
        shares = figure.axes[0].images[0].get_array()
        assert shares[0].tolist() == [0.75, 0.25, 0.0]


def test_many_classes_have_fewer_labels_no_numbers_and_their_confusions_named() -> None:
    counts = np.eye(200, dtype=np.int64) * 5
    counts[3, 7] = 4
    counts[9, 1] = 2
    with page.settings():
        figure = matrix.confusion_matrix([f"class {i}" for i in range(200)], counts.tolist())
    assert texts(figure) == []
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert ticks[:3] == ["class 0", "class 5", "class 10"]
    assert len(ticks) == 40
    assert figure.get_supxlabel() == (
        "most often taken for another: class 3 as class 7 (4)\nclass 9 as class 1 (2)"
    )


@pytest.mark.parametrize(
    ("count", "most", "step"), [(1, 10, 1), (10, 10, 1), (11, 10, 2), (200, 64, 5), (1000, 64, 20)]
)
def test_labels_are_thinned_to_what_fits(count: int, most: int, step: int) -> None:
    assert labels.every(count, most) == step


def test_the_roc_and_precision_recall_points_are_those_of_scikit_learn() -> None:
    truth, probabilities = evaluation(4, 50)
    data = final_documents(truth, probabilities, ["a", "b", "c", "d"], False)["accuracy_table"]["data"]
    classes, micro = points.counts(data)
    columns = np.eye(4, dtype=np.int64)[truth]
    for c, one in enumerate([*classes, micro]):
        goal = columns.ravel() if c == 4 else columns[:, c]
        scores = probabilities.ravel() if c == 4 else probabilities[:, c]
        assert (one.positives, one.negatives) == (goal.sum(), len(goal) - goal.sum())
        fpr, tpr, _ = sk.roc_curve(goal, scores, drop_intermediate=False)
        allowed = {(round(x, 9), round(y, 9)) for x, y in zip(fpr, tpr, strict=True)}
        mine = list(zip(*(np.round(v, 9) for v in one.roc()), strict=True))
        assert set(mine) <= allowed
        assert (mine[0], mine[-1]) == ((0.0, 0.0), (1.0, 1.0))
        precision, recall, _ = sk.precision_recall_curve(goal, scores)
        allowed = {(round(x, 9), round(y, 9)) for x, y in zip(recall, precision, strict=True)}
        x, y = one.precision_recall()
        assert {(round(a, 9), round(b, 9)) for a, b in zip(x[1:], y[1:], strict=True)} <= allowed
        assert (np.diff(x) >= 0).all()


def test_the_area_below_the_drawn_curves_is_the_auc() -> None:
    truth, probabilities = evaluation(3, 400)
    data = final_documents(truth, probabilities, ["a", "b", "c"], False)["accuracy_table"]["data"]
    classes, _ = points.counts(data)
    for c, one in enumerate(classes):
        exact = sk.roc_auc_score(truth == c, probabilities[:, c])
        assert np.trapezoid(one.roc()[1], one.roc()[0]) == pytest.approx(exact, abs=0.01)
    mean = points.macro([one.roc() for one in classes])
    exact = sk.roc_auc_score(truth, probabilities, multi_class="ovr")
    assert np.trapezoid(mean[1], mean[0]) == pytest.approx(exact, abs=0.01)


def test_gains_and_lift_by_hand() -> None:
    one = points.Counts(np.array([0.0, 1.0, 2.0, 2.0]), np.array([0.0, 0.0, 1.0, 6.0]), 2.0, 6.0)
    share, gain = one.gains()
    assert share.tolist() == [0.0, 0.0, 1 / 8, 3 / 8, 1.0]
    assert gain.tolist() == [0.0, 0.0, 1 / 2, 1.0, 1.0]
    share, lift = one.lift()
    assert share.tolist() == [1 / 8, 3 / 8, 1.0]
    assert lift.tolist() == [4.0, 8 / 3, 1.0]


def test_calibration_is_that_of_scikit_learn() -> None:
    truth, probabilities = evaluation(3, 700)
    data = final_documents(truth, probabilities, ["a", "b", "c"], False)["accuracy_table"]["data"]
    classes, micro = points.bins(data)
    for c, one in enumerate(classes):
        share, mean = calibration_curve(truth == c, probabilities[:, c], n_bins=10)
        mine_mean, mine_share = one.calibration()
        assert mine_share == pytest.approx(share, abs=1e-12)
        assert mine_mean == pytest.approx(mean, abs=0.005)
        assert one.count.sum() == 700
    assert micro.count.sum() == 2100
    assert micro.true.sum() == 700


def test_a_certain_prediction_lies_in_the_last_range() -> None:
    perfect = final_documents(np.array([0, 1]), np.eye(2), ["a", "b"], False)["accuracy_table"]["data"]
    (first, _), micro = points.bins(perfect)
    assert first.count.tolist() == [1.0, *[0.0] * 8, 1.0]
    assert first.true.tolist() == [0.0] * 9 + [1.0]
    assert micro.error() == pytest.approx(0.005)


def legend(figure: Figure) -> list[str]:
    placed = figure.axes[0].get_legend()
    assert placed is not None
    return [text.get_text() for text in placed.get_texts()]


def table(given: dict[str, dict[str, Any]]) -> curves.Table:
    return curves.Table(given["accuracy_table"]["data"], given["classification_report"]["data"])


def test_the_legend_names_classes_with_the_numbers_of_the_report() -> None:
    given = documents(3, names=["_one", "two", "three"], missing=(1,))
    rows = given["classification_report"]["data"]["rows"]
    with page.settings():
        figure = table(given).roc()
        assert legend(figure) == [
            f"_one  {rows[0]['auc']:.3f}",
            f"three  {rows[2]['auc']:.3f}",
            f"micro average  {rows[-3]['auc']:.3f}",
            f"macro average  {rows[-2]['auc']:.3f}",
        ]
        assert figure.get_supxlabel() == "left out: 1 of 3 classes without images to compare"
        figure = table(given).precision_recall()
        assert legend(figure)[0] == f"_one  {rows[0]['average_precision']:.3f}"


def test_of_many_classes_the_worst_are_picked_out() -> None:
    given = documents(29, 400)
    rows = given["classification_report"]["data"]["rows"][:29]
    worst = sorted(rows, key=lambda row: row["auc"])[:5]
    with page.settings():
        figure = table(given).roc()
        expected = [f"{row['class_name']}  {row['auc']:.3f}" for row in worst]
        assert legend(figure)[:5] == expected
        (others,) = figure.axes[0].collections
        assert len(others.get_paths()) == 24
        placed = figure.axes[0].get_legend()
        assert placed is not None
        assert placed.get_title().get_text() == "AUC,\nthe 5 lowest of 29 classes"


def test_where_all_images_are_of_one_class_the_roc_says_so(tmp_path: Path) -> None:
    given = final_documents(np.zeros(5, dtype=np.int64), np.ones((5, 1)), ["a"], False)
    with page.settings():
        assert texts(table(given).roc()) == ["not defined: all images are of one class"]
    assert len(charts.draw(given, tmp_path)) == 7


def test_the_report_shows_the_worst_sixty() -> None:
    data = many_labels(200)["classification_report"]["data"]
    data["rows"][0] |= {"support": 0, "f1-score": 0.0}
    with page.settings():
        figure = report.classification_report(data)
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert len(ticks) == 61
    assert ticks[-1] == "macro average"
    order = sorted(data["rows"][1:200], key=lambda row: row["f1-score"])
    assert figure.get_supxlabel() == (
        "the 60 of 200 classes with the lowest F1, worst first\n1 of 200 classes without validation images"
    )
    assert ticks[0] == f"{order[0]['class_name']}  ({order[0]['support']})"
    widths = [patch.get_width() for patch in figure.axes[0].containers[0].patches]
    assert widths[0] == order[0]["precision"]
    assert len(figure.axes[0].containers) == 4  # precision, recall, F1, IoU


def test_one_picture_that_fails_costs_no_other_and_is_told(tmp_path: Path) -> None:
    both = ("confusion_matrix", "classification_report")
    given = {name: document for name, document in documents(3).items() if name in both}
    given["confusion_matrix"]["data"]["matrix"] = [["no number"]]
    with pytest.raises(charts.ChartError, match=r"^confusion_matrix\.png could not be drawn: ValueError: "):
        charts.draw(given, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["classification_report.png"]


def test_a_picture_replaces_an_older_one_whole(tmp_path: Path) -> None:
    (tmp_path / "confusion_matrix.png").write_bytes(b"old")
    given = {"confusion_matrix": documents(2)["confusion_matrix"]}
    assert charts.draw(given, tmp_path) == [tmp_path / "confusion_matrix.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["confusion_matrix.png"]
    Image.open(BytesIO((tmp_path / "confusion_matrix.png").read_bytes())).verify()
