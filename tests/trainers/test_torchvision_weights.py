"""Pretrained weights of torchvision's detectors: what of which file is taken, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from framed import frames
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.ops import FrozenBatchNorm2d
from torchvision_desk import QUICK, built, reference, row_of, shaken

from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models.loading import load_intersecting
from amlocal.trainers.models.torchvision_detection import TRAINED, build
from amlocal.trainers.models.torchvision_weights import is_coco_v1


def published(path: Path, own: nn.Module) -> dict[str, Tensor]:
    tensors = {key: tensor.clone().contiguous() for key, tensor in own.state_dict().items()}
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("name", QUICK)
def test_coco_weights_come_with_everything_but_their_head(name: str, tmp_path: Path) -> None:
    classes = 91 if name.startswith("retina") else 90
    torch.manual_seed(4)
    tensors = published(tmp_path / "w.safetensors", shaken(reference(name, classes)))
    module = built(name, 2, tmp_path / "w.safetensors").module
    own = built(name, 2).module.state_dict()
    heads = [key for key in module.state_dict() if key.startswith(module.heads)]
    assert heads and any(key.endswith("bias") for key in heads)
    for key, tensor in module.state_dict().items():
        if key in heads:
            assert torch.equal(tensor, own[key]), "the head is as new as without weights"
        elif name != "retinanet_resnet50_fpn" or not re.search(r"\.(bn\d|downsample\.1)\.weight", key):
            assert torch.equal(tensor, tensors[key]), key


def test_a_head_of_as_many_classes_is_not_taken_either(tmp_path: Path) -> None:
    torch.manual_seed(4)
    tensors = published(tmp_path / "w.safetensors", reference("fasterrcnn_resnet18_fpn", 2))
    module = built("fasterrcnn_resnet18_fpn", 2, tmp_path / "w.safetensors").module
    found = module.roi_heads.box_predictor.cls_score.weight
    assert found.shape == tensors["roi_heads.box_predictor.cls_score.weight"].shape
    assert not torch.equal(found, tensors["roi_heads.box_predictor.cls_score.weight"])


def test_torchvisions_published_files_keep_their_features(tmp_path: Path) -> None:
    """They were trained without an epsilon, and carry the older names of tensors."""
    name = "retinanet_resnet50_fpn"
    frozen = _frozen(shaken(reference(name, 91)))
    overwrite_eps(frozen, 0.0)
    tiny = frozen.backbone.body.layer1[0].bn1.running_var
    tiny.copy_(torch.rand(tiny.shape) * 1e-4 + 1e-6)
    old = {_old_name(key): t.clone().contiguous() for key, t in frozen.state_dict().items()}
    assert any(key.startswith("head.regression_head.conv.2.") for key in old)
    save_file(old, tmp_path / "w.safetensors")
    ours = built(name, 2, tmp_path / "w.safetensors").module.eval()
    images = frames(1)[0]
    with torch.inference_mode():
        found, goal = ours.backbone(images), frozen.eval().backbone(images)
        boxes = ours.head.regression_head(list(found.values()))
        goals = frozen.head.regression_head(list(goal.values()))
    for level in goal:
        assert torch.allclose(
            found[level], goal[level], rtol=1e-3, atol=1e-3 * float(goal[level].abs().max())
        )
    assert torch.allclose(boxes, goals, rtol=1e-3, atol=1e-3 * float(goals.abs().max()))


@pytest.mark.parametrize(
    ("name", "tensor", "rows"),
    [
        ("fasterrcnn_resnet50_fpn", "roi_heads.box_predictor.cls_score.bias", 91),
        ("maskrcnn_resnet50_fpn", "roi_heads.box_predictor.cls_score.bias", 91),
        ("retinanet_resnet50_fpn", "head.classification_head.cls_logits.bias", 819),
    ],
)
def test_torchvisions_published_files_are_known_by_their_head(name: str, tensor: str, rows: int) -> None:
    with torch.device("meta"):
        module = built(name).module
    assert is_coco_v1(row_of(name), {tensor: torch.zeros(rows)}, module)
    assert not is_coco_v1(row_of(name), {tensor: torch.zeros(rows - 1)}, module)
    assert not is_coco_v1(row_of("fasterrcnn_resnet101_fpn"), {tensor: torch.zeros(rows)}, module)
    assert not is_coco_v1(row_of(name), {}, module)


def _frozen(module: Any) -> Any:
    for parent in list(module.modules()):
        for key, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                fixed = FrozenBatchNorm2d(child.num_features)
                fixed.load_state_dict(child.state_dict())
                setattr(parent, key, fixed)
    return module


def _old_name(key: str) -> str:
    parts = key.split(".")
    if parts[0] == "head" and parts[2] == "conv":
        return ".".join([*parts[:3], str(2 * int(parts[3])), *parts[5:]])
    return re.sub(r"(_blocks\.\d)\.0\.", r"\1.", key)


@pytest.mark.parametrize("name", ["fasterrcnn_resnet18_fpn", "maskrcnn_resnet18_fpn"])
def test_imagenet_weights_become_the_backbone(name: str, tmp_path: Path, capsys: Any) -> None:
    torch.manual_seed(4)
    tensors = published(tmp_path / "w.safetensors", shaken(timm.create_model("resnet18", num_classes=7)))
    module = built(name, 2, tmp_path / "w.safetensors").module
    body = {key: t for key, t in module.state_dict().items() if key.startswith("backbone.body.")}
    assert len(body) == 100
    assert all(torch.equal(t, tensors[key.removeprefix("backbone.body.")]) for key, t in body.items())
    fresh = built(name, 2).module.state_dict()
    rest = {key: t for key, t in module.state_dict().items() if not key.startswith("backbone.body.")}
    assert all(torch.equal(t, fresh[key]) for key, t in rest.items())
    assert "holds a classifier" in capsys.readouterr().out


def test_weights_of_another_network_are_refused_with_an_example(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    named = r"w\.safetensors does not fit fasterrcnn_resnet18_fpn \(fasterrcnn_resnet18_fpn\): "
    published(path, timm.create_model("vit_tiny_patch16_224", num_classes=2))
    with pytest.raises(
        TrainingError, match=named + r"100 tensors are missing and \d+ do not belong, e\.g\. "
    ):
        built("fasterrcnn_resnet18_fpn", 2, path)
    published(path, reference("fasterrcnn_resnet34_fpn"))
    with pytest.raises(TrainingError, match=named + r"0 tensors are missing and .*layer1\.2\.bn1"):
        built("fasterrcnn_resnet18_fpn", 2, path)
    published(path, reference("maskrcnn_resnet18_fpn"))
    with pytest.raises(TrainingError, match=named + r".*e\.g\. roi_heads\.mask_head"):
        built("fasterrcnn_resnet18_fpn", 2, path)
    with pytest.raises(TrainingError, match=r"size mismatch"):
        save_file({"backbone.body.conv1.weight": torch.zeros(3)}, path)
        built("fasterrcnn_resnet18_fpn", 2, path)
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(TrainingError, match="not a readable safetensors file"):
        built("fasterrcnn_resnet18_fpn", 2, path)


def test_an_earlier_model_with_other_labels_gives_all_but_its_head() -> None:
    torch.manual_seed(1)
    earlier = build(row_of("maskrcnn_resnet18_fpn"), 5, None, {}).module.state_dict()
    module = built("maskrcnn_resnet18_fpn", 3, **{TRAINED: True}).module
    head = module.roi_heads.box_predictor.cls_score.weight.clone()
    found = load_intersecting(module, earlier)
    assert {key for key in found.skipped if not key.endswith("num_batches_tracked")} == {
        key for key in module.state_dict() if key.startswith(module.heads)
    }
    assert torch.equal(module.roi_heads.box_predictor.cls_score.weight, head)
    assert torch.equal(module.backbone.body.conv1.weight, earlier["backbone.body.conv1.weight"])
