"""torchvision's detectors: the same numbers as torchvision's own models, what they learn and freeze."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from framed import frames, nothing
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision_desk import NO_THRESHOLD, QUICK, ROWS, built, quick, reference, shaken

from amlocal.compat import names
from amlocal.trainers.models.detector import Detections
from amlocal.trainers.models.network import Network, freeze
from amlocal.trainers.models.torchvision_detection import TRAINED, build
from amlocal.trainers.models.torchvision_networks import MEAN, STD, Retina

CLOSE = 1e-4


def theirs(images: Tensor, sizes: Any, targets: Any, first_label: int) -> tuple[list[Tensor], list[Any]]:
    """A batch as torchvision takes it: not padded, labels from `first_label`."""
    pixels = [image[:, :h, :w] for image, (h, w) in zip(images, sizes, strict=True)]
    return pixels, [{"boxes": t.boxes, "labels": t.labels + first_label, "masks": t.masks} for t in targets]


@pytest.mark.parametrize("name", QUICK)
def test_losses_and_detections_are_those_of_torchvisions_own_network(name: str) -> None:
    ours = quick(shaken(built(name, **NO_THRESHOLD).module))
    own = quick(reference(name))
    own.load_state_dict(ours.state_dict())
    images, sizes, targets = frames(3, 96, ((64, 96), (96, 64), (64, 64)))
    targets[2] = nothing(64)
    first = 0 if name.startswith("retina") else 1
    pixels, wanted = theirs(images, sizes, targets, first)

    torch.manual_seed(3)
    found = ours.train()(images, sizes, targets)
    # In training it draws a size, though it has but one.
    own.train().transform.eval()
    torch.manual_seed(3)
    goal = own(pixels, wanted)
    assert set(found) == set(goal)
    for key, value in goal.items():
        assert found[key].item() == pytest.approx(value.item(), rel=CLOSE, abs=CLOSE), key
    for key, tensor in own.state_dict().items():
        assert torch.allclose(ours.state_dict()[key].float(), tensor.float(), atol=CLOSE), key

    with torch.inference_mode():
        detections = ours.eval()(images, sizes)
        goals = own.eval()(pixels)
    assert sum(len(one) for one in detections) > 10
    for one, theirs_, (height, width) in zip(detections, goals, sizes, strict=True):
        assert torch.equal(one.labels + first, theirs_["labels"])
        assert torch.allclose(one.scores, theirs_["scores"], atol=CLOSE)
        assert torch.allclose(one.boxes, theirs_["boxes"], atol=1e-2, rtol=CLOSE)
        if one.masks is not None:
            assert one.masks.shape == (len(one), 28, 28)
            whole = paste_masks_in_image(one.masks[:, None], one.boxes, (height, width))
            assert torch.allclose(whole, theirs_["masks"], atol=1e-3)
        assert (one.masks is None) == ("masks" not in theirs_)


@pytest.mark.parametrize("name", QUICK)
def test_a_validation_loss_leaves_the_network_as_it_is(name: str) -> None:
    module = quick(built(name).module).eval()
    batch = frames(1, 64)
    before = copy.deepcopy(module.state_dict())
    with torch.inference_mode():
        torch.manual_seed(1)
        losses = module.losses(*batch)
        detections = module.detect(*batch[:2])
        torch.manual_seed(1)
        both = module.examine(*batch)
    assert all(torch.isfinite(value) for value in losses.values())
    assert not any(part.training for part in module.modules())
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())
    assert both[0] == losses
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(both[1], detections, strict=True))
    # What inference mode made (anchors) must not be in the way of training.
    sum(module.train()(*batch).values()).backward()


@pytest.mark.parametrize("name", QUICK)
def test_background_images_can_be_learned_from(name: str) -> None:
    module = quick(built(name).module).train()
    images, sizes, _ = frames(2, 64)
    losses = module(images, sizes, [nothing(64), nothing(64)])
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_targets_are_checked() -> None:
    module = built("maskrcnn_resnet18_fpn").module
    images, sizes, targets = frames(1, 64)
    with pytest.raises(ValueError, match="learns from masks"):
        module.train()(images, sizes, [targets[0].moved((1.0, 1.0))])
    with pytest.raises(ValueError, match="needs targets"):
        module(images, sizes)


def test_masks_begin_as_a_coin_would() -> None:
    """From random weights; a wider start let training explode."""
    images, sizes, targets = frames(2, 64)
    losses = built("maskrcnn_resnet18_fpn").module.train()(images, sizes, targets)
    assert losses["loss_mask"].item() == pytest.approx(math.log(2), abs=0.02)


def learned(name: str, steps: int, *, images: int, rate: float) -> tuple[Any, list[float]]:
    module = quick(built(name).module).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9)
    batch = frames(images, 64)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = sum(module(*batch).values())
        loss.backward()
        nn.utils.clip_grad_value_(module.parameters(), 5.0)
        optimizer.step()
        seen.append(loss.item())
    return module, seen


@pytest.mark.parametrize("name", QUICK)
def test_a_few_steps_lower_the_loss_and_what_is_saved_predicts_the_same(name: str, tmp_path: Path) -> None:
    module, losses = learned(name, 5, images=2, rate=0.002)
    assert losses[-1] < 0.95 * losses[0]
    save_file({key: t.contiguous() for key, t in module.state_dict().items()}, tmp_path / "m.safetensors")
    images, sizes, _ = frames(2, 64)
    # Built as for scoring, and as from pretrained weights, whose normalisation is of another kind.
    answers = []
    for again in (module, *(built(name, **{TRAINED: trained}).module for trained in (False, True))):
        again.load_state_dict(load_file(tmp_path / "m.safetensors"))
        answers.append(found(again, images, sizes))
    for one, *others in zip(*answers, strict=True):
        assert len(one) > 0
        for other in others:
            assert torch.equal(one.labels, other.labels)
            assert torch.allclose(one.boxes, other.boxes, atol=1e-2)
            assert torch.allclose(one.scores, other.scores, atol=CLOSE)
            assert one.masks is None or torch.allclose(one.masks, other.masks, atol=1e-3)


def found(module: Any, images: Tensor, sizes: Any, least: float = 0.0) -> list[Detections]:
    """Its detections above a score, whatever it was built with."""
    part = module if isinstance(module, Retina) else module.roi_heads
    part.score_thresh, part.detections_per_img = least, 20
    with torch.inference_mode():
        return list(module.eval()(images, sizes))


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_model_takes_a_step_and_detects(row: names.Model) -> None:
    module = built(row.name, 3, **NO_THRESHOLD).module
    batch = frames(2)
    sum(module.train()(*batch).values()).backward()
    with torch.inference_mode():
        found = module.eval()(*batch[:2])
    assert all(set(one.labels.tolist()) <= {0, 1, 2} for one in found)
    assert all((one.masks is not None) == row.name.startswith("mask") for one in found)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_table_says_how_large_they_are(row: names.Model) -> None:
    with torch.device("meta"):
        network = build(row, 80, None, {})
        module = network.module.eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            features = module.backbone(torch.empty(1, 3, 608, 800))
            if row.family == "retinanet":
                module.head(list(features.values()))
            else:
                module.rpn.head(list(features.values()))
                heads = module.roi_heads
                heads.box_predictor(heads.box_head(torch.empty(1000, 256, 7, 7)))
                if module.has_masks:
                    heads.mask_predictor(heads.mask_head(torch.empty(100, 256, 14, 14)))
    count = sum(p.numel() for p in module.parameters()) / 1e6
    assert count == pytest.approx(row.parameters, abs=0.06)
    assert counter.get_total_flops() / 2e9 == pytest.approx(row.gmacs, abs=0.06)
    assert (network.mean, network.std, network.image_size) == (MEAN, STD, None)
    assert (row.weights, row.gradient_clip) == (f"{row.name}.safetensors", "value")


@pytest.mark.parametrize("name", QUICK[:2])
def test_options_say_what_is_answered(name: str) -> None:
    batch = frames(1, 64)[:2]

    def answers(**options: Any) -> Detections:
        module = shaken(built(name, **{**NO_THRESHOLD, **options}).module).eval()
        with torch.inference_mode():
            return module(*batch)[0]

    every = answers()
    assert len(every) == 20
    assert len(answers(box_detections_per_image=3)) == 3
    middle = every.scores[9].item()
    some = answers(box_score_threshold=middle)
    assert 0 < len(some) < 20
    assert some.scores.min().item() > middle
    tight, loose = (
        answers(nms_iou_threshold=overlap, box_detections_per_image=1000) for overlap in (0.05, 0.95)
    )
    assert len(tight) < len(loose)


@pytest.mark.parametrize("name", QUICK)
def test_options_have_azures_defaults_and_reach_every_family(name: str) -> None:
    def thresholds(**options: Any) -> tuple[float, float, int]:
        module = built(name, **options).module
        part = module if isinstance(module, Retina) else module.roi_heads
        return part.score_thresh, part.nms_thresh, part.detections_per_img

    assert thresholds() == (0.3, 0.5, 100)
    assert thresholds(**NO_THRESHOLD) == (0.0, 0.5, 20)


def trainable(network: Network) -> list[bool]:
    return [all(p.requires_grad for part in stage for p in part.parameters()) for stage in network.stages]


def test_stages_and_what_is_frozen_by_default() -> None:
    name = "fasterrcnn_resnet18_fpn"
    scratch = built(name)
    body = scratch.module.backbone.body
    assert scratch.stages == (
        (body.conv1, body.bn1),
        (body.layer1,),
        (body.layer2,),
        (body.layer3,),
        (body.layer4,),
    )
    assert trainable(scratch) == [True] * 5
    trained = built(name, **{TRAINED: True})
    assert trainable(trained) == [False, False, True, True, True]
    assert not any(isinstance(part, nn.BatchNorm2d) for part in trained.module.modules())
    assert freeze(trained, 0) == 0
    assert trainable(trained) == [True] * 5
    assert freeze(trained, 3) == 3
    assert trainable(trained) == [False, False, False, True, True]
    sum(quick(trained.module).train()(*frames(1, 64)).values()).backward()
    grads = [all(p.grad is not None for part in s for p in part.parameters()) for s in trained.stages]
    assert grads == [False, False, False, True, True]
    assert freeze(trained, 9) == 5


@pytest.mark.parametrize("name", QUICK)
def test_channels_last_sees_the_same_objects(name: str) -> None:
    module = shaken(built(name, **NO_THRESHOLD).module)
    images, sizes, _ = frames(2, 64)
    plain = found(module, images, sizes)
    moved = images.contiguous(memory_format=torch.channels_last)
    for one, goal in zip(
        found(module.to(memory_format=torch.channels_last), moved, sizes), plain, strict=True
    ):
        assert torch.equal(one.labels, goal.labels)
        assert torch.allclose(one.boxes, goal.boxes, atol=1e-2)
        assert torch.allclose(one.scores, goal.scores, atol=CLOSE)


@pytest.mark.parametrize("name", QUICK)
def test_boxes_and_losses_are_precise_in_a_bfloat16_network(name: str) -> None:
    module = quick(shaken(built(name, **{TRAINED: True}, **NO_THRESHOLD).module))
    module.to(memory_format=torch.channels_last)
    if name != "retinanet_resnet50_fpn":
        # CPUs without instructions for it take long.
        module.rpn._post_nms_top_n = {"training": 20, "testing": 20}
    batch = frames(1, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        detections = found(module, *batch[:2])
        features = module.backbone(batch[0])
        losses = module.losses(*batch)
    assert {one.dtype for one in features.values()} == {torch.bfloat16}
    for one in detections:
        assert one.boxes.dtype == one.scores.dtype == torch.float32
        assert one.masks is None or one.masks.dtype == torch.float32
        # Coordinates in bfloat16 would be whole numbers, halves or quarters.
        assert (one.boxes * 4 != (one.boxes * 4).round()).float().mean() > 0.2
    with torch.no_grad():
        goals = module.losses(*batch)
    for key, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(goals[key].item(), rel=0.2, abs=0.05), key


def test_anchors_are_made_once_for_each_size() -> None:
    module = built("fasterrcnn_resnet18_fpn").module.eval()
    kept = module.rpn.anchor_generator._kept
    with torch.inference_mode():
        for _ in range(3):
            module(*frames(1, 64)[:2])
        module(*frames(1, 96)[:2])
        first = [id(one) for one in kept.values()]
        for side in range(32, 32 * 36, 32):
            maps = [torch.zeros(1, 1, -(-side // 2**k), 1) for k in range(2, 7)]
            module.rpn.anchor_generator(ImageList(torch.zeros(1, 3, side, 32), [(side, 32)]), maps)
    assert len(first) == 2
    assert len(kept) == 32
