"""Where weights are looked for on this machine, and what a user is told who has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amlocal.compat import hub, names, weights

OWN = "acme/tiny-vit"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(hub_folder: Path, repository: str, *files: str, revision: str = "abc123") -> Path:
    folder = hub_folder / ("models--" + repository.replace("/", "--"))
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    snapshot = folder / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    for file in files:
        (snapshot / file).write_bytes(b"x")
    return snapshot


def test_the_weights_folder_comes_before_the_hub_cache(tmp_path: Path, cache: Path) -> None:
    assert weights.find("resnet18", tmp_path) is None
    in_cache = cached(cache, "timm/resnet18.a1_in1k", "model.safetensors") / "model.safetensors"
    assert weights.find("resnet18", tmp_path) == in_cache
    assert weights.find_own("resnet18", tmp_path) is None
    own = tmp_path / "resnet18.safetensors"
    own.write_bytes(b"x")
    assert weights.find("resnet18", tmp_path) == weights.find_own("resnet18", tmp_path) == own
    assert weights.find("resnet18", None) == in_cache
    assert weights.find("mobilenetv2", tmp_path) is None


def test_a_hugging_face_model_has_a_folder(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "acme--tiny-vit"
    folder.mkdir()
    assert (weights.find(OWN, tmp_path), weights.config_folder(OWN, tmp_path)) == (None, None)
    (folder / "config.json").write_text("{}")
    assert weights.config_folder(OWN, tmp_path) == folder
    assert weights.find(OWN, tmp_path) is None
    (folder / "model.safetensors").write_bytes(b"x")
    assert weights.find(OWN, tmp_path) == folder / "model.safetensors"
    assert weights.row_of(OWN).weights == "acme--tiny-vit/model.safetensors"


def test_a_hugging_face_model_in_the_hubs_cache(tmp_path: Path, cache: Path) -> None:
    snapshot = cached(cache, OWN, "config.json", "model.safetensors")
    assert weights.find(OWN, tmp_path) == snapshot / "model.safetensors"
    assert weights.config_folder(OWN, tmp_path) == snapshot
    assert not weights.has_own_config(OWN, tmp_path)


def test_a_config_in_the_hubs_cache_describes_the_network(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(names.BadParameter, match=r"acme--tiny-vit/config\.json"):
        names.model("image-classification", OWN, tmp_path)
    snapshot = cached(cache, OWN)
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 32}
    (snapshot / "config.json").write_text(json.dumps(config))
    assert names.model("image-classification", OWN, tmp_path).image_size == 32
    own = tmp_path / "acme--tiny-vit" / "config.json"
    own.parent.mkdir()
    own.write_text(json.dumps({**config, "image_size": 64}))
    assert names.model("image-classification", OWN, tmp_path).image_size == 64


def test_a_folder_of_ones_own_is_on_no_hub(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "scans-2024"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert weights.row_of("scans-2024").hub == ""
    assert weights.config_folder("scans-2024", tmp_path) == folder
    text = weights.where_to_put("scans-2024", tmp_path)
    assert f"into {folder}," in text and "huggingface.co" not in text and "pull" not in text


def test_which_models_cannot_be_built_without_a_config() -> None:
    assert weights.needs_config(OWN) and weights.needs_config("scans-2024")
    assert not weights.needs_config("resnet18")
    assert not weights.needs_config("google/vit-base-patch16-224")
    assert weights.is_folder("google/vit-base-patch16-224") and not weights.is_folder("resnet18")


def test_every_known_model_and_the_folders_beside(tmp_path: Path) -> None:
    table = list(dict.fromkeys(name for task in names.tasks() for name in names.models(task)))
    assert weights.known(tmp_path / "nowhere") == table
    others = ("no-config", "-odd-", "a--b--c", "google--vit-base-patch16-224")
    for name in ("acme--tiny-vit", "scans-2024", *others):
        (tmp_path / name).mkdir()
        if name != "no-config":
            (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "resnet18.safetensors").write_bytes(b"x")
    assert weights.known(tmp_path) == [*table, OWN, "scans-2024"]


@pytest.mark.parametrize("revision", ["../../../abc123", "", "abc 123", "x" * 65, "\N{BULLET}"])
def test_a_revision_that_is_a_path_is_not_followed(tmp_path: Path, cache: Path, revision: str) -> None:
    cached(cache, "timm/resnet18.a1_in1k", "model.safetensors", revision=revision)
    assert weights.find("resnet18", tmp_path) is None


def test_links_out_of_the_weights_folder_are_not_followed(tmp_path: Path, cache: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "weights"
    for made in (outside, folder):
        made.mkdir()
    for file in ("config.json", "model.safetensors"):
        (outside / file).write_text("{}")
    (folder / "resnet18.safetensors").symlink_to(outside / "model.safetensors")
    (folder / "acme--tiny-vit").symlink_to(outside)
    (folder / "mobilenetv2.safetensors").symlink_to(folder / "mobilenetv2.safetensors")
    assert weights.find("resnet18", folder) is None
    assert weights.find("mobilenetv2", folder) is None
    assert weights.find(OWN, folder) is None and weights.config_folder(OWN, folder) is None
    assert OWN not in weights.known(folder)
    # A link that stays inside is a second name, nothing more; so is a link to the folder as a whole.
    (folder / "resnet34.safetensors").write_bytes(b"x")
    (folder / "resnet50.safetensors").symlink_to("resnet34.safetensors")
    (tmp_path / "second").symlink_to(folder)
    assert weights.find("resnet50", tmp_path / "second") == tmp_path / "second" / "resnet50.safetensors"


def test_a_folder_in_the_place_of_a_file_is_no_file(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "resnet18.safetensors").mkdir()
    assert weights.find("resnet18", tmp_path) is None


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../x",
            "/etc/passwd",
            "a/../b",
            "..",
            ".",
            "",
            "a/b/c",
            "a\0b",
            "a\nb",
            "x" * 97,
            "o/" + "y" * 5000,
        ),
        *("~root", "-rf", "org/.hidden", "org//name", "org\\name", "C:model", "resnet19"),
    ],
)
def test_names_that_no_model_can_have(tmp_path: Path, name: str) -> None:
    for ask in (weights.find, weights.config_folder, weights.where_to_put):
        with pytest.raises(ValueError, match=r"model_name: .* is not allowed") as caught:
            ask(name, tmp_path)
        assert len(str(caught.value)) < 1200


def test_the_cache_folder_follows_the_librarys_variables() -> None:
    home = Path.home()
    assert hub.cache({"HF_HUB_CACHE": "/a"}) == Path("/a")
    assert hub.cache({"HF_HOME": "/b"}) == Path("/b/hub")
    assert hub.cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert hub.cache({}) == home / ".cache/huggingface/hub"
    assert hub.endpoint({}) == hub.endpoint({"HF_ENDPOINT": ""}) == "https://huggingface.co"
    assert hub.url("a/b c", "x.bin", {"HF_ENDPOINT": "http://h/"}) == "http://h/a/b%20c/resolve/main/x.bin"


def test_advice_names_file_place_and_the_ways_without(tmp_path: Path) -> None:
    text = weights.where_to_put("resnet18", tmp_path, "the hub is gone")
    assert text == (
        "pretrained weights of resnet18 were not found on this machine, and the hub is gone. Put the file "
        "model.safetensors of https://huggingface.co/timm/resnet18.a1_in1k at "
        f"{tmp_path}/resnet18.safetensors (safetensors, timm's tensor names; "
        "on a connected machine `amlocal weights pull resnet18` gets it), or "
        'start from random weights: by advanced_settings {"pretrained": false}, or by the setting '
        "missing_weights = random"
    )
    text = weights.where_to_put(OWN, tmp_path)
    assert f"of https://huggingface.co/{OWN} into {tmp_path}/acme--tiny-vit " in text
    assert "config.json, model.safetensors and preprocessor_config.json" in text
    assert "amlocal weights pull acme/tiny-vit" in text
    text = weights.where_to_put_config(OWN, tmp_path)
    assert text.startswith(
        "the file config.json of acme/tiny-vit was found neither in the weights folder nor"
    )
    assert "missing_weights" not in text and f"{tmp_path}/acme--tiny-vit" in text
