"""The stand-ins for mmcv's compiled operators, against cases worked out by hand or done slowly."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from amlocal.trainers.models import mmdet_operators as ours


def test_nms_keeps_the_best_and_counts_a_pixel_more_where_asked() -> None:
    boxes = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 4], [20, 20, 29, 29]]).float()
    scores = torch.tensor([0.5, 0.9, 0.7])
    # 36 of 81 overlap; with a pixel more 50 of 100.
    assert ours.nms(boxes, scores, 0.45, 0).tolist() == [1, 2, 0]
    assert ours.nms(boxes, scores, 0.45, 1).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("method", "second"), [(0, None), (1, 0.8 * 0.5), (2, 0.8 * math.exp(-(0.5**2) / 0.5))]
)
def test_soft_nms_lowers_the_score_of_what_overlaps(method: int, second: float | None) -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]]).float()
    dets = torch.empty(3, 5)
    kept = ours.softnms(boxes, torch.tensor([0.9, 0.8, 0.3]), dets, 0.3, 0.5, 1e-3, method, 0)
    expected = [(0, 0.9), (2, 0.3)] if second is None else sorted(
        [(0, 0.9), (1, second), (2, 0.3)], key=lambda one: -one[1]
    )  # fmt: skip
    assert kept.tolist() == [position for position, _ in expected]
    for row, (position, score) in zip(dets, expected, strict=False):
        assert row[4].item() == pytest.approx(score) and torch.equal(row[:4], boxes[position])


def test_soft_nms_leaves_out_what_falls_below_the_least_score() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9]]).float()
    kept = ours.softnms(boxes, torch.tensor([0.9, 0.5]), torch.empty(2, 5), 0.3, 0.5, 0.06, 1, 0)
    assert kept.tolist() == [0]


def test_boxes_are_gathered_round_the_best_of_them() -> None:
    dets = torch.tensor([[0, 0, 10, 10, 0.5], [50, 50, 60, 60, 0.7], [0, 0, 10, 9, 0.9]])
    assert ours.nms_match(dets, 0.5) == [[2, 0], [1]]


def test_a_deformable_convolution_without_offsets_is_a_plain_one() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 4, 9, 7), torch.randn(6, 2, 3, 3), torch.randn(6)
    offset, mask = torch.zeros(2, 2 * 2 * 9, 5, 4), torch.full((2, 2 * 9, 5, 4), 0.5)
    plain = F.conv2d(x, weight, None, 2, 1, groups=2)
    found = ours.deform_conv2d(x, offset, weight, 2, 1, 1, 2, 2)
    assert torch.allclose(found, plain, atol=1e-5)
    found = ours.modulated_deform_conv2d(x, offset, mask, weight, bias, 2, 1, 1, 2, 2)
    assert torch.allclose(found, plain / 2 + bias.view(1, -1, 1, 1), atol=1e-5)
    # An offset of one pixel down and right everywhere.
    moved = ours.deform_conv2d(x, torch.ones(2, 18, 7, 5), weight, 1, 0, 1, 2, 1)
    shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
    assert torch.allclose(moved, F.conv2d(shifted, weight, None, 1, 0, groups=2), atol=1e-5)


def test_a_masked_convolution_is_nothing_outside_its_mask() -> None:
    x, weight, bias = torch.randn(1, 3, 5, 5), torch.randn(2, 3, 3, 3), torch.randn(2)
    mask = (torch.arange(25).view(1, 5, 5) % 2).float()
    found = ours.masked_conv2d(x, mask, weight, bias, padding=1)
    assert torch.allclose(found, F.conv2d(x, weight, bias, padding=1) * mask, atol=1e-6)


def test_carafe_weighs_the_neighbours_of_the_place_it_comes_from() -> None:
    torch.manual_seed(0)
    n, channels, groups, kernel, scale, side = 1, 4, 2, 3, 2, 3
    x = torch.randn(n, channels, side, side)
    masks = torch.rand(n, groups * kernel**2, side * scale, side * scale)
    found = ours.carafe(x, masks, kernel, groups, scale)
    padded = F.pad(x, (1, 1, 1, 1))
    for channel in range(channels):
        group = channel // (channels // groups)
        for row in range(side * scale):
            for column in range(side * scale):
                top, left = row // scale, column // scale
                around = padded[0, channel, top : top + 3, left : left + 3].flatten()
                weights = masks[0, group * 9 : group * 9 + 9, row, column]
                assert found[0, channel, row, column].item() == pytest.approx(
                    float((around * weights).sum()), abs=1e-5
                )


def test_focal_loss_is_that_of_the_paper() -> None:
    scores, target = torch.tensor([[2.0, -1.0], [0.5, 0.0]]), torch.tensor([0, 2])
    expected = []
    for row, wanted in zip(scores.tolist(), [(1, 0), (0, 0)], strict=True):
        for score, one in zip(row, wanted, strict=True):
            p = 1 / (1 + math.exp(-score))
            right, share = (p, 0.25) if one else (1 - p, 0.75)
            expected.append(-share * (1 - right) ** 2 * math.log(right))
    each = ours.sigmoid_focal_loss(scores, target, 2.0, 0.25, None, "none")
    assert each.flatten().tolist() == pytest.approx(expected, rel=1e-5)
    assert ours.sigmoid_focal_loss(scores, target).item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_regions_are_averaged_where_they_lie() -> None:
    features = torch.arange(36.0).view(1, 1, 6, 6)
    rois = torch.tensor([[0, 0, 0, 12, 12], [0, 4, 4, 8, 8]]).double()
    found = ours.roi_align(features, rois, (1, 1), 0.5, 0, "avg", True)
    assert found.flatten().tolist() == pytest.approx([17.5, 2.5 * 6 + 2.5])
    assert ours.roi_pool(features, rois, 1, 0.5).flatten().tolist() == [35.0, 28.0]
    with pytest.raises(ours.MissingOperator, match="pool_mode max"):
        ours.roi_align(features, rois, (1, 1), pool_mode="max")


def test_mmcv_has_the_stand_ins_and_names_what_is_missing() -> None:
    pytest.importorskip("mmcv")
    ours.install()
    from mmcv.ops import RoIAlign, batched_nms, deform_conv2d, roi_align, tin_shift

    assert roi_align is ours.roi_align and deform_conv2d is ours.deform_conv2d
    features = torch.arange(36.0).view(1, 1, 6, 6)
    assert RoIAlign((1, 1), 0.5)(features, torch.tensor([[0.0, 0, 0, 12, 12]])).item() == 17.5
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9]]).float()
    scores, labels = torch.tensor([0.5, 0.9, 0.8]), torch.tensor([0, 0, 1])
    found, kept = batched_nms(boxes, scores, labels, {"type": "nms", "iou_threshold": 0.5})
    assert kept.tolist() == [1, 2]
    assert found[:, 4].tolist() == pytest.approx([0.9, 0.8])
    with pytest.raises(ours.MissingOperator, match="tin_shift_forward needs a compiled mmcv"):
        tin_shift(torch.zeros(1, 4, 4, 2), torch.zeros(1, 4, dtype=torch.int))
