from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from amlocal.compat import names
from amlocal.trainers.checkpoints import plain
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.export import detector_artifact
from amlocal.trainers.models import mmdet, mmdet_package
from amlocal.trainers.models.detector import Detections
from amlocal.trainers.models.network import Network, freeze

pytest.importorskip("mmdet")

BOXES, MASKS = "image-object-detection", "image-instance-segmentation"
TINY = "rtmdet_tiny_8xb32-300e_coco"
CURATED = [
    (BOXES, "mmd-3x-yolof_r50_c5_8x8_1x_coco"),
    (BOXES, "mmd-3x-vfnet_r50-mdconv-c3-c5_fpn_ms-2x_coco"),
    (BOXES, "mmd-3x-vfnet_x101-64x4d-mdconv-c3-c5_fpn_ms-2x_coco"),
    (BOXES, "mmd-3x-deformable-detr_refine_twostage_r50_16xb2-50e_coco"),
    (BOXES, "mmd-3x-sparse-rcnn_r50_fpn_300-proposals_crop-ms-480-800-3x_coco"),
    (BOXES, "mmd-3x-sparse-rcnn_r101_fpn_300-proposals_crop-ms-480-800-3x_coco"),
    (MASKS, "mmd-3x-mask-rcnn_swin-t-p4-w7_fpn_1x_coco"),
]
SIDE = 128
COLOURS = np.eye(3, dtype=np.float32)


def built(name: str, classes: int = 3, weights: Path | None = None, **options: Any) -> Network:
    torch.manual_seed(0)
    task = MASKS if "mask" in name or "-ins" in name else BOXES
    return mmdet.build(names.model(task, name), classes, weights, options)


def painted(n: int, network: Network) -> tuple[Tensor, list[tuple[int, int]], list[Objects]]:
    """Images of 120 x SIDE pixels with a coloured rectangle each, as a batch of the network."""
    random = np.random.default_rng(1)
    images = np.zeros((n, 3, SIDE, SIDE), np.float32) + 0.5
    targets = []
    for number in range(n):
        left, top, width, height = random.integers((5, 5, 40, 40), (40, 40, 80, 70))
        label = number % 3
        images[number, :, top : top + height, left : left + width] = COLOURS[label][:, None, None]
        masks = torch.zeros(1, 120, SIDE, dtype=torch.bool)
        masks[0, top : top + height, left : left + width] = True
        box = [[left, top, left + width, top + height]]
        targets.append(
            Objects(
                torch.tensor(np.array(box), dtype=torch.float32),
                torch.tensor([label]),
                torch.tensor([False]),
                None,
                masks if network.module.network.with_mask else None,
            )
        )
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (network.mean, network.std))
    return (torch.from_numpy(images) - mean) / std, [(120, SIDE)] * n, targets


def step(network: Network) -> dict[str, float]:
    module = network.module.train()
    images, sizes, targets = painted(2, network)
    losses = module(images, sizes, targets)
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
    module.eval()
    module.score_threshold = 0.0
    with torch.no_grad():
        found = module(images, [(120, SIDE), (100, 90)])
    statistics = {n: b.clone() for n, b in module.named_buffers()}
    with torch.no_grad():
        validation = module.losses(images, sizes, targets)
    assert all(torch.isfinite(value) for value in validation.values())
    assert not any(part.training for part in module.modules())
    assert all(torch.equal(b, statistics[n]) for n, b in module.named_buffers())
    for one, (height, width) in zip(found, [(120, SIDE), (100, 90)], strict=True):
        assert isinstance(one, Detections)
        assert (one.boxes >= 0).all() and (one.boxes[:, 0::2] <= width).all()
        assert (one.boxes[:, 1::2] <= height).all()
        assert (one.labels >= 0).all() and (one.labels < 3).all()
        assert (one.scores.diff() <= 0).all()
        if one.masks is not None:
            assert one.whole and one.masks.shape == (len(one), height, width)
    return {name: value.item() for name, value in losses.items()}


def test_a_network_of_the_zoo_takes_a_step() -> None:
    network = built(TINY)
    assert list(step(network)) == ["loss_cls", "loss_bbox"]
    # 103.53, 116.28, 123.675 as blue, green, red, whose standard deviations are 57.375, 57.12, 58.395.
    assert network.mean == pytest.approx((123.675 / 255, 116.28 / 255, 103.53 / 255))
    assert network.std == pytest.approx((58.395 / 255, 57.12 / 255, 57.375 / 255))
    assert network.module.stride == 32
    # It pads what is normalised already, with 0.
    assert network.module.fill == pytest.approx((123.675, 116.28, 103.53))


@pytest.mark.parametrize("name", [TINY, "rtmdet-ins_tiny_8xb32-300e_coco"])
def test_boxes_begin_with_a_width_so_that_every_object_is_overlapped_by_some(name: str) -> None:
    network = built(name)
    head = network.module.network.bbox_head
    with torch.no_grad():
        features = network.module.network.extract_feat(painted(2, network)[0])
        distances = head(features)[1]
    for level, stride in zip(distances, (8, 16, 32), strict=True):
        assert torch.all(level > 0.5 * stride) and torch.all(level < 1.5 * stride)


def test_a_network_that_wants_blue_first_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = built(TINY).module.eval()
    seen: list[Tensor] = []
    monkeypatch.setattr(module.network, "predict", lambda images, *_, **__: seen.append(images) or [])
    image = torch.arange(3.0).view(1, 3, 1, 1).expand(1, 3, SIDE, SIDE)
    with pytest.raises(ValueError):
        module(image, [(SIDE, SIDE)])
    assert seen[0][0, :, 0, 0].tolist() == [2.0, 1.0, 0.0]


def test_a_transformer_has_as_many_places_as_it_wants_in_small_images() -> None:
    """It begins with the 300 best ones of all places: 64 pixels have 85, and 160 have 535."""
    network = built("deformable-detr-refine-twostage_r50_16xb2-50e_coco")
    module = network.module.train()
    images, _, targets = painted(2, network)
    small = images[:, :, :64, :64].contiguous()
    losses = module(small, [(64, 50), (64, 64)], targets)
    assert all(torch.isfinite(value) for value in losses.values())
    module.eval().score_threshold = 0.0
    with torch.no_grad():
        found = module(small, [(64, 50), (64, 64)])
        wide = functional.pad(small, (0, 96, 0, 96))
        again = module(wide, [(64, 50), (64, 64)])
    for one, other, edge in zip(found, again, (50, 64), strict=True):
        # Padded by the network or before it: the same is found, inside the image.
        assert len(one) > 0 and torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)
        assert (one.boxes[:, 0::2] <= edge).all() and (one.boxes[:, 1::2] <= 64).all()
    assert built(TINY).module._ordered(small).shape == small.shape


def test_a_batch_of_background_only_trains() -> None:
    network = built(TINY)
    images, sizes, targets = painted(2, network)
    nothing = [found.pick(torch.zeros(1, dtype=torch.bool)) for found in targets]
    losses = network.module.train()(images, sizes, nothing)
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())


def test_detections_are_above_the_threshold_and_as_many_as_wanted() -> None:
    network = built(TINY, box_score_threshold=0.2, box_detections_per_image=2, nms_iou_threshold=0.4)
    test = network.module.network.test_cfg
    assert (test["score_thr"], test["nms"]["iou_threshold"], test["max_per_img"]) == (0.2, 0.4, 2)
    package = mmdet_package.load()
    raw = package.instances(
        bboxes=torch.tensor([[0.0, 0, 5, 5], [-3, 0, 200, 5], [0, 125, 9, 127], [1, 1, 4, 4], [2, 2, 8, 8]]),
        scores=torch.tensor([0.5, 0.9, 0.8, 0.2, 0.3]),
        labels=torch.tensor([0, 1, 2, 0, 1]),
    )
    found = network.module._chosen(raw, (120, SIDE))
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.boxes.tolist() == [[0, 0, SIDE, 5], [0, 0, 5, 5]]


def test_published_weights_are_loaded_but_for_the_classes(tmp_path: Path) -> None:
    published = {
        name.removeprefix("network."): tensor
        for name, tensor in built(TINY, classes=80).module.state_dict().items()
    }
    save_file({n: t.clone() for n, t in published.items()}, tmp_path / "published.safetensors")
    torch.manual_seed(9)
    row = names.model(BOXES, TINY)
    module = mmdet.build(row, 3, tmp_path / "published.safetensors", {}).module
    new = []
    for name, tensor in module.state_dict().items():
        given = published[name.removeprefix("network.")]
        if tensor.shape != given.shape:
            new.append(name)
        else:
            assert torch.equal(tensor, given), name
    assert new and all("rtm_cls" in name for name in new)
    del published["backbone.stem.0.conv.weight"]
    save_file({n: t.clone() for n, t in published.items()}, tmp_path / "published.safetensors")
    with pytest.raises(TrainingError, match=r"does not fit rtmdet_tiny.*backbone\.stem\.0\.conv\.weight"):
        mmdet.build(row, 3, tmp_path / "published.safetensors", {})


def test_stages_are_frozen_from_the_stem_on_and_random_ones_not_at_all() -> None:
    network = built("retinanet_r50_fpn_1x_coco")
    # Its config freezes the stem and the first stage, for published weights.
    assert all(p.requires_grad for p in network.module.parameters())
    assert not network.module.network.backbone.norm_eval
    trained = built("retinanet_r50_fpn_1x_coco", trained=True).module.network.backbone
    assert not trained.conv1.weight.requires_grad and trained.norm_eval
    assert len(network.stages) == 5 and freeze(network, 2) == 2
    frozen = {name.split(".")[2] for name, p in network.module.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}


def test_without_mmdet_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    row = names.model(BOXES, TINY)
    monkeypatch.setitem(sys.modules, "mmdet", None)
    mmdet_package.load.cache_clear()
    with pytest.raises(TrainingError, match=r"pip install 'amlocal\[mmdet\]'"):
        mmdet.build(row, 2, None, {})
    mmdet_package.load.cache_clear()


def test_no_onnx_file_is_tried_and_the_reason_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"min_size": SIDE, "max_size": SIDE}
    found = detector_artifact.write(built(TINY), options, tmp_path, masks=False, normalised=True)
    assert found is None and list(tmp_path.iterdir()) == []
    assert "no train_artifacts/model.onnx: MMDetection's networks are written by its own tool" in (
        "".join(capsys.readouterr())
    )


@pytest.mark.slow
@pytest.mark.parametrize(("task", "name"), CURATED)
def test_curated_networks_take_a_step(task: str, name: str) -> None:
    torch.manual_seed(0)
    losses = step(mmdet.build(names.model(task, name), 3, None, {}))
    assert ("loss_mask" in losses) == (task == MASKS)


def test_a_saved_network_answers_alike(tmp_path: Path) -> None:
    network = built(TINY, box_score_threshold=0.001)
    module = network.module.train()
    images, sizes, targets = painted(2, network)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        sum(module(images, sizes, targets).values()).backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        found = module(images, sizes)
    assert sum(len(one) for one in found) > 0
    save_file(plain(module), tmp_path / "model.safetensors")
    again = built(TINY, box_score_threshold=0.001).module.eval()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        repeated = again(images, sizes)
    for one, other in zip(found, repeated, strict=True):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)
