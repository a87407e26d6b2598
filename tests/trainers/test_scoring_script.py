"""The scoring script of a trial: loads model.pt as it was trained, and answers the documented bodies."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import sys
import tempfile
from base64 import b64encode, encodebytes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import painted_detector
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from amlocal.compat import model_config
from amlocal.emulator.endpoints import pickles
from amlocal.emulator.host import scorer_azureml
from amlocal.emulator.host.scorer_requests import Request
from amlocal.emulator.jobs import environment_pins
from amlocal.trainers import registry, spec, trial
from amlocal.trainers.checkpoints import plain
from amlocal.trainers.export import mlflow_model, scoring_script
from amlocal.trainers.models.network import rebuild
from amlocal.trainers.serving import model_pt

MULTICLASS, MULTILABEL = "image-classification", "image-classification-multilabel"
LABELS = ["can", "carton", "milk"]
SIZES = {"valid_resize_size": 36, "valid_crop_size": 32, "train_crop_size": 32}
TINY_VIT = model_config.Facts(
    "ViTForImageClassification",
    {
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "patch_size": 8,
        "image_size": 32,
    },
    (0.5, 0.5, 0.5),
    (0.25, 0.25, 0.25),
    32,
)


@pytest.fixture(autouse=True)
def as_in_a_scorer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The modules of a scorer are there, one engine is used, and temporary folders can be looked at."""
    threads, modules = torch.get_num_threads(), set(sys.modules)
    monkeypatch.setenv("AMLOCAL_SCORING_ENGINE", "eager")
    monkeypatch.setenv("AMLOCAL_SCORING_THREADS", "1")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    scorer_azureml.provide()
    yield
    sys.meta_path[:] = [one for one in sys.meta_path if not isinstance(one, scorer_azureml.Provider)]
    for name in set(sys.modules) - modules:
        if name.startswith(("azureml.contrib", "azureml_inference_server_http")):
            del sys.modules[name]
    torch.set_num_threads(threads)


@dataclass
class Trained:
    """What a trial leaves in `outputs`."""

    outputs: Path

    def expected(self, *rows: bytes) -> list[dict[str, Any]]:
        """The answers of the MLflow model."""
        found: list[dict[str, Any]] = registry.restored(self.outputs / "mlflow-model/artifacts").predict(rows)
        return found


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Trained]:
    """trained(task, model_name, facts, labels): the outputs of a trial of a small random network."""

    def make(
        task: str = MULTICLASS,
        model_name: str = "resnet18",
        facts: model_config.Facts | None = None,
        labels: list[str] = LABELS,
    ) -> Trained:
        torch.manual_seed(8)
        kept = facts.to_json() if facts is not None else None
        module = rebuild(task, model_name, len(labels), 32, kept).module
        heads = [one for one in module.parameters() if one.shape[:1] == (len(labels),)]
        with torch.no_grad():
            answers = module.eval()(torch.randn(8, 3, 32, 32))
            for head in heads:
                head.div_(answers.abs().max())
        outputs = tmp_path / "outputs"
        mlflow_model.write(
            outputs / "mlflow-model",
            plain(module),
            task=task,
            model_name=model_name,
            architecture="",
            builder="timm" if facts is None else "huggingface",
            labels=labels,
            settings=SIZES,
            run_id="made",
            facts=kept,
        )
        torch.save(plain(module), outputs / "model.pt")
        scoring_script.write(outputs / "mlflow-model")
        return Trained(outputs)

    return make


Start = Callable[..., ModuleType]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """start(trained, root): the script after init(), with AZUREML_MODEL_DIR at `root`."""
    begun: list[ModuleType] = []

    def make(model: Trained, root: Path | None = None) -> ModuleType:
        monkeypatch.setenv("AZUREML_MODEL_DIR", str(root or model.outputs))
        script = read(model)
        script.init()
        begun.append(script)
        return script

    yield make
    for script in begun:
        script.script._served.close()


def read(model: Trained) -> ModuleType:
    found = importlib.util.spec_from_file_location("scoring_file", model.outputs / scoring_script.NAME)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def ask(script: ModuleType, body: bytes | dict[str, Any], method: str = "POST") -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert scorer_azureml.wants_raw(script.run)
    with scorer_azureml.opener(os.getcwd())(Request(method, "/score", "a=%20", {}, raw)) as request:
        return script.run(request)


def refused(script: ModuleType, body: bytes | dict[str, Any]) -> tuple[int, str]:
    answer = ask(script, body)
    error = json.loads(answer.get_data())["error"]
    assert error["code"] == ("PayloadTooLarge" if answer.status_code == 413 else "BadRequest")
    return answer.status_code, error["message"]


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (36, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


KINDS = {
    "multi-class": (MULTICLASS, "resnet18", None),
    "multi-label": (MULTILABEL, "resnet18", None),
    "huggingface": (MULTICLASS, "tiny/vit", TINY_VIT),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_body_is_answered_as_the_mlflow_model_answers(
    kind: str, trained: Callable[..., Trained], start: Start, tmp_path: Path
) -> None:
    model = trained(*KINDS[kind])
    script = start(model)
    rows = [picture(number) for number in range(3)]
    goal = [answer for row in rows for answer in model.expected(row)]
    assert np.ptp([answer["probs"][0] for answer in goal]) > 1e-5, "images are not told apart"
    text = [b64encode(row).decode() for row in rows]
    for body in (rows[0], {"image": text[0]}, {"image": encodebytes(rows[0]).decode()}):
        assert ask(script, body) == {"filename": "image", **goal[0]}
    explained = {"image": text[1], "model_explainability": False, "xai_parameters": {}}
    assert ask(script, explained) == {"filename": "image", **goal[1]}
    table: dict[str, Any]
    for table in (
        {"columns": ["image"], "index": [0, 1, 2], "data": [[one] for one in text]},
        {"columns": ["image"], "data": text},
        {"columns": ["more", "image"], "data": [["x", one] for one in text]},
        {"columns": ["image"], "data": [json.dumps({"image_base64": one}) for one in text]},
    ):
        assert [round_(one) for one in ask(script, {"input_data": table})] == [round_(one) for one in goal]
    assert ask(script, {"input_data": [{"image": text[2]}]}) == [goal[2]]
    assert list((tmp_path / "temporary").glob("amlocal-*")) == []


def round_(answer: dict[str, Any]) -> Any:
    # A batch of several images may be computed in another order than each alone.
    return [pytest.approx(value, abs=1e-6) for value in answer["probs"]], answer["labels"]


@pytest.mark.parametrize("task", [painted_detector.DETECTION, painted_detector.SEGMENTATION])
def test_a_detector_is_answered_likewise(
    task: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BUILDERS, "torchvision", "painted_detector:build")
    model = Trained(tmp_path / "outputs")
    folder = model.outputs / "mlflow-model"
    folder.mkdir(parents=True)
    painted_detector.write_model(folder / "artifacts", task)
    torch.save(load_file(folder / "artifacts/model.safetensors"), model.outputs / "model.pt")
    (folder / "requirements.txt").write_text("torch==2.14.1\n")
    scoring_script.write(folder)
    script = start(model)
    scene = painted_detector.scene(120, 80, ("rectangle", "red", (0.1, 0.2, 0.4, 0.6)))
    (goal,) = model.expected(scene)
    assert [box["label"] for box in goal["boxes"]] == ["red"]
    assert ask(script, scene) == {"filename": "image", **goal}
    table = {"columns": ["image"], "data": [b64encode(scene).decode()]}
    assert ask(script, {"input_data": table}) == [goal]


def test_what_cannot_be_answered_says_why(trained: Callable[..., Trained], start: Start) -> None:
    script = start(trained())
    image = b64encode(picture(1)).decode()
    for body, words in (
        (b"", "has no image"),
        (b"no image", "not an image in a known format; send an image's bytes"),
        (picture(1)[:200], "send an image's bytes"),
        (b"[1]", "not an image"),
        (b'{"image": ', "not JSON"),
        (b'{"image": "\xff"}', "UTF-8"),
        (b'{"image": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        ({}, 'needs one of "image" and "input_data"'),
        ({"image": image, "input_data": [image]}, 'needs one of "image" and "input_data"'),
        ({"image": 7}, "must be base64 text, not int"),
        ({"image": ""}, "has no image"),
        ({"image": "%%%"}, "not base64 text"),
        ({"image": image, "model_explainability": True}, "explanations are not there yet"),
        ({"image": image, "model_explainability": "yes"}, "must be true or false"),
        ({"input_data": 7}, 'needs "data"'),
        ({"input_data": {"columns": ["image"], "data": []}}, "at least one row"),
        ({"input_data": {"columns": ["picture"], "data": [image]}}, "names 'image' once"),
        ({"input_data": {"columns": ["image", "x"], "data": [image]}}, "row 0 does not have one value"),
        ({"input_data": [image, 7]}, "row 1, column 'image': base64 text expected, got int"),
        ({"input_data": [image, "%%%"]}, "row 1, column 'image': not base64 text"),
    ):
        status, message = refused(script, body)
        assert status == 400 and words in message, (body, message)
        assert len(message) < 1000
    assert refused(script, b'{"image": [' + b"1," * 200_001 + b"1]}")[0] == 413
    assert ask(script, b"", "GET").get_data() == b"/score?a=%20"
    other = ask(script, b"", "OPTIONS")
    assert other.status_code == 500 and b"bad request" in other.get_data()


def test_labels_of_any_kind_stand_in_the_script(trained: Callable[..., Trained], start: Start) -> None:
    labels = ['"""', "'''\\", "a\nb", "\u202eflow", "$model {x} %s", "Ω 蛋", "__import__('os')"]
    model = trained(labels=labels)
    script = start(model)
    found = script.LABELS
    assert found == labels
    assert ask(script, picture(1))["labels"] == labels


def test_the_settings_in_the_script_may_be_changed(trained: Callable[..., Trained], start: Start) -> None:
    model = trained()
    before = ask(start(model), picture(1))
    path = model.outputs / scoring_script.NAME
    text = path.read_text()
    assert text.count("'valid_resize_size': 36") == 1
    path.write_text(text.replace("'valid_resize_size': 36", "'valid_resize_size': 64"))
    assert ask(start(model), picture(1))["probs"] != before["probs"]
    path.write_text(text.replace("'valid_resize_size': 36", "'valid_resize_size': 'big'"))
    with pytest.raises(ValueError, match="valid_resize_size is 'big'"):
        start(model)


def test_model_pt_is_found_where_it_was_registered(tmp_path: Path) -> None:
    def put(name: str) -> Path:
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        return path

    root = tmp_path / "models"
    put("b/mlflow-model/MLmodel")
    with pytest.raises(FileNotFoundError, match=r"it has: b/mlflow-model/MLmodel\. Register"):
        model_pt.find(root)
    deep = put("b/train_artifacts/model.pt")
    assert model_pt.find(root) == deep
    near = put("b/model.pt")
    assert model_pt.find(root) == near
    put("c/model.pt")
    with pytest.raises(ValueError, match=r"several files model\.pt: b/model\.pt, c/model\.pt"):
        model_pt.find(root)


class Mine:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("broken-in",)


def test_nothing_but_weights_is_loaded(
    trained: Callable[..., Trained],
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trained()
    monkeypatch.chdir(tmp_path)
    weights = model.outputs / "model.pt"
    torch.save({"fc.weight": Mine()}, weights)
    with pytest.raises(ValueError, match=r"model\.pt cannot be read as weights"):
        start(model)
    weights.write_bytes(pickle.dumps(Mine()))
    with pytest.raises(ValueError, match=r"model\.pt cannot be read as weights"):
        start(model)
    assert not (tmp_path / "broken-in").exists()
    torch.save([torch.ones(2)], weights)
    with pytest.raises(ValueError, match="no state dict"):
        start(model)
    torch.save({"fc.weight": torch.ones(2)}, weights)
    with pytest.raises(ValueError, match=r"does not fit resnet18"):
        start(model)
    monkeypatch.delenv("AZUREML_MODEL_DIR")
    with pytest.raises(ValueError, match="AZUREML_MODEL_DIR is not set"):
        read(model).init()
    assert list((tmp_path / "temporary").glob("amlocal-*")) == []


def test_the_environment_file_pins_what_public_indexes_have(
    trained: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mlflow_model.version
    monkeypatch.setattr(mlflow_model, "version", lambda name: f"{real(name).partition('+')[0]}+cu130")
    outputs = trained().outputs
    text = (outputs / "conda_env_v_1_0_0.yml").read_text()
    pins = environment_pins.read(text)
    assert pins.python is not None and pins.python.accepts(sys.version.split()[0])
    lines = yaml.safe_load(text)["dependencies"][-1]["pip"]
    assert lines == (outputs / "mlflow-model/requirements.txt").read_text().splitlines()
    assert "amlocal" in [pin.package for pin in pins.pip]
    for name in ("torch", "torchvision", "timm", "safetensors", "pillow", "numpy"):
        assert f"{name}=={real(name).partition('+')[0]}" in lines
    (torch_pin,) = [pin for pin in pins.pip if pin.package == "torch"]
    assert torch_pin.accepts(f"{real('torch').partition('+')[0]}+cu130")


def test_a_trial_leaves_them_beside_a_model_without_pickles(
    make_spec: Any, start: Start, tmp_path: Path, metrics_of: Any
) -> None:
    import onnxruntime

    given = {"number_of_epochs": 1, "enable_onnx_normalization": True}
    found = spec.load(make_spec("whole", given))
    trial.run(found)
    model = Trained(found.artifacts_dir / "outputs")
    assert pickles.find(model.outputs / "mlflow-model", {}) is None
    assert pickles.find(model.outputs / "model.pt", {}) is not None
    registered = tmp_path / "azureml-models" / "weights" / "1"
    registered.mkdir(parents=True)
    (registered / "model.pt").symlink_to(model.outputs / "model.pt")
    script = start(model, registered)
    (goal,) = model.expected(picture(1))
    assert ask(script, picture(1)) == {"filename": "image", **goal}

    predictor = registry.restored(model.outputs / "mlflow-model/artifacts")
    pixels = predictor.prepare(picture(1)).transpose(2, 0, 1)[None].astype(np.float32) / 255
    session = onnxruntime.InferenceSession(
        str(found.artifacts_dir / "train_artifacts/model.onnx"), providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, {"input1": pixels})
    assert torch.tensor(np.asarray(logits)).softmax(1)[0].tolist() == pytest.approx(goal["probs"], abs=1e-4)
