"""A finished detector answers in the documented form, and settings.json changes what it answers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import painted_detector as painted
import pandas as pd
import pytest
import torch
from painted_detector import DETECTION, SEGMENTATION, as_mask, scene
from PIL import Image

from amlocal.trainers import registry, scoring
from amlocal.trainers.models.detector import Detections
from amlocal.trainers.serving import starting
from amlocal.trainers.serving.served import Served
from amlocal.trainers.tasks.detection_scoring import Predictor
from amlocal.trainers.tasks.detection_views import Prepared, Seen, View

RED, GREEN = (0.1, 0.2, 0.4, 0.6), (0.5, 0.5, 0.9, 0.9)
TWO = scene(300, 200, ("rectangle", "red", RED), ("ellipse", "green", GREEN))
SMALL = (0.70, 0.30, 0.73, 0.345)


@pytest.fixture(autouse=True)
def painted_networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry.BUILDERS, "torchvision", "painted_detector:build")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Make = Callable[..., Predictor]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make(task, **settings): a predictor of a new model folder."""

    def made(task: str = DETECTION, **settings: Any) -> Predictor:
        description = painted.write_model(tmp_path / "model", task, **settings)
        return Predictor(tmp_path / "model", description)

    return made


def detector(predictor: Predictor) -> painted.Painted:
    return predictor.module.detector  # type: ignore[return-value, union-attr]


def corners(one: dict[str, Any]) -> list[float]:
    assert list(one["box"]) == ["topX", "topY", "bottomX", "bottomY"]
    return list(one["box"].values())


def test_boxes_are_shares_of_the_image_best_first(make: Make) -> None:
    (found,) = make().predict([TWO])
    assert list(found) == ["boxes"]
    red, green = found["boxes"]
    assert [set(red), set(green)] == [{"box", "label", "score"}] * 2
    assert (red["label"], green["label"]) == ("red", "green")
    assert corners(red) == pytest.approx(RED, abs=0.02)
    assert corners(green) == pytest.approx(GREEN, abs=0.02)
    assert red["score"] == pytest.approx(0.9)
    assert green["score"] == pytest.approx(0.9 * np.pi / 4, abs=0.04)
    json.dumps(found)


def test_an_image_without_objects_has_an_empty_list(make: Make) -> None:
    assert make().predict([scene(40, 60)]) == [{"boxes": []}]
    assert make(SEGMENTATION).predict([scene(40, 60)]) == [{"boxes": []}]
    assert make().predict([]) == []


def test_segmentation_adds_polygons_that_cover_the_objects(make: Make) -> None:
    (found,) = make(SEGMENTATION).predict([TWO])
    goal = {"red": as_mask([box_ring(RED)], 300, 200), "green": np.zeros((200, 300), dtype=bool)}
    y, x = np.mgrid[:200, :300] + 0.5
    goal["green"] = ((x - 210) / 60) ** 2 + ((y - 140) / 40) ** 2 <= 1
    for one in found["boxes"]:
        (polygon,) = one["polygon"]
        assert len(polygon) % 2 == 0
        assert min(polygon) >= 0
        assert max(polygon) <= 1
        mask = as_mask(one["polygon"], 300, 200)
        shared = (mask & goal[one["label"]]).sum() / (mask | goal[one["label"]]).sum()
        assert shared > 0.85


def box_ring(box: tuple[float, float, float, float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


def test_polygons_have_at_most_the_points_asked_for(make: Make) -> None:
    for most in (3, 6, 100):
        (found,) = make(SEGMENTATION, max_number_of_polygon_points=most).predict([TWO])
        points = [len(part) // 2 for one in found["boxes"] for part in one["polygon"]]
        assert max(points) <= most
    assert max(points) > 6


def test_the_mask_threshold_moves_the_outline(make: Make) -> None:
    areas = []
    for threshold in (0.05, 0.95):
        (found,) = make(SEGMENTATION, mask_pixel_score_threshold=threshold).predict([TWO])
        areas.append(as_mask(found["boxes"][0]["polygon"], 300, 200).sum())
    assert areas[0] > 1.1 * areas[1]


@pytest.mark.parametrize(("kind", "form"), [("jpg", "JPEG"), ("PNG", "PNG"), ("bmp", "BMP")])
def test_masks_as_images(make: Make, kind: str, form: str) -> None:
    (found,) = make(SEGMENTATION, export_as_image=True, image_type=kind).predict([TWO])
    for one in found["boxes"]:
        image = Image.open(io.BytesIO(base64.b64decode(one["mask"])))
        assert (image.format, image.size) == (form, (128, 85))
        mask = np.asarray(image.convert("L")) > 127
        outline = as_mask(one["polygon"], 128, 85)
        assert (mask & outline).sum() / (mask | outline).sum() > 0.85
    (plain,) = make(SEGMENTATION, export_as_image="False", image_type=kind).predict([TWO])
    assert all("mask" not in one for one in plain["boxes"])


def test_thresholds_and_counts_are_those_of_settings_json(make: Make) -> None:
    assert len(make(box_score_thresh=0.8).predict([TWO])[0]["boxes"]) == 1
    assert len(make(box_score_thresh=0.95).predict([TWO])[0]["boxes"]) == 0
    assert len(make(box_detections_per_img=1).predict([TWO])[0]["boxes"]) == 1
    # The name in the YAML is taken too; the documented one wins.
    assert len(make(box_score_threshold=0.8).predict([TWO])[0]["boxes"]) == 1
    assert len(make(box_score_threshold=0.95, box_score_thresh=0.1).predict([TWO])[0]["boxes"]) == 2
    assert len(make(unknown="ignored", nms_iou_thresh=None).predict([TWO])[0]["boxes"]) == 2


def test_what_settings_json_does_not_say_is_as_in_training(tmp_path: Path) -> None:
    description = painted.write_model(tmp_path / "model") | {"options": {"box_score_threshold": 0.8}}
    assert len(Predictor(tmp_path / "model", description).predict([TWO])[0]["boxes"]) == 1
    painted.write_model(tmp_path / "model", box_score_thresh=0.1)
    assert len(Predictor(tmp_path / "model", description).predict([TWO])[0]["boxes"]) == 2


@pytest.mark.parametrize(
    ("settings", "size"),
    [({"min_size": 64, "max_size": 500}, (64, 96)), ({"min_size": 64, "max_size": 66}, (44, 66))],
)
def test_sizes_are_those_of_settings_json(
    make: Make, settings: dict[str, int], size: tuple[int, int]
) -> None:
    predictor = make(**settings)
    predictor.predict([TWO])
    ((shape, sizes),) = detector(predictor).seen
    assert sizes == [size]
    assert all(side % 32 == 0 for side in shape[2:])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"box_score_thresh": 1.5}, "box_score_thresh: 1.5 is not allowed"),
        ({"box_detections_per_img": "many"}, "box_detections_per_img: "),
        ({"min_size": 0}, "min_size"),
        ({"max_size": 10**9}, "at most 8192"),
        ({"mask_pixel_score_threshold": 2}, "mask_pixel_score_threshold"),
        ({"max_number_of_polygon_points": 2}, "from 3"),
        ({"max_number_of_polygon_points": True}, "from 3"),
        ({"export_as_image": "perhaps"}, "true or false"),
        ({"image_type": "../x"}, "jpg, png or bmp"),
        ({"tile_grid_size": "1x1"}, "tile_grid_size"),
        ({"tile_grid_size": "90x90"}, "400 tiles"),
    ],
)
def test_settings_that_cannot_be_used_are_named(
    make: Make, tmp_path: Path, settings: dict[str, Any], text: str
) -> None:
    task = DETECTION if "tile" in str(settings) else SEGMENTATION
    with pytest.raises(ValueError, match=text) as caught:
        make(task, **settings)
    assert str(tmp_path / "model" / "settings.json") in str(caught.value)


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, '"x"'])
def test_a_broken_settings_file_is_named(tmp_path: Path, text: str) -> None:
    description = painted.write_model(tmp_path / "model")
    (tmp_path / "model" / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=r"settings\.json"):
        Predictor(tmp_path / "model", description)


def test_tiles_find_what_is_too_small_for_the_whole_image_and_count_nothing_twice(make: Make) -> None:
    things = (("rectangle", "red", SMALL), ("rectangle", "green", (0.1, 0.1, 0.6, 0.9)))
    picture = scene(640, 480, *things)
    sizes = {"min_size": 32, "max_size": 32}
    (whole,) = make(**sizes).predict([picture])
    predictor = make(**sizes, tile_grid_size="3x2", tile_overlap_ratio=0.25)
    (tiled,) = predictor.predict([picture])
    # The network has no pixels for the small one; the tiles, each seen as large, have.
    seen = {one["label"]: corners(one) for one in tiled["boxes"]}
    assert "red" not in {one["label"] for one in whole["boxes"]}
    assert seen["red"] == pytest.approx(SMALL, abs=0.03)
    assert [one["label"] for one in tiled["boxes"]].count("red") == 1
    assert sum(shape[0] for shape, _ in detector(predictor).seen) == 7
    assert predictor.facts.endswith("3 x 2 tiles")
    assert predictor.limit < make(**sizes).limit
    # Boxes of different tiles that overlap less than the threshold stay: here all of them.
    loose = make(**sizes, tile_grid_size="3x2", tile_predictions_nms_thresh=1.0).predict([picture])[0]
    assert len(loose["boxes"]) > len(tiled["boxes"])


def test_segmentation_has_no_tiles(make: Make) -> None:
    predictor = make(SEGMENTATION, tile_grid_size="3x2")
    assert len(predictor.prepare(TWO).views) == 1


def test_an_image_is_answered_alike_alone_and_among_others(make: Make) -> None:
    predictor = make(SEGMENTATION)
    shapes = [(300, 200), (200, 300), (64, 64), (301, 202), (1000, 20)]
    rows = [scene(w, h, ("ellipse", "blue", (0.2, 0.1, 0.8, 0.7))) for w, h in shapes]
    alone = [predictor.predict([row])[0] for row in rows]
    detector(predictor).seen.clear()
    assert predictor.predict(rows) == alone
    assert all(one["boxes"] for one in alone[:4])
    # Those that are as large once padded go through the network together.
    assert sorted(shape[0] for shape, _ in detector(predictor).seen) == [1, 1, 1, 2]


def test_what_is_no_image_is_named_by_its_row(make: Make) -> None:
    predictor = make()
    for bad in (b"", b"nothing", TWO[:200], b"GIF89a"):
        with pytest.raises(ValueError, match=r"^row 1: "):
            predictor.predict([TWO, bad])
    huge = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(huge, "PNG")
    with pytest.raises(ValueError, match=r"row 0: .*178,956,970"):
        predictor.predict([huge.getvalue()])


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000)])
def test_odd_sizes_are_answered(make: Make, size: tuple[int, int]) -> None:
    for task in (DETECTION, SEGMENTATION):
        (found,) = make(task).predict([scene(*size, ("rectangle", "red", (0, 0, 1, 1)))])
        assert [corners(one) for one in found["boxes"]] == [[0.0, 0.0, 1.0, 1.0]]


def test_another_number_of_labels_does_not_fit_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    description = painted.write_model(tmp_path / "model")
    tensors = painted.Painted({"box_score_threshold": 0, "box_detections_per_image": 1}, False).state_dict()
    tensors["conv.weight"] = torch.zeros(4, 3, 1, 1)
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ValueError, match=r"conv\.weight is \(4, 3, 1, 1\) in the file"):
        Predictor(tmp_path / "model", description)


# Serving


def started(folder: Path, log: Callable[[str], None] = print, **environment: str) -> Served:
    given = {"AMLOCAL_SCORING_ENGINE": "eager", "AMLOCAL_SCORING_THREADS": "1"} | environment
    return starting.start(folder, most=4, log=log, environment=given)


@pytest.mark.parametrize("engine", ["eager", "auto", "folded", "channels_last"])
def test_every_engine_answers_as_the_mlflow_model(tmp_path: Path, engine: str) -> None:
    painted.write_model(tmp_path / "model", SEGMENTATION)
    cells = [base64.encodebytes(TWO).decode(), base64.b64encode(scene(64, 64)).decode()]
    lines: list[str] = []
    served = started(tmp_path / "model", lines.append, AMLOCAL_SCORING_ENGINE=engine)
    table = scoring._load_pyfunc(str(tmp_path / "model")).predict(pd.DataFrame({"image": cells}))
    expected = table.to_dict("records")
    found = served.score(cells)
    served.close()
    assert [len(one["boxes"]) for one in found] == [2, 0]
    for one, other in zip(found, expected, strict=True):
        for box, goal in zip(one["boxes"], other["boxes"], strict=True):
            assert corners(box) == pytest.approx(corners(goal), abs=1e-4)
            assert box["score"] == pytest.approx(goal["score"], abs=1e-4)
            assert box["polygon"] == goal["polygon"]
    assert lines[0].startswith(
        f"{SEGMENTATION}, maskrcnn_resnet50_fpn: 3 labels, images of about 128 x 76 pixels; CPU"
    )
    # The score threshold of the probe is not the one that answers.
    assert all(box["score"] > 0.3 for one in found for box in one["boxes"])


def test_engines_that_cannot_be_compared_are_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painted.Painted, "detect", lambda self, images, sizes: [nothing() for _ in sizes])
    painted.write_model(tmp_path / "model")
    lines: list[str] = []
    started(tmp_path / "model", lines.append, AMLOCAL_SCORING_ENGINE="auto").close()
    assert lines[1].startswith("engines: eager ")
    assert ";" not in lines[1]
    assert lines[2].startswith("engine eager: ")


def nothing() -> Detections:
    return Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))


def test_engines_that_need_one_image_size_are_refused(tmp_path: Path) -> None:
    painted.write_model(tmp_path / "model")
    for engine in ("onnx", "bf16", "compiled"):
        with pytest.raises(ValueError, match=f"'{engine}', which cannot run {DETECTION}"):
            started(tmp_path / "model", AMLOCAL_SCORING_ENGINE=engine)


def test_asking_for_explanations_changes_nothing(tmp_path: Path) -> None:
    # Azure ignores it for these tasks.
    painted.write_model(tmp_path / "model")
    cell = json.dumps({"image_base64": base64.b64encode(TWO).decode(), "model_explainability": True})
    served = started(tmp_path / "model")
    found = served.score([cell])
    served.close()
    table = scoring._load_pyfunc(str(tmp_path / "model")).predict(pd.DataFrame({"image": [cell]}))
    assert len(found[0]["boxes"]) == 2
    assert table.to_dict("records") == found


def test_hostile_rows_fail_alone(tmp_path: Path) -> None:
    painted.write_model(tmp_path / "model", SEGMENTATION)
    served = started(tmp_path / "model")
    for cell in ("", "not base64!", b"{}", b"\x89PNG\r\n", 5, None):
        with pytest.raises(ValueError, match="row 1"):
            served.score([TWO, cell])
    assert [len(one["boxes"]) for one in served.score([TWO])] == [2]
    served.close()


def seen(*rows: tuple[list[float], int, float]) -> Seen:
    """What was seen in one image of 100 x 200 pixels."""
    boxes = torch.tensor([row[0] for row in rows]).reshape(-1, 4)
    labels = torch.tensor([row[1] for row in rows], dtype=torch.int64)
    pixels = np.zeros((100, 200, 3), dtype=np.uint8)
    one = Detections(boxes, labels, torch.tensor([row[2] for row in rows]))
    return Seen((Prepared((View(pixels),)),), ((one,),))


def test_the_difference_of_answers(make: Make) -> None:
    predictor = make()
    reference = seen(([0, 0, 100, 50], 0, 0.9), ([100, 0, 200, 100], 1, 0.5))
    assert predictor.difference(reference, reference) == 0.0
    moved = seen(([0, 0, 104, 50], 0, 0.9), ([100, 0, 200, 100], 1, 0.5))
    assert predictor.difference(moved, reference) == pytest.approx(4 / 200)
    surer = seen(([100, 0, 200, 100], 1, 0.8), ([0, 0, 100, 50], 0, 0.9))
    assert predictor.difference(surer, reference) == pytest.approx(0.3)
    other = seen(([0, 0, 100, 50], 1, 0.9), ([100, 0, 200, 100], 1, 0.5))
    fewer = seen(([0, 0, 100, 50], 0, 0.9))
    broken = seen(([float("nan")] * 4, 0, 0.9), ([100, 0, 200, 100], 1, 0.5))
    for different in (other, fewer, seen(), broken):
        assert predictor.difference(different, reference) == float("inf")
        assert predictor.difference(reference, different) == float("inf")
    assert predictor.difference(seen(), seen()) == 0.0
