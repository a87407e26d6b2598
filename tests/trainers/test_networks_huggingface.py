"""Hugging Face models from a folder, as they are published: config.json, model.safetensors, preprocessor."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from amlocal.compat import model_config, names
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import huggingface

TASK = "image-classification"
TINY = {
    "vit": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
    },
    "swinv2": {
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 4],
        "window_size": 4,
        "image_size": 32,
        "patch_size": 4,
    },
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "levit": {
        "image_size": 64,
        "hidden_sizes": [16, 32, 48],
        "num_attention_heads": [1, 2, 3],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
}
TINY["beit"] = {**TINY["vit"], "use_relative_position_bias": True}
TINY["deit"] = TINY["vit"]


def publish(folder: Path, kind: str, classes: int, **more: Any) -> dict[str, torch.Tensor]:
    """A folder as `save_pretrained` writes it; returns the tensors as the network names them."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as CLASSES

    torch.manual_seed(4)
    config = CONFIG_MAPPING[kind](**TINY[kind], num_labels=classes, **more)
    found = CLASSES[type(config)]
    module = (found[0] if isinstance(found, tuple) else found)(config)
    module.save_pretrained(folder)
    return dict(module.state_dict())


def change(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def row_in(weights_dir: Path, name: str = "org/tiny") -> names.Model:
    return names.model(TASK, name, weights_dir)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every try to reach anything."""
    tries: list[Any] = []

    def refuse(*address: Any, **_: Any) -> None:
        tries.append(address)
        raise OSError("no network in this test")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tries


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("classes", [7, 3])
def test_published_weights_are_loaded_without_their_head_and_without_a_look_up(
    tmp_path: Path, no_network: list[Any], kind: str, classes: int
) -> None:
    tensors = publish(tmp_path / "org--tiny", kind, classes)
    row = row_in(tmp_path)
    assert row.weights == "org--tiny/model.safetensors"
    side = row.image_size or 64
    network = huggingface.build(row, 3, tmp_path / row.weights, side)
    differing = [
        name
        for name, tensor in network.module.state_dict().items()
        if tensor.shape != tensors[name].shape or not torch.equal(tensor, tensors[name])
    ]
    assert differing
    assert all(name.startswith("classifier.") and name.endswith(("weight", "bias")) for name in differing)
    assert network.module.training
    assert network.module(torch.zeros(2, 3, side, side)).shape == (2, 3)
    assert not no_network


def test_the_curated_beit_file_has_older_names_and_is_understood(tmp_path: Path) -> None:
    publish(tmp_path / "org--tiny", "beit", 3)
    published = set(load_file(tmp_path / "org--tiny" / "model.safetensors"))
    assert "beit.encoder.layer.0.attention.attention.query.weight" in published


def test_mean_and_deviation_come_from_the_preprocessor(tmp_path: Path) -> None:
    publish(tmp_path / "mine", "resnet", 3)
    preprocessor = {
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "size": {"shortest_edge": 64},
    }
    (tmp_path / "mine" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    row = row_in(tmp_path, "mine")
    assert (row.hub, row.builder, row.parameters) == ("", "huggingface", None)
    network = huggingface.build(row, 3, None, 40)
    assert (network.mean, network.std, network.image_size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), None)
    change(tmp_path / "mine" / "preprocessor_config.json", do_normalize=False)
    plain = huggingface.build(row_in(tmp_path, "mine"), 3, None, 40)
    assert (plain.mean, plain.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_the_config_beside_the_weights_serves_as_well(tmp_path: Path) -> None:
    publish(tmp_path / "org--tiny", "vit", 3)
    row = names.model(TASK, "org/tiny")
    assert row.config is None
    network = huggingface.build(row, 3, tmp_path / row.weights, 32)
    assert network.facts is not None
    assert network.facts["config"]["hidden_size"] == 32
    with pytest.raises(TrainingError, match=r"org/tiny is not in amlocal's table.*org--tiny/config\.json"):
        huggingface.build(row, 3, None, 32)


def test_a_trained_model_is_built_again_from_what_was_kept_with_it(tmp_path: Path) -> None:
    publish(tmp_path / "org--tiny", "swinv2", 5)
    network = huggingface.build(row_in(tmp_path), 3, None, 48)
    kept = json.loads(json.dumps(network.facts))
    (tmp_path / "org--tiny" / "config.json").unlink()
    row = names.restored(TASK, "org/tiny", model_config.Facts.from_json(kept))
    again = huggingface.build(row, 3, None, 48)
    again.module.load_state_dict(network.module.state_dict(), strict=True)
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(again.module.eval()(images), network.module.eval()(images))
    assert (again.mean, again.std, again.image_size) == (network.mean, network.std, 48)


def test_code_and_addresses_in_a_config_are_left_alone(tmp_path: Path, no_network: list[Any]) -> None:
    publish(tmp_path / "org--tiny", "vit", 3)
    change(
        tmp_path / "org--tiny" / "config.json",
        auto_map={"AutoModelForImageClassification": "evil--model.Evil"},
        attn_implementation="kernels-community/flash-attn",
        _attn_implementation="kernels-community/flash-attn",
        quantization_config={"quant_method": "gptq"},
        _name_or_path="https://example.com/x",
        trust_remote_code=True,
    )
    row = row_in(tmp_path)
    network = huggingface.build(row, 3, tmp_path / row.weights, 32)
    assert type(network.module).__module__ == "transformers.models.vit.modeling_vit"
    assert network.module(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert not no_network
    assert not {"auto_map", "quantization_config", "_name_or_path"} & set(row.config or {})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"architectures": ["EvilForImageClassification"]}, "for model_type 'vit' that is ViTForImageClass"),
        (
            {"architectures": ["BeitForImageClassification"]},
            "BeitForImageClassification with model_type 'vit'",
        ),
        ({"model_type": "nothing"}, "with model_type 'nothing' is no image classifier"),
        (
            {"model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"]},
            "is no image classifier of the installed transformers",
        ),
        ({"hidden_act": "nonsense"}, "cannot be built: .*nonsense"),
        ({"patch_size": "x"}, "cannot be built: "),
    ],
)
def test_a_config_that_cannot_be_built_is_an_error_that_says_why(
    tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    publish(tmp_path / "org--tiny", "vit", 3)
    change(tmp_path / "org--tiny" / "config.json", **keys)
    with pytest.raises(TrainingError, match=said) as caught:
        huggingface.build(row_in(tmp_path), 3, None, 32)
    assert "org/tiny" in str(caught.value) or keys.keys() & {"architectures", "model_type"}


def test_a_file_of_another_network_is_refused_with_an_example(tmp_path: Path) -> None:
    publish(tmp_path / "org--tiny", "vit", 3)
    row = row_in(tmp_path)
    path = tmp_path / row.weights
    tensors = load_file(path)
    wide = dict(tensors)
    name = next(name for name in wide if "intermediate.dense.weight" in name)
    wide[name] = torch.zeros(128, 32)
    save_file(wide, path)
    with pytest.raises(
        TrainingError, match=r"does not fit org/tiny .*0 tensors are missing and 1 have another"
    ):
        huggingface.build(row, 3, path, 32)
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    with pytest.raises(TrainingError, match=r"does not fit org/tiny .*1 tensors are missing and 0 have"):
        huggingface.build(row, 3, path, 32)
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(TrainingError, match="not a readable safetensors file"):
        huggingface.build(row, 3, path, 32)


def test_an_architecture_of_one_size_says_which(tmp_path: Path) -> None:
    publish(tmp_path / "org--tiny", "levit", 3)
    with pytest.raises(TrainingError, match=r"takes images of 64 pixels only; training_crop_size.*not 48"):
        huggingface.build(row_in(tmp_path), 3, None, 48)


def test_a_vit_of_transformers_gives_what_transformers_gives(tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    publish(tmp_path / "org--tiny", "vit", 3)
    row = row_in(tmp_path)
    network = huggingface.build(row, 3, tmp_path / row.weights, 32)
    theirs = ViTForImageClassification.from_pretrained(tmp_path / "org--tiny", local_files_only=True).eval()
    theirs.load_state_dict({name: network.module.state_dict()[name] for name in theirs.state_dict()})
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network.module.eval()(images), theirs(images).logits)


def test_one_that_trains_can_use_what_is_kept_of_one_that_scored(tmp_path: Path) -> None:
    publish(tmp_path / "mine", "beit", 3)
    change(tmp_path / "mine" / "config.json", patch_size=4)
    row = row_in(tmp_path, "mine")
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        huggingface.build(row, 3, None, 32).module.eval()(images)
    network = huggingface.build(row, 3, None, 32).module
    network(images).sum().backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if "relative_position" in name)
