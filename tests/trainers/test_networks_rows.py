"""Names of models, what their config.json may say, their defaults, and which image sizes they take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amlocal.compat import model_config, names

TASK = "image-classification"
MULTILABEL = "image-classification-multilabel"
SIZES = ("training_crop_size", "validation_crop_size", "validation_resize_size")


@pytest.mark.parametrize("task", [TASK, MULTILABEL])
@pytest.mark.parametrize(
    ("name", "weights", "hub"),
    [
        ("org/name", "org--name/model.safetensors", "org/name"),
        ("a/b.c_d-e", "a--b.c_d-e/model.safetensors", "a/b.c_d-e"),
        ("my-flowers", "my-flowers/model.safetensors", ""),
        ("org--name", "org--name/model.safetensors", ""),
        ("resnet50-flowers", "resnet50-flowers/model.safetensors", ""),
    ],
)
def test_a_hugging_face_model_is_named_by_its_repository_or_its_folder(
    task: str, name: str, weights: str, hub: str
) -> None:
    row = names.model(task, name)
    assert (row.name, row.weights, row.hub, row.builder) == (name, weights, hub, "huggingface")
    assert (row.parameters, row.gmacs, row.config, row.gradient_clip) == (None, None, None, "norm")
    assert task in row.tasks


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", ".", "..", "../x", "/etc/passwd", "a/../b", "a/..", "./a", "a/b/c", "a//b", "/a", "a/"),
        *(
            ".hidden",
            "a/.hidden",
            "a..b",
            "a--b/c",
            "a/b--c",
            "a\\b",
            "C:\\x",
            "a b",
            "a\nb",
            "a/b\n",
            "a\0b",
        ),
        *(
            "ä/b",
            "~/x",
            "$HOME",
            "a:b",
            "http://x/y",
            "a/b@main",
            "-a/b",
            "a/b-",
            "a/b.",
            "x" * 97,
            "x" * 10**6,
        ),
    ],
)
def test_a_name_that_could_be_a_path_is_refused(name: str, tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(names.BadParameter) as caught:
            names.model(TASK, name, folder)
        assert caught.value.parameter == "model_name"
        assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["ResNet-18", "resnet81", "VITB16R224", "vit-b16-r224", "seresnxt"])
def test_a_slip_of_the_pen_is_not_taken_for_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    for folder in (None, tmp_path):
        with pytest.raises(names.BadParameter, match="did you mean "):
            names.model(TASK, name, folder)


def test_the_weights_folder_decides_whether_a_model_is_there(tmp_path: Path) -> None:
    with pytest.raises(names.BadParameter, match="or the name of a folder in "):
        names.model(TASK, "my-flowers", tmp_path)
    with pytest.raises(names.BadParameter, match=r"org--name/config\.json.*model\.safetensors"):
        names.model(TASK, "org/name", tmp_path)
    write(tmp_path / "org--name")
    row = names.model(TASK, "org/name", tmp_path)
    assert (row.architecture, row.image_size) == ("ViTForImageClassification", 64)
    assert row.config == {"model_type": "vit", "image_size": 64, "hidden_size": 32}
    assert row.mean == (0.485, 0.456, 0.406)


def write(folder: Path, preprocessor: Any = None, **changes: Any) -> Path:
    config = {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "image_size": 64,
        "hidden_size": 32,
        "id2label": {"0": "cat"},
        "auto_map": {"AutoModel": "x--y.Z"},
        "transformers_version": "4.0",
    }
    folder.mkdir(exist_ok=True, parents=True)
    kept = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


@pytest.mark.parametrize(
    ("changes", "preprocessor", "said"),
    [
        ({"model_type": None}, None, "names a model_type"),
        ({"model_type": 3}, None, "names a model_type"),
        ({"architectures": None}, None, "must name a ...ForImageClassification"),
        ({"architectures": ["ViTModel"]}, None, "not 'ViTModel'"),
        ({"architectures": "ViTForImageClassification"}, None, "must name a ...ForImageClassification"),
        ({"num_channels": 1}, None, "RGB"),
        ({"image_size": "224"}, None, "square images of up to 4096"),
        ({"image_size": 10**9}, None, "square images of up to 4096"),
        ({"image_size": [224, 192]}, None, "square images"),
        ({"image_size": True}, None, "square images"),
        ({}, {"image_mean": [0.5, 0.5]}, "three numbers from 0 to 1 as image_mean"),
        ({}, {"image_std": [0.5, 0.5, 0]}, "three numbers from 0 to 1 as image_std"),
        ({}, {"image_std": ["x", 1, 1]}, "image_std"),
        ({}, [], "another thing"),
    ],
)
def test_a_config_that_cannot_be_used_says_what_is_wrong(
    tmp_path: Path, changes: dict[str, Any], preprocessor: Any, said: str
) -> None:
    with pytest.raises(names.BadParameter, match=said) as caught:
        model_config.read(write(tmp_path, preprocessor, **changes), "org/name")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"{", "JSON"), (b"[" * 10**5, "JSON"), (b"\xff", "JSON"), (b" " * (9 * 2**20), "smaller")],
)
def test_a_config_that_is_no_json_or_too_large_is_refused(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(names.BadParameter, match=said):
        model_config.read(tmp_path, "org/name")


def test_nothing_but_numbers_of_the_network_is_kept_of_a_config(tmp_path: Path) -> None:
    nested = {"hidden_size": 8, "_attn_implementation": "x/y", "auto_map": {}, "image_size": 64}
    facts = model_config.read(write(tmp_path, vision_config=nested, image_size=[96, 96]), "org/name")
    assert facts.image_size == 96
    assert facts.config["vision_config"] == {"hidden_size": 8, "image_size": 64}
    assert set(facts.config) == {"model_type", "image_size", "hidden_size", "vision_config"}
    assert model_config.Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def sizes(row: names.Model, training: int, validation: int, resize: int, given: tuple[str, ...] = ()) -> Any:
    values = dict(zip(SIZES, (training, validation, resize), strict=True))
    notices = names.apply_size_rules(row, values, given)
    return tuple(values.values()), notices


def test_most_networks_take_any_size() -> None:
    for name in ("resnet18", "mobilenetv2", "resnest101"):
        assert sizes(names.model(TASK, name), 96, 128, 200) == ((96, 128, 200), [])


def test_seresnext_takes_one_size_whatever_was_asked_for() -> None:
    row = names.model(TASK, "seresnext")
    assert sizes(row, 224, 224, 256) == ((224, 224, 256), [])
    found, notices = sizes(row, 96, 224, 300)
    assert found == (224, 224, 256)
    assert notices == [
        "seresnext always takes training_crop_size 224, validation_resize_size 256 "
        "(instead of training_crop_size 96, validation_resize_size 300)"
    ]


def test_a_vit_is_trained_at_the_validation_crop() -> None:
    row = names.model(TASK, "vitb16r224")
    assert sizes(row, 224, 224, 256) == ((224, 224, 256), [])
    found, notices = sizes(row, 128, 64, 72)
    assert found == (64, 64, 72)
    assert notices == [
        "vitb16r224 is built for one size and takes training_crop_size 64 (instead of training_crop_size 128)"
    ]
    with pytest.raises(names.BadParameter, match=r"validation_crop_size: 15 .*at least 16"):
        sizes(row, 224, 15, 16)


@pytest.mark.parametrize(
    ("kind", "own", "asked", "given", "found", "noticed"),
    [
        ("vit", 224, (224, 224, 224), (), 224, False),
        ("vit", 384, (224, 224, 224), (), 384, True),
        ("vit", 384, (224, 224, 224), ("training_crop_size",), 224, False),
        ("vit", 224, (96, 224, 224), ("training_crop_size",), 96, True),
        ("vit", 224, (96, 224, 224), (), 96, True),
        ("levit", 224, (96, 96, 96), ("training_crop_size",), 224, True),
        ("regnet", None, (224, 224, 224), (), 224, False),
        ("regnet", None, (96, 224, 256), (), 96, True),
    ],
)
def test_a_hugging_face_model_is_fed_one_size(
    kind: str, own: int | None, asked: Any, given: Any, found: int, noticed: bool
) -> None:
    half = (0.5, 0.5, 0.5)
    facts = model_config.Facts("XForImageClassification", {"model_type": kind}, half, half, own)
    got, notices = sizes(names.restored(TASK, "org/name", facts), *asked, given)
    assert got == (found, found, found)
    assert bool(notices) == noticed
    assert all(notice.startswith("org/name ") for notice in notices)


def test_the_curated_models_take_their_own_size_by_default() -> None:
    expected = {"microsoft/swinv2-base-patch4-window12-192-22k": 192}
    curated = [row for row in names.models(TASK).values() if row.builder == "huggingface"]
    assert len(curated) == 4
    for row in curated:
        values = names.effective(TASK, row.name, {})
        assert names.apply_size_rules(row, values) == []
        assert {values[size] for size in SIZES} == {expected.get(row.name, 224)} == {row.image_size}
        assert (row.config or {})["image_size"] == row.image_size


# Azure's fine-tuning components: epochs, batch, learning rate, weight decay.
@pytest.mark.parametrize("task", [TASK, MULTILABEL])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("microsoft/beit-base-patch16-224-pt22k-ft22k", (15, 72, 9.97e-5, 1.2e-7)),
        ("google/vit-base-patch16-224", (15, 72, 5.02e-5, 6.9e-7)),
        ("facebook/deit-base-patch16-224", (15, 60, 5e-5, 0.0)),
        ("microsoft/swinv2-base-patch4-window12-192-22k", (5, 12, 3.39e-5, 1.6e-8)),
        ("org/name", (15, 8, 5e-5, 0.0)),
        ("my-flowers", (15, 8, 5e-5, 0.0)),
    ],
)
def test_defaults_of_hugging_face_models_are_those_of_azures_components(
    task: str, name: str, expected: tuple[Any, ...]
) -> None:
    found = names.effective(task, name, {})
    keys = ("number_of_epochs", "training_batch_size", "learning_rate", "weight_decay")
    assert tuple(found[key] for key in keys) == expected
    assert found["validation_batch_size"] == found["training_batch_size"]
    assert (found["optimizer"], found["learning_rate_scheduler"]) == ("adamw", "warmup_cosine")
    assert (found["warmup_cosine_lr_warmup_epochs"], found["warmup_cosine_lr_cycles"]) == (0, 0.5)
    assert (found["early_stopping"], found["gradient_accumulation_step"]) == (False, 1)
    assert names.effective(task, name, {"optimizer": "sgd", "number_of_epochs": 2})["optimizer"] == "sgd"


def test_what_was_trained_can_be_named_again_without_its_folder() -> None:
    half = (0.5, 0.5, 0.5)
    facts = model_config.Facts("ViTForImageClassification", {"model_type": "vit"}, half, half, 64)
    row = names.restored(TASK, "my-flowers", facts)
    assert (row.architecture, row.config, row.image_size) == (facts.architecture, facts.config, 64)
    assert names.restored(TASK, "resnet18", None) == names.model(TASK, "resnet18")
    assert names.restored(TASK, "google/vit-base-patch16-224", facts).image_size == 224
    with pytest.raises(names.BadParameter):
        names.restored(TASK, "../x", facts)
