"""The trainers' own way to the hub, by the real huggingface_hub in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_desk import Hub, black_hole

from amlocal.compat import names
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import weights

REPOSITORY = "timm/resnet18.a1_in1k"
PROGRAM = """
import json, sys
from pathlib import Path
from amlocal.compat import names
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import weights
row = names.model("image-classification", sys.argv[1])
try:
    found = weights.begin(row, Path("weights"), sys.argv[2], Path("state"))
    print("FOUND", found)
except TrainingError as error:
    print("ERROR", error)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.close()


def obtain(folder: Path, endpoint: str, missing: str = "error", model: str = "resnet18", **more: str) -> str:
    """What a trial's process says that looks for the weights of `model`."""
    dropped = ("HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    env = {**kept, "HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(folder / "cache"), **more}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, model, missing],
        env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def started(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "state" / "weights.json").read_text())
    return found


def test_the_hub_is_asked_once_and_its_cache_from_then_on(tmp_path: Path, hub: Hub) -> None:
    hub.files[f"{REPOSITORY}/model.safetensors"] = b"weights" * 1000
    said = obtain(tmp_path, hub.url)
    assert f"downloading the pretrained weights of resnet18 from {hub.url}/{REPOSITORY}" in said
    path = Path(said.partition("FOUND ")[2].strip())
    assert path.is_relative_to(tmp_path / "cache") and path.read_bytes() == b"weights" * 1000
    assert started(tmp_path) == {"file": str(path), "random": None}
    asked = len(hub.asked)
    assert obtain(tmp_path, hub.url).strip() == f"FOUND {path}"
    assert len(hub.asked) == asked > 0


def test_a_hub_without_the_file(tmp_path: Path, hub: Hub) -> None:
    said = obtain(tmp_path, hub.url)
    assert said.startswith("ERROR pretrained weights of resnet18 were not found on this machine, and ")
    assert f"{hub.url} has no such file. Put the file model.safetensors" in said
    assert not (tmp_path / "state").exists()
    assert not [line for line in hub.asked if line.startswith("GET")]


def test_a_download_that_breaks_off_is_no_file(tmp_path: Path, hub: Hub) -> None:
    hub.files[f"{REPOSITORY}/model.safetensors"] = b"weights" * 1000

    def deny(handler: Any, name: str) -> bool:
        if handler.command == "HEAD":
            return False
        handler.send_response(403)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    hub.answer = deny
    said = obtain(tmp_path, hub.url, "random")
    assert "STARTING FROM RANDOM WEIGHTS because missing_weights is random." in said
    assert said.strip().endswith("FOUND None")
    assert started(tmp_path)["random"].startswith("no pretrained weights of resnet18: the download failed: ")
    assert not list((tmp_path / "cache").rglob("model.safetensors"))


def test_a_hub_that_says_nothing_costs_seconds(tmp_path: Path) -> None:
    with black_hole() as url:
        start = time.monotonic()
        said = obtain(tmp_path, url)
        took = time.monotonic() - start
    assert said.startswith("ERROR pretrained weights of resnet18 were not found")
    assert f"{url} did not answer within 3 s" in said
    assert took < 100  # 3 for the question; the rest is the start of a process on a busy machine


def test_offline_nobody_is_asked(tmp_path: Path, hub: Hub) -> None:
    said = obtain(tmp_path, hub.url, "random", HF_HUB_OFFLINE="1")
    assert said.startswith("WARNING: pretrained weights of resnet18") and "FOUND None" in said
    assert hub.asked == []
    assert started(tmp_path) == {
        "file": None,
        "random": "no pretrained weights of resnet18: the hub is not asked because HF_HUB_OFFLINE is set; "
        "missing_weights is random",
    }


def test_a_folder_of_ones_own_is_not_looked_for_at_the_hub(tmp_path: Path) -> None:
    row = names.model("image-classification", "scans-2024")
    with pytest.raises(TrainingError, match=r"a folder of your own is on no hub.*into .*scans-2024"):
        weights.obtain(row, tmp_path, "error")


def test_a_hugging_face_model_brings_its_description(tmp_path: Path, hub: Hub) -> None:
    hub.files["acme/tiny-vit/model.safetensors"] = b"weights"
    hub.files["acme/tiny-vit/config.json"] = b"{}"
    path = Path(obtain(tmp_path, hub.url, model="acme/tiny-vit").partition("FOUND ")[2].strip())
    # There is no preprocessor_config.json, and that is no failure.
    assert sorted(file.name for file in path.parent.iterdir()) == ["config.json", "model.safetensors"]
