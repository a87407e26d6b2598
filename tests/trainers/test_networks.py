from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from amlocal.compat import names
from amlocal.trainers import registry
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import weights
from amlocal.trainers.models.timm import build, freeze

TASK = "image-classification"
AVAILABLE = [row for row in names.models(TASK).values() if row.available]


def test_every_available_model_has_a_builder_and_every_task_a_trainer_and_a_predictor() -> None:
    assert {row.builder for row in AVAILABLE} == set(registry.BUILDERS)
    assert set(registry.TASKS) == set(registry.PREDICTORS) == set(names.tasks())
    for task in registry.TASKS:
        assert callable(registry.task(task))
        assert callable(registry.predictor(task))


@pytest.mark.parametrize("row", AVAILABLE, ids=lambda row: row.name)
def test_available_models_are_built_as_the_table_says(row: names.Model) -> None:
    network = registry.builder(row.builder)(row, 1000, None)
    count = sum(p.numel() for p in network.module.parameters()) / 1e6
    assert count == pytest.approx(row.parameters, abs=0.06)
    assert network.module.pretrained_cfg["hf_hub_id"] == row.hub
    assert network.module(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)


@pytest.mark.parametrize(
    ("name", "stages", "stem"), [("resnet18", 5, "conv1"), ("mobilenetv2", 19, "conv_stem")]
)
def test_the_first_layers_are_frozen_in_azures_order(name: str, stages: int, stem: str) -> None:
    network = build(names.model(TASK, name), 4, None)
    assert len(network.stages) == stages
    covered = {id(p) for stage in network.stages for part in stage for p in part.parameters()}
    head = {id(p) for p in network.module.get_classifier().parameters()}
    assert covered | head == {id(p) for p in network.module.parameters()}

    assert freeze(network, None) == 0
    assert all(p.requires_grad for p in network.module.parameters())
    assert freeze(network, 1) == 1
    still = {n for n, p in network.module.named_parameters() if not p.requires_grad}
    assert still == {f"{stem}.weight", "bn1.weight", "bn1.bias"}
    assert freeze(network, 99) == stages
    assert {id(p) for p in network.module.parameters() if p.requires_grad} == head
    assert freeze(network, 0) == 0
    assert all(p.requires_grad for p in network.module.parameters())


def published(path: Path, architecture: str, classes: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    tensors = {
        k: v.clone() for k, v in timm.create_model(architecture, num_classes=classes).state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2"])
@pytest.mark.parametrize("classes", [7, 4])
def test_published_weights_are_loaded_and_their_head_is_not(tmp_path: Path, name: str, classes: int) -> None:
    row = names.model(TASK, name)
    tensors = published(tmp_path / row.weights, row.architecture, classes)
    network = build(row, 4, weights.obtain(row, tmp_path, "error"))
    head = f"{network.module.pretrained_cfg['classifier']}."
    for key, tensor in network.module.state_dict().items():
        if key.startswith(head):
            assert tensor.shape[0] == 4
            assert key.endswith("bias") or not torch.equal(tensor, tensors[key][:4])
        else:
            assert torch.equal(tensor, tensors[key]), key


def test_weights_of_another_network_are_refused_with_an_example(tmp_path: Path) -> None:
    row = names.model(TASK, "resnet18")
    published(tmp_path / "resnet18.safetensors", "mobilenetv2_100", 4)
    with pytest.raises(
        TrainingError, match=r"resnet18\.safetensors does not fit resnet18.*e\.g\. conv1\.weight"
    ):
        build(row, 4, tmp_path / "resnet18.safetensors")


def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.safetensors"
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(TrainingError, match="not a readable safetensors file"):
        build(names.model(TASK, "resnet18"), 4, path)


def test_missing_weights_are_an_error_that_says_where_to_put_them(tmp_path: Path) -> None:
    row = names.model(TASK, "resnet18")
    with pytest.raises(TrainingError) as caught:
        weights.obtain(row, tmp_path, "error")
    assert str(tmp_path / "resnet18.safetensors") in str(caught.value)
    assert "advanced_settings" in str(caught.value)


def test_random_weights_instead_are_announced_loudly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weights.obtain(names.model(TASK, "resnet18"), tmp_path, "random") is None
    said = capsys.readouterr().out
    assert said.startswith("WARNING: ")
    assert "RANDOM WEIGHTS" in said


def test_without_a_network_the_search_ends_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for variable in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TrainingError, match="were not found"):
        weights.obtain(names.model(TASK, "resnet18"), tmp_path, "error")
