"""Rows of detection and segmentation data: what is an object, what is left out, what costs the image."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amlocal.compat.annotations import Annotation, Objects, from_manifest, read_boxes, read_polygons
from amlocal.compat.labels import LabelError

CAT = {"label": "cat", "topX": 0.1, "topY": 0.2, "bottomX": 0.5, "bottomY": 0.75, "isCrowd": 0}
TRIANGLE = [0.1, 0.2, 0.6, 0.2, 0.3, 0.9]


def test_numbers_and_texts_of_numbers_are_the_same_box() -> None:
    texts = {**CAT, **{key: str(CAT[key]) for key in ("topX", "topY", "bottomX", "bottomY")}}
    found = read_boxes([CAT, texts])
    assert found == Objects((Annotation("cat", (0.1, 0.2, 0.5, 0.75)),) * 2)


def test_a_whole_image_and_a_label_that_is_a_number() -> None:
    found = read_boxes([{"label": 3, "topX": 0, "topY": "0", "bottomX": 1, "bottomY": "1.0"}])
    assert found.annotations == (Annotation("3", (0.0, 0.0, 1.0, 1.0)),)


def test_an_image_without_objects_is_background() -> None:
    assert read_boxes([]) == read_polygons([]) == Objects(())


def test_one_object_in_place_of_a_list_is_a_list_of_one() -> None:
    assert read_boxes(CAT) == Objects((Annotation("cat", (0.1, 0.2, 0.5, 0.75)),), (), single=True)


@pytest.mark.parametrize("value", ["true", "True", "1", 1, True, 1.0])
def test_crowds(value: Any) -> None:
    assert read_boxes([{**CAT, "isCrowd": value}]).annotations[0].crowd is True


@pytest.mark.parametrize("value", ["TRUE", "yes", "false", "", 0, False, None, 2, [], {"a": 1}])
def test_no_crowds(value: Any) -> None:
    assert read_boxes([{**CAT, "isCrowd": value}]).annotations[0].crowd is False


# The two rows of the detection article, each on one line as JSON Lines wants it.
FIRST = '{"label": "cat", "topX": "1", "topY": "0", "bottomX": "0", "bottomY": "1", "isCrowd": "true"}'
SECOND = '{"label": "dog", "topX": "0", "topY": "1", "bottomX": "0", "bottomY": "1", "isCrowd": "false"}'


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (FIRST, "object 0 (cat): the box is reversed or empty: topX 1 is not less than bottomX 0"),
        (
            SECOND,
            "object 0 (dog): the box is reversed or empty: topX 0 is not less than bottomX 0 and "
            "topY 1 is not less than bottomY 1",
        ),
    ],
)
def test_the_articles_own_rows_have_no_box_that_can_be_used(row: str, reason: str) -> None:
    with pytest.raises(LabelError) as caught:
        read_boxes(json.loads(row))
    assert str(caught.value) == f"no valid annotations: {reason}"
    kept = read_boxes([CAT, json.loads(row)])
    assert [a.label for a in kept.annotations] == ["cat"]
    assert kept.dropped == (reason.replace("object 0", "object 1"),)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"topX": -0.1}, "the box has the coordinate -0.1; coordinates are shares"),
        ({"bottomX": 1.0001}, "the box has the coordinate 1.0001; coordinates"),
        ({"bottomX": 412}, "the box has the coordinate 412, which looks like pixels; coordinates"),
        ({"bottomX": 0.1}, "the box is reversed or empty: topX 0.1 is not less than bottomX 0.1"),
    ],
)
def test_a_box_that_cannot_be_used_is_dropped_and_named(change: dict[str, Any], reason: str) -> None:
    found = read_boxes([{**CAT, **change}, CAT])
    assert len(found.annotations) == len(found.dropped) == 1
    assert found.dropped[0].startswith(f"object 0 (cat): {reason}")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no label; an image without objects needs an empty list"),
        ("cat", "label is 'cat'; a list of objects is needed"),
        (3, "label is 3; a list of objects is needed"),
        (["cat"], "object 0 is 'cat'; an object with label and coordinates is needed"),
        ([CAT, {"label": "x", "topX": 0}], "incomplete record: object 1 has no polygon, and topY, bottomX, "),
        ([{"topX": 0, "topY": 0, "bottomX": 1, "bottomY": 1}], "incomplete record: object 0 has no label"),
        ([{**CAT, "label": None}], "object 0: no label"),
        ([{**CAT, "label": ["a"]}], "object 0: label is a list"),
        ([{**CAT, "topX": "left"}], "object 0: topX is 'left'; a number is needed"),
        ([{**CAT, "topX": True}], "object 0: topX is True; a number is needed"),
        ([{**CAT, "topX": float("nan")}], "object 0: topX is nan; a number is needed"),
        ([{**CAT, "topX": 10**400}], "object 0: topX is 1000"),
        ([{**CAT, "polygon": "x"}], "object 0: polygon is 'x'; a list of lists of numbers is needed"),
        ([{**CAT, "polygon": [[0, "a", 1, 1, 0, 1]]}], "object 0: part 0 of its polygon is 'a'; a number"),
        ([{**CAT, "polygon": [TRIANGLE, 3]}], "object 0: part 1 of its polygon is 3; a list is needed"),
        ([CAT] * 100_001, "label has 100,001 objects"),
    ],
)
def test_what_costs_the_whole_image(value: Any, reason: str) -> None:
    with pytest.raises(LabelError) as caught:
        read_boxes(value)
    assert str(caught.value).startswith(reason)


def test_a_polygon_says_what_the_box_is_and_the_corners_do_not_count() -> None:
    given = {**CAT, "polygon": [TRIANGLE, [0.7, 0.1, 0.8, 0.1, 0.8, 0.15]]}
    found = read_boxes([given]).annotations[0]
    assert found.box == (0.1, 0.1, 0.8, 0.9)
    assert found.polygon == (tuple(TRIANGLE), (0.7, 0.1, 0.8, 0.1, 0.8, 0.15))
    assert read_polygons([given]).annotations == (found,)


def test_a_polygon_that_is_one_list_of_numbers_is_one_part() -> None:
    assert read_polygons([{"label": "a", "polygon": TRIANGLE}]).annotations[0].polygon == (tuple(TRIANGLE),)


def test_parts_that_cannot_be_used_are_left_out() -> None:
    parts = [[0.1, 0.1, 0.2, 0.2], [*TRIANGLE, 0.5], TRIANGLE, [0.1, 0.2, 1.6, 0.2, 0.3, 0.9]]
    found = read_polygons([{"label": "a", "polygon": parts}])
    assert found.annotations[0].polygon == (tuple(TRIANGLE),)
    assert [reason.split(" polygon ")[1][:36] for reason in found.dropped] == [
        "has 4 numbers, fewer than three poin",
        "has 7 numbers; there must be as many",
        "has the coordinate 1.6; coordinates ",
    ]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (CAT, "object 0 (cat): no polygon; instance segmentation needs one"),
        ({"label": "a", "polygon": []}, "object 0: part 0 of its polygon has 0 numbers"),
        ({"label": "a", "polygon": [[0.1, 0.1, 0.5, 0.1, 0.3, 0.1]]}, "object 0 (a): the polygon's box is"),
    ],
)
def test_an_object_without_a_polygon_that_can_be_used(item: dict[str, Any], reason: str) -> None:
    with pytest.raises(LabelError, match="no valid annotations") as caught:
        read_polygons([item])
    assert reason in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["label", *CAT, "polygon"]), inner, max_size=6)
        ),
    )
)
def test_nothing_but_a_label_error_comes_of_any_value(value: Any) -> None:
    for read in (read_boxes, read_polygons):
        try:
            found = read(value)
        except LabelError:
            continue
        for annotation in found.annotations:
            left, top, right, bottom = annotation.box
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


def test_objects_survive_the_manifest() -> None:
    found = read_boxes([{**CAT, "isCrowd": 1}, {"label": "a", "polygon": [TRIANGLE]}]).annotations
    assert tuple(from_manifest(json.loads(json.dumps(one.as_dict()))) for one in found) == found
