"""Every name of MMDetection's zoo is known: as a network that can be trained, or refused with the reason."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from amlocal.compat import mmdetection, names, weights

BOXES, MASKS = "image-object-detection", "image-instance-segmentation"
CURATED = {
    "mmd-3x-sparse-rcnn_r50_fpn_300-proposals_crop-ms-480-800-3x_coco": BOXES,
    "mmd-3x-sparse-rcnn_r101_fpn_300-proposals_crop-ms-480-800-3x_coco": BOXES,
    "mmd-3x-deformable-detr_refine_twostage_r50_16xb2-50e_coco": BOXES,
    "mmd-3x-vfnet_r50-mdconv-c3-c5_fpn_ms-2x_coco": BOXES,
    "mmd-3x-vfnet_x101-64x4d-mdconv-c3-c5_fpn_ms-2x_coco": BOXES,
    "mmd-3x-yolof_r50_c5_8x8_1x_coco": BOXES,
    "mmd-3x-mask-rcnn_swin-t-p4-w7_fpn_1x_coco": MASKS,
    "mmd-3x-rtmdet-ins_x_8xb16-300e_coco": MASKS,
}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are the same whether or not the extra is there."""
    monkeypatch.setattr("amlocal.compat.extras.missing", lambda builder: "")


def index() -> tuple[Path, list[dict[str, Any]]]:
    found = find_spec("mmdet")
    if found is None or found.origin is None:
        pytest.skip("mmdet is not installed")
    folder = Path(found.origin).parent / ".mim" / "configs"
    models: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*/metafile.yml")):
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
        models += read if isinstance(read, list) else read.get("Models") or []
    return folder, models


def test_every_name_of_the_zoos_index_is_known() -> None:
    folder, models = index()
    wanted = {model["Name"].removesuffix(".py") for model in models}
    assert len(wanted) > 500
    assert wanted == set(mmdetection.zoo_names())
    for name in wanted:
        entry = mmdetection.entry(name)
        assert entry is not None and entry.name == name
        if entry.refused:
            assert entry.task == "" and len(entry.refused) > 10
        else:
            assert (folder / f"{entry.config}.py").is_file(), name
            assert entry.task in (BOXES, MASKS)


OLDER = (Path(__file__).parent / "mmdetection_3_1_0.txt").read_text(encoding="utf-8").splitlines()[1:]


def test_every_name_of_the_older_index_can_be_trained_or_is_refused_with_the_reason() -> None:
    """The registry's curated models were made with 3.1.0."""
    assert len(OLDER) == len(set(OLDER)) == 559
    refused = 0
    for name in OLDER:
        for written in (name, f"mmd-3x-{name}"):
            entry = mmdetection.entry(written)
            assert entry is not None, name
            if entry.refused:
                refused += 1
                with pytest.raises(names.BadParameter, match=re.escape(entry.refused)):
                    names.model(BOXES, written)
            else:
                row = names.model(entry.task, written)
                assert (row.builder, row.architecture) == ("mmdet", entry.config)
    assert 0 < refused < 2 * len(OLDER) / 4


def test_the_table_says_of_weights_and_tasks_what_the_index_says() -> None:
    for model in index()[1]:
        entry = mmdetection.entry(model["Name"].removesuffix(".py"))
        assert entry is not None
        tasks = {result["Task"] for result in model.get("Results", [])}
        if not entry.refused:
            assert entry.task == (MASKS if "Instance Segmentation" in tasks else BOXES)
            assert entry.weights in (model.get("Weights"), "") or entry.name.startswith("mask-rcnn_regnetx")
            assert "Object Detection" in tasks or entry.task == MASKS


@pytest.mark.parametrize("name", CURATED)
def test_curated_names_are_networks_of_the_zoo(name: str) -> None:
    row = names.model(CURATED[name], name)
    assert (row.name, row.builder, row.family, row.gradient_clip) == (name, "mmdet", "mmdet", "norm")
    assert row.url.startswith("https://download.openmmlab.com/mmdetection/") and row.url.endswith(".pth")
    assert weights.row_of(name) == row
    values = names.effective(CURATED[name], name, {})
    expected = (1e-5, 2) if CURATED[name] == BOXES else (9.67e-5, 1)
    assert (values["learning_rate"], values["training_batch_size"]) == expected
    other = MASKS if CURATED[name] == BOXES else BOXES
    with pytest.raises(names.BadParameter, match=f"{name} is for image_"):
        names.model(other, name)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("atss_r50_fpn_1x_coco", "atss/atss_r50_fpn_1x_coco"),
        ("mmd-3x-atss_r50_fpn_1x_coco", "atss/atss_r50_fpn_1x_coco"),
        ("yolof_r50_c5_8x8_1x_coco", "yolof/yolof_r50-c5_8xb8-1x_coco"),
        ("yolof_r50-c5_8xb8-1x_coco", "yolof/yolof_r50-c5_8xb8-1x_coco"),
        (
            "mmd-3x-deformable-detr_refine_twostage_r50_16xb2-50e_coco",
            "deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco",
        ),
    ],
)
def test_a_network_has_the_name_of_the_index_of_its_config_and_of_azure(name: str, config: str) -> None:
    assert names.model(BOXES, name).architecture == config


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("htc_r50_fpn_1x_coco", "needs semantic segmentation maps beside the objects"),
        ("glip_atss_swin-l_fpn_dyhead_pretrain_mixeddata", "needs a language model, which it would download"),
        ("rpn_r50_fpn_1x_coco", "finds regions without labels"),
        ("mmd-3x-panoptic_fpn_r50_fpn_1x_coco", "needs maps of what is behind the objects"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(names.BadParameter, match=reason):
        names.model(BOXES, name)


def test_other_names_are_not_of_the_zoo() -> None:
    for name in ("google/vit-base-patch16-224", "mmd-3x-", "", "atss", "../atss_r50_fpn_1x_coco"):
        assert mmdetection.entry(name) is None


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amlocal.compat.extras.missing", lambda builder: f"the extra {builder}")
    with pytest.raises(names.BadParameter, match="atss_r50_fpn_1x_coco needs the extra mmdet"):
        names.model(BOXES, "atss_r50_fpn_1x_coco")
