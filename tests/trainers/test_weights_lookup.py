from __future__ import annotations

from pathlib import Path

import pytest

from amlocal.compat import weights


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(hub: Path, revision: str = "abc123") -> Path:
    repository = hub / "models--timm--resnet18.a1_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"x")
    return snapshot / "model.safetensors"


def test_the_weights_folder_comes_before_the_hub_cache(tmp_path: Path, cache: Path) -> None:
    assert weights.find("resnet18", tmp_path) is None
    in_cache = cached(cache)
    assert weights.find("resnet18", tmp_path) == in_cache
    own = tmp_path / "resnet18.safetensors"
    own.write_bytes(b"x")
    assert weights.find("resnet18", tmp_path) == own
    assert weights.find("resnet18", None) == in_cache
    assert weights.find("mobilenetv2", tmp_path) is None


def test_a_revision_that_is_a_path_is_not_followed(tmp_path: Path, cache: Path) -> None:
    cached(cache, "../../../abc123")
    assert weights.find("resnet18", tmp_path) is None


def test_the_cache_folder_follows_the_librarys_variables(tmp_path: Path) -> None:
    home = Path.home()
    assert weights.hub_cache({"HF_HUB_CACHE": "/a"}) == Path("/a")
    assert weights.hub_cache({"HF_HOME": "/b"}) == Path("/b/hub")
    assert weights.hub_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert weights.hub_cache({}) == home / ".cache/huggingface/hub"


def test_advice_names_file_place_and_the_way_without(tmp_path: Path) -> None:
    text = weights.where_to_put("resnet18", tmp_path)
    assert str(tmp_path / "resnet18.safetensors") in text
    assert "huggingface.co/timm/resnet18.a1_in1k" in text
    assert '{"pretrained": false}' in text


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="resnet19"):
        weights.find("resnet19", None)
