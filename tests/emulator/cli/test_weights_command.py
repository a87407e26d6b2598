"""`amlocal weights`: what it finds, what it takes into the weights folder, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_desk import COMMIT, Hub

from amlocal.emulator.cli import main

RESNET = "timm/resnet18.a1_in1k"


def safetensors(*names: str) -> bytes:
    """A whole file with one number per name."""
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]}
        for n, name in enumerate(names)
    }
    text = json.dumps({**header, "__metadata__": {"format": "pt"}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4 * len(names))


GOOD = safetensors("conv1.weight", "fc.bias")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    yield made
    made.close()


Weights = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.fixture
def weights(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Weights:
    """weights(action, ..., code=0): what the command prints, on both streams."""

    def call(action: str, *arguments: str, code: int = 0) -> str:
        options = ["--weights-dir", str(folder), "--data-dir", str(tmp_path / "data")]
        with pytest.raises(SystemExit) as left:
            main(["weights", action, *arguments, *options])
        captured = capsys.readouterr()
        assert left.value.code == code, captured
        assert "Traceback" not in captured.err
        return captured.out + captured.err

    return call


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_list_tells_where_each_model_is(
    weights: Weights, folder: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    snapshot = tmp_path / "hub" / "models--timm--resnet34.a1_in1k" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(bytes(3_000_000))
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (folder / "acme--tiny-vit").mkdir(parents=True)
    (folder / "acme--tiny-vit" / "config.json").write_text("{}")
    (folder / "resnet18.safetensors").write_bytes(bytes(2_000_000))
    lines = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in weights("list").splitlines()}
    assert lines["weights"] == f"folder: {folder}"
    assert lines["resnet18"].split("  ") == [
        *("2 MB", "weights folder", str(folder / "resnet18.safetensors"))
    ]
    assert lines["resnet34"].startswith("3 MB  hub's cache") and str(snapshot) in lines["resnet34"]
    assert lines["resnet50"] == "~102 MB  missing"
    assert lines["acme/tiny-vit"] == "missing"
    assert "google/vit-base-patch16-224" in lines


def test_pull_from_the_hub(weights: Weights, folder: Path, hub: Hub) -> None:
    hub.files[f"{RESNET}/model.safetensors"] = GOOD
    said = weights("pull", "resnet18")
    target = folder / "resnet18.safetensors"
    assert target.read_bytes() == GOOD
    assert said.splitlines() == [
        str(target),
        f"  sha256 {hashlib.sha256(GOOD).hexdigest()}",
        f"  from {hub.url}/{RESNET}/resolve/main/model.safetensors",
    ]
    assert files(folder) == ["resnet18.safetensors"]
    asked = len(hub.asked)
    assert "is there already" in weights("pull", "resnet18")
    assert len(hub.asked) == asked
    hub.files[f"{RESNET}/model.safetensors"] = safetensors("new")
    weights("pull", "resnet18", "--force")
    assert target.read_bytes() == safetensors("new")


def test_pull_of_a_hugging_face_model_takes_its_description_along(
    weights: Weights, folder: Path, hub: Hub
) -> None:
    for name, data in (("config.json", b'{"model_type": "vit"}'), ("model.safetensors", GOOD)):
        hub.files[f"acme/tiny-vit/{name}"] = data
    weights("pull", "acme/tiny-vit")
    # preprocessor_config.json is taken where there is one only.
    assert files(folder) == [
        *("acme--tiny-vit", "acme--tiny-vit/config.json", "acme--tiny-vit/model.safetensors")
    ]
    hub.files["acme/tiny-vit/preprocessor_config.json"] = b"{}"
    weights("pull", "acme/tiny-vit", "--force")
    assert "acme--tiny-vit/preprocessor_config.json" in files(folder)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model.safetensors": GOOD}, "there is no config.json of acme/tiny-vit in it"),
        ({"config.json": b"{}"}, "acme/tiny-vit has neither model.safetensors nor pytorch_model.bin"),
        ({"config.json": b"{", "model.safetensors": GOOD}, "config.json is not JSON"),
        ({"config.json": b"[]", "model.safetensors": GOOD}, "config.json is JSON, but no object"),
        ({"config.json": b"{}", "model.safetensors": GOOD[:-1]}, "a part of it is missing"),
    ],
)
def test_what_is_not_whole_leaves_nothing(
    weights: Weights, folder: Path, hub: Hub, given: dict[str, bytes], said: str
) -> None:
    hub.files = {f"acme/tiny-vit/{name}": data for name, data in given.items()}
    assert said in weights("pull", "acme/tiny-vit", code=1)
    assert files(folder) == []


def test_pull_from_files_folders_and_addresses(
    weights: Weights, folder: Path, hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "any-name.safetensors").write_bytes(GOOD)
    weights("pull", "resnet18", "--from", str(tmp_path / "any-name.safetensors"))
    assert (folder / "resnet18.safetensors").read_bytes() == GOOD
    given = tmp_path / "given"
    given.mkdir()
    (given / "model.safetensors").write_bytes(GOOD)
    weights("pull", "resnet34", "--from", str(given))
    (given / "config.json").write_text("{}")
    weights("pull", "scans-2024", "--from", str(given))
    hub.files["mirror/r50.safetensors"] = hub.files["mirror/tiny/model.safetensors"] = GOOD
    hub.files["mirror/tiny/config.json"] = b"{}"
    weights("pull", "resnet50", "--from", f"{hub.url}/mirror/r50.safetensors?download=true")
    weights("pull", "acme/{}", "--from", "x", code=1)
    weights("pull", "acme/tiny-vit", "--from", f"{hub.url}/mirror/tiny/")
    assert files(folder) == [
        "acme--tiny-vit", "acme--tiny-vit/config.json", "acme--tiny-vit/model.safetensors",
        "resnet18.safetensors", "resnet34.safetensors", "resnet50.safetensors",
        "scans-2024", "scans-2024/config.json", "scans-2024/model.safetensors",
    ]  # fmt: skip


def test_a_pickle_is_converted_and_one_with_code_is_not(
    weights: Weights, folder: Path, hub: Hub, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'HACKED'}",)

    tied = torch.ones(3)
    torch.save({"state_dict": {"a": tied, "b": tied}}, tmp_path / "good.bin")
    torch.save({"a": tied, "x": Touch()}, tmp_path / "bad.pth")
    # The hub has no model.safetensors, so the older file is taken.
    hub.files[f"{RESNET}/pytorch_model.bin"] = (tmp_path / "good.bin").read_bytes()
    said = weights("pull", "resnet18")
    assert "converting" in said and "pytorch_model.bin" in said
    found = load_file(folder / "resnet18.safetensors")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"a": [1, 1, 1], "b": [1, 1, 1]}
    said = weights("pull", "resnet18", "--force", "--from", str(tmp_path / "bad.pth"), code=1)
    assert f"amlocal: {tmp_path / 'bad.pth'} holds more than tensors (posix.system)" in said
    assert not (tmp_path / "HACKED").exists()
    assert files(folder) == ["resnet18.safetensors"] and len(load_file(folder / "resnet18.safetensors")) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "only the beginning of one"),
        (b"<html>not here</html>", "it is no safetensors file"),
        (GOOD[:-1], "a part of it is missing"),
        (GOOD + b"x", "its header describes"),
        (GOOD[:50], "only the beginning of one"),
        ((2).to_bytes(8, "little") + b"{}", "it holds no tensors"),
        ((2).to_bytes(8, "little") + b"[]", "its header cannot be read"),
        ((9).to_bytes(8, "little") + b'{"a": []}', "its header cannot be read"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "its header cannot be read"),
    ],
)
def test_files_that_are_no_weights(
    weights: Weights, folder: Path, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "given").write_bytes(content)
    answer = weights("pull", "resnet18", "--from", str(tmp_path / "given"), code=1)
    assert said in answer and "cannot be used" in answer
    assert files(folder) == []


def test_a_hub_that_fails(weights: Weights, folder: Path, hub: Hub, monkeypatch: Any) -> None:
    said = weights("pull", "resnet18", code=1)
    assert said == f"amlocal: {RESNET} has neither model.safetensors nor pytorch_model.bin.\n"

    def cut(handler: Any, name: str) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(GOOD) + 9))
        handler.end_headers()
        handler.wfile.write(GOOD)
        handler.close_connection = True
        return True

    hub.answer = cut
    assert f"ended after {len(GOOD)} of {len(GOOD) + 9} bytes" in weights("pull", "resnet18", code=1)

    def answer(status: int, **headers: str) -> Callable[[Any, str], bool]:
        def send(handler: Any, name: str) -> bool:
            handler.send_response(status)
            for key, value in headers.items():
                handler.send_header(key.replace("_", "-"), value)
            data = GOOD if status == 200 else b""
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
            return True

        return send

    hub.answer = answer(200, X_Linked_ETag='"' + "0" * 64 + '"')
    assert "has another SHA-256 than the hub says" in weights("pull", "resnet18", code=1)
    hub.answer = answer(401)
    assert "the answer was 401 (private or gated, or not there" in weights("pull", "resnet18", code=1)
    hub.answer = answer(302, Location="ftp://127.0.0.1/x")
    assert "leads to ftp://127.0.0.1/x, which is not https" in weights("pull", "resnet18", code=1)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be downloaded: [Errno 111] Connection refused" in weights("pull", "resnet18", code=1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in weights("pull", "resnet18", code=1)
    assert files(folder) == []


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../b", "a/b/c", "..", ".hidden/x", "x" * 300, "o/" + "y" * 97, "a\nb"],
)
@pytest.mark.parametrize("action", ["pull", "check"])
def test_names_that_lead_elsewhere(
    weights: Weights, folder: Path, tmp_path: Path, action: str, name: str
) -> None:
    said = weights(action, name, code=1)
    assert "is not allowed" in said or "is too long" in said
    assert len(said) < 1500 and not folder.exists()


def test_links_out_of_the_folder_are_not_written_through(
    weights: Weights, folder: Path, tmp_path: Path
) -> None:
    outside, given = tmp_path / "outside", tmp_path / "given"
    for made in (outside, given, folder):
        made.mkdir()
    (given / "model.safetensors").write_bytes(GOOD)
    (given / "config.json").write_text("{}")
    (outside / "precious").write_text("precious")
    (folder / "acme--tiny-vit").symlink_to(outside)
    (folder / "resnet18.safetensors").symlink_to(outside / "precious")
    assert "is a link that leads out of the weights folder" in weights(
        "pull", "acme/tiny-vit", "--from", str(given), code=1
    )
    weights("pull", "resnet18", "--from", str(given))
    assert files(outside) == ["precious"] and (outside / "precious").read_text() == "precious"
    assert not (folder / "resnet18.safetensors").is_symlink()


def test_sources_that_are_none(weights: Weights, folder: Path, tmp_path: Path) -> None:
    for source, said in (
        ("file:///etc/passwd", "only https:// and http://"),
        ("ftp://host/x.bin", "only https:// and http://"),
        (str(tmp_path / "none"), "is neither a file nor a folder"),
        ("/dev/zero", "is neither a file nor a folder"),
    ):
        assert said in weights("pull", "resnet18", "--from", source, code=1)
    assert "give one NAME" in weights("pull", "resnet18", "resnet34", "--from", "x", code=1)
    assert "a folder of your own is on no hub" in weights("pull", "scans-2024", code=1)
    assert "give one NAME" in weights("pull", "resnet18", "resnet34", "--from", "x", code=1)
    assert not folder.exists()


def test_a_killed_download_leaves_no_weights_and_its_rest_is_swept_later(
    weights: Weights, folder: Path, hub: Hub, tmp_path: Path
) -> None:
    began = tmp_path / "began"

    def stall(handler: Any, name: str) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(GOOD)))
        handler.end_headers()
        handler.wfile.write(GOOD[:100])
        handler.wfile.flush()
        began.touch()
        handler.rfile.read(1)  # until the other side is gone
        return True

    hub.answer = stall
    command = [sys.executable, "-m", "amlocal.emulator.cli", "weights", "pull", "resnet18"]
    with subprocess.Popen(
        [*command, "--weights-dir", str(folder), "--data-dir", str(tmp_path / "d")]
    ) as child:
        deadline = time.monotonic() + 60
        while not (began.exists() and list(folder.glob(".*"))):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
    assert len(files(folder)) == 1 and files(folder)[0].startswith(".resnet18.safetensors.")
    assert "resnet18                                         ~47 MB  missing" in weights("list")
    hub.answer = lambda handler, name: False
    hub.files[f"{RESNET}/model.safetensors"] = GOOD
    weights("pull", "resnet18")
    assert len(files(folder)) == 2  # the other one might still be under way
    rest = next(folder.glob(".*"))
    os.utime(rest, (1, 1))
    weights("pull", "resnet18", "--force")
    assert files(folder) == ["resnet18.safetensors"]


def test_check_opens_the_files_elsewhere_and_never_here(folder: Path, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(dict(timm.create_model("resnet18").state_dict()), folder / "resnet18.safetensors")
    (folder / "resnet34.safetensors").write_bytes(GOOD)
    program = (
        "import sys\nfrom amlocal.emulator.cli import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n"
        "    print('HEAVY', sorted({'torch', 'timm', 'safetensors', 'numpy'} & set(sys.modules)))"
    )
    arguments = ["weights", "check", "--weights-dir", str(folder), "--data-dir", str(tmp_path / "d")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"OK     resnet18: {folder}/resnet18.safetensors"
    assert lines[1].startswith(f"WRONG  resnet34: {folder}/resnet34.safetensors does not fit resnet34")
    assert lines[2] == "HEAVY []"


def test_check_of_nothing(weights: Weights, folder: Path) -> None:
    assert weights("check") == f"No weights were found, neither in {folder} nor in the hub's cache.\n"
