from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch.utils.flop_counter import FlopCounterMode

from amlocal.compat import names
from amlocal.trainers import registry
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import weights
from amlocal.trainers.models.loading import load_intersecting
from amlocal.trainers.models.network import rebuild
from amlocal.trainers.models.timm import build

TASK = "image-classification"
AVAILABLE = [row for row in names.models(TASK).values() if row.available]
TIMM = [row for row in AVAILABLE if row.builder == "timm"]


def test_every_available_model_has_a_builder_and_every_task_a_trainer_and_a_predictor() -> None:
    assert set(registry.TASKS) == set(registry.PREDICTORS) == set(names.tasks())
    # MMDetection's networks have no row in the table of models: their names are those of its zoo.
    builders = {"mmdet"}
    for task in registry.TASKS:
        assert callable(registry.task(task))
        assert callable(registry.predictor(task))
        rows = [row for row in names.models(task).values() if row.available]
        assert rows
        builders |= {row.builder for row in rows}
    assert builders == set(registry.BUILDERS)
    for name in builders:
        assert callable(registry.builder(name))
    assert names.models(TASK).keys() == names.models("image-classification-multilabel").keys()


@pytest.mark.parametrize("row", AVAILABLE, ids=lambda row: row.name)
def test_available_models_are_built_as_the_table_says(row: names.Model) -> None:
    side = row.image_size or 224
    # On "meta" a network has shapes and no numbers: the largest is counted in a second.
    with torch.device("meta"):
        network = registry.builder(row.builder)(row, 1000, None, side)
    count = sum(p.numel() for p in network.module.parameters()) / 1e6
    assert count == pytest.approx(row.parameters, abs=0.06)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        answer = network.module.eval()(torch.empty(1, 3, side, side, device="meta"))
    assert answer.shape == (1, 1000)
    assert counter.get_total_flops() / 2e9 == pytest.approx(row.gmacs, abs=0.006)
    if row.builder == "timm":
        assert network.module.pretrained_cfg["hf_hub_id"] == row.hub
    else:
        assert (network.mean, network.std) == (row.mean, row.std)
    fixed = row.family == "vit" or row.builder == "huggingface"
    assert network.image_size == (side if fixed else None)


def published(path: Path, architecture: str, classes: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    tensors = {
        k: v.clone() for k, v in timm.create_model(architecture, num_classes=classes).state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return tensors


def check_all_but_the_head(
    network: Any, tensors: dict[str, torch.Tensor], apart: tuple[str, ...] = ()
) -> None:
    head = f"{network.module.pretrained_cfg['classifier']}."
    for key, tensor in network.module.state_dict().items():
        if key.startswith(head):
            assert tensor.shape[0] == 4
            assert key.endswith("bias") or not torch.equal(tensor, tensors[key][:4])
        elif key not in apart:
            assert torch.equal(tensor, tensors[key]), key


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2"])
@pytest.mark.parametrize("classes", [7, 4])
def test_published_weights_are_loaded_and_their_head_is_not(tmp_path: Path, name: str, classes: int) -> None:
    row = names.model(TASK, name)
    tensors = published(tmp_path / row.weights, row.architecture, classes)
    check_all_but_the_head(build(row, 4, weights.obtain(row, tmp_path, "error"), 64), tensors)


@pytest.mark.slow
@pytest.mark.parametrize("row", TIMM, ids=lambda row: row.name)
def test_published_weights_of_every_model_are_loaded(tmp_path: Path, row: names.Model) -> None:
    tensors = published(tmp_path / row.weights, row.architecture, 1000)
    check_all_but_the_head(build(row, 4, tmp_path / row.weights, 224), tensors)


def test_a_vit_for_another_size_gets_the_position_embedding_resampled(tmp_path: Path) -> None:
    row = names.model(TASK, "vits16r224")
    tensors = published(tmp_path / row.weights, row.architecture, 10)
    assert tensors["pos_embed"].shape == (1, 1 + 14 * 14, 384)
    network = build(row, 4, tmp_path / row.weights, 48)
    check_all_but_the_head(network, tensors, apart=("pos_embed",))
    found = network.module.state_dict()["pos_embed"]
    assert found.shape == (1, 1 + 3 * 3, 384)
    assert torch.equal(found, resample_abs_pos_embed(tensors["pos_embed"], new_size=[3, 3]))
    assert torch.equal(found[:, 0], tensors["pos_embed"][:, 0])
    assert network.image_size == 48
    assert network.module.eval()(torch.zeros(1, 3, 48, 48)).shape == (1, 4)
    with pytest.raises(AssertionError):
        network.module(torch.zeros(1, 3, 64, 64))


def test_weights_of_another_network_are_refused_with_an_example(tmp_path: Path) -> None:
    row = names.model(TASK, "resnet18")
    published(tmp_path / "resnet18.safetensors", "mobilenetv2_100", 4)
    with pytest.raises(
        TrainingError, match=r"resnet18\.safetensors does not fit resnet18.*e\.g\. conv1\.weight"
    ):
        build(row, 4, tmp_path / "resnet18.safetensors", 64)


def test_the_weights_of_a_wider_vit_are_refused(tmp_path: Path) -> None:
    row = names.model(TASK, "vits16r224")
    tensors = timm.create_model("vit_tiny_patch16_224", num_classes=4).state_dict()
    save_file(dict(tensors), tmp_path / row.weights)
    with pytest.raises(
        TrainingError, match=r"vits16r224\.safetensors does not fit vits16r224.*another shape"
    ):
        build(row, 4, tmp_path / row.weights, 48)


def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.safetensors"
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(TrainingError, match="not a readable safetensors file"):
        build(names.model(TASK, "resnet18"), 4, path, 64)


def test_an_earlier_model_with_other_labels_gives_all_but_its_head() -> None:
    row = names.model(TASK, "resnet18")
    torch.manual_seed(1)
    earlier = build(row, 5, None, 64).module.state_dict()
    network = build(row, 3, None, 64).module
    head = network.fc.weight.clone()
    found = load_intersecting(network, {**earlier, "extra.weight": torch.zeros(2)})
    assert found.skipped == ["fc.weight", "fc.bias", "extra.weight"]
    assert found.loaded == len(earlier) - 2
    assert torch.equal(network.fc.weight, head)
    assert torch.equal(network.layer3[0].conv1.weight, earlier["layer3.0.conv1.weight"])


def test_an_earlier_model_of_another_architecture_is_refused() -> None:
    earlier = build(names.model(TASK, "vits16r224"), 3, None, 32).module.state_dict()
    network = build(names.model(TASK, "resnet18"), 3, None, 32).module
    # resnet18 has counters of batches and the other has none: add one that fits.
    earlier["bn1.num_batches_tracked"] = torch.tensor(7)
    with pytest.raises(TrainingError, match=r"none of the .* fits this network; model_name must be the same"):
        load_intersecting(network, earlier)
    assert network.bn1.num_batches_tracked == 0


def test_a_network_of_the_table_is_rebuilt_by_its_name_alone() -> None:
    network = rebuild(TASK, "vits16r224", classes=3, building=32, facts=None)
    assert network.module.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(names.BadParameter, match="did you mean"):
        rebuild(TASK, "vits16r22", classes=3, building=32, facts=None)


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
