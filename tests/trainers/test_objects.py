"""Objects of an image: picked, moved, drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from amlocal.compat.annotations import Annotation
from amlocal.trainers.data.objects import Objects, Polygon, drawn, objects

HEIGHT, WIDTH = 40, 70
PARTS = st.lists(
    st.lists(
        st.tuples(st.floats(-5, WIDTH + 5, width=32), st.floats(-5, HEIGHT + 5, width=32)),
        min_size=3,
        max_size=8,
    ),
    min_size=1,
    max_size=3,
)


def polygon(*parts: list[tuple[float, float]]) -> Polygon:
    return tuple(torch.tensor(part, dtype=torch.float32) for part in parts)


def plainly(shape: Polygon, height: int, width: int) -> np.ndarray:
    """The whole image drawn for each part."""
    found = np.zeros((height, width), dtype=bool)
    for part in shape:
        codes = coco.frPyObjects([part.double().flatten().tolist()], height, width)
        found ^= coco.decode(codes)[:, :, 0].astype(bool)
    return found


def test_a_square_with_a_hole() -> None:
    outer = [(10.0, 5.0), (20.0, 5.0), (20.0, 15.0), (10.0, 15.0)]
    inner = [(12.0, 7.0), (14.0, 7.0), (14.0, 9.0), (12.0, 9.0)]
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[5:15, 10:20] = True
    expected[7:9, 12:14] = False
    np.testing.assert_array_equal(drawn(polygon(outer, inner), HEIGHT, WIDTH), expected)


@given(PARTS)
def test_what_is_drawn_is_what_would_be_drawn_on_the_whole_image(
    parts: list[list[tuple[float, float]]],
) -> None:
    shape = polygon(*parts)
    np.testing.assert_array_equal(drawn(shape, HEIGHT, WIDTH), plainly(shape, HEIGHT, WIDTH))


@given(st.floats(0, 60, width=32), st.floats(0, 30, width=32), st.integers(1, 60), st.integers(1, 60))
def test_small_shapes_too(x: float, y: float, width: int, height: int) -> None:
    shape = polygon([(x, y), (x + width / 6, y), (x + width / 6, y + height / 6), (x, y + height / 7)])
    np.testing.assert_array_equal(drawn(shape, HEIGHT, WIDTH), plainly(shape, HEIGHT, WIDTH))


@pytest.mark.parametrize(
    "shape", [(), polygon([(90, 5), (99, 5), (99, 9)]), polygon([(5, 90), (9, 90), (9, 99)])]
)
def test_nothing_to_draw(shape: Polygon) -> None:
    assert not drawn(shape, HEIGHT, WIDTH).any()


def test_objects_of_a_row_in_pixels_and_picked() -> None:
    part = (0.5, 0.5, 1.0, 0.5, 1.0, 1.0)
    rows = [
        Annotation("dog", (0.5, 0.5, 1.0, 1.0), True, (part,)),
        Annotation("cat", (0.0, 0.1, 0.2, 0.3), False, (part,)),
    ]
    found = objects(rows, ["cat", "dog"], 20, 40, polygons=True).rasterised(20, 40)
    assert found.boxes.tolist() == [[20, 10, 40, 20], [0, 2, 8, 6]]
    assert found.labels.tolist() == [1, 0] and found.crowd.tolist() == [True, False]
    assert found.polygons is not None and found.masks is not None
    assert found.polygons[0][0].tolist() == [[20, 10], [40, 10], [40, 20]]
    np.testing.assert_array_equal(found.masks[0].numpy(), drawn(found.polygons[0], 20, 40))
    assert found.masks[0].any()
    for which in (torch.tensor([False, True]), torch.tensor([1])):
        one = found.pick(which)
        assert one.labels.tolist() == [0] and one.polygons == (found.polygons[1],)
        assert one.masks is not None and one.masks.equal(found.masks[1:])
    with pytest.raises(KeyError):
        objects(rows, ["cat"], 20, 40, polygons=False)


def test_objects_are_stretched_and_moved() -> None:
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    given = Objects(boxes, torch.tensor([0]), torch.tensor([False]), (polygon([(1, 2), (3, 2), (3, 4)]),))
    found = given.rasterised(9, 9).moved((2.0, 3.0), (10.0, -1.0))
    assert found.boxes.tolist() == [[12, 5, 16, 11]]
    assert found.polygons is not None
    assert found.polygons[0][0].tolist() == [[12, 5], [16, 5], [16, 11]]
    assert found.masks is None
