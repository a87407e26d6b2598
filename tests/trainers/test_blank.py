"""Networks built without random numbers answer, once they have their weights, as any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from amlocal.compat import model_config, names
from amlocal.trainers.checkpoints import plain
from amlocal.trainers.models.blank import blank
from amlocal.trainers.models.network import rebuild
from amlocal.trainers.tasks.classification_scoring import Predictor

TASK = "image-classification"
HALF = (0.5, 0.5, 0.5)
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TINY = {
    "vit": model_config.Facts(
        "ViTForImageClassification",
        {"model_type": "vit", **SMALL, "patch_size": 8, "image_size": 32},
        HALF,
        HALF,
        32,
    ),
    # Its attention's index of positions is a buffer that is not among the weights.
    "beit": model_config.Facts(
        "BeitForImageClassification",
        {
            "model_type": "beit",
            **SMALL,
            "patch_size": 8,
            "image_size": 32,
            "use_relative_position_bias": True,
        },
        HALF,
        HALF,
        32,
    ),
    "swinv2": model_config.Facts(
        "Swinv2ForImageClassification",
        {
            "model_type": "swinv2",
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "patch_size": 4,
            "window_size": 4,
            "image_size": 32,
        },
        HALF,
        HALF,
        32,
    ),
}
QUICK = ("resnet18", "mobilenetv2", "vits16r224", *TINY)
OTHERS = [name for name in sorted(names.models(TASK)) if name not in QUICK]


def built(name: str) -> nn.Module:
    facts = TINY[name].to_json() if name in TINY else None
    size = 224 if name in OTHERS else 32
    return rebuild(TASK, f"tiny/{name}" if facts else name, 3, size, facts).module.eval()


def check(name: str) -> None:
    torch.manual_seed(3)
    goal = built(name)
    before = torch.random.get_rng_state()
    with blank():
        empty = built(name)
    assert torch.equal(before, torch.random.get_rng_state()), "random numbers were drawn"
    own = dict(goal.named_buffers())
    assert own.keys() == dict(empty.named_buffers()).keys()
    for buffer, value in empty.named_buffers():
        assert torch.equal(value, own[buffer]), buffer
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.fill_(torch.nan)
    empty.load_state_dict(goal.state_dict(), strict=True)
    images = torch.rand(2, 3, 224 if name in OTHERS else 32, 224 if name in OTHERS else 32)
    with torch.inference_mode():
        assert torch.equal(empty(images), goal(images))


@pytest.mark.parametrize("name", QUICK)
def test_a_network_of_each_builder_answers_the_same(name: str) -> None:
    check(name)


@pytest.mark.parametrize(
    "name",
    [
        "fasterrcnn_resnet18_fpn",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("yolov5", "retinanet_resnet50_fpn", "maskrcnn_resnet18_fpn")
        ),
    ],
)
def test_a_detector_answers_the_same(name: str) -> None:
    task = "image-instance-segmentation" if name.startswith("mask") else "image-object-detection"
    options = {"trained": True, "model_size": "small", "box_score_threshold": 0.001}
    torch.manual_seed(3)
    goal = rebuild(task, name, 2, options, None).module.eval()
    before = torch.random.get_rng_state()
    with blank():
        empty = rebuild(task, name, 2, options, None).module.eval()
    assert torch.equal(before, torch.random.get_rng_state()), "random numbers were drawn"
    own = goal.state_dict()
    for buffer, value in goal.named_buffers():
        assert buffer in own or torch.equal(value, empty.get_buffer(buffer)), buffer
    empty.load_state_dict(own, strict=True)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        (found,), (wanted,) = empty(images, [(64, 64)]), goal(images, [(64, 64)])
    assert len(wanted) > 0
    assert torch.equal(found.boxes, wanted.boxes) and torch.equal(found.scores, wanted.scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_network_answers_the_same(name: str) -> None:
    check(name)


def test_outside_networks_begin_at_random_as_ever() -> None:
    with blank(), pytest.raises(KeyError):
        raise KeyError
    torch.manual_seed(3)
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    assert not torch.equal(one.weight, other.weight)
    assert one.weight.abs().max() <= 0.5 and one.weight.std() > 0.05


def test_a_predictor_draws_no_random_numbers(tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = built("resnet18")
    save_file(plain(module), tmp_path / "model.safetensors")
    (tmp_path / "labels.json").write_text(json.dumps(["a", "b", "c"]))
    (tmp_path / "settings.json").write_text(json.dumps({"valid_resize_size": 32, "valid_crop_size": 32}))
    before = torch.random.get_rng_state()
    found = Predictor(tmp_path, {"task": TASK, "model_name": "resnet18"}).module
    assert torch.equal(before, torch.random.get_rng_state())
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(found(images), module(images))
