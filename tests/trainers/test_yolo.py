from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from amlocal.compat import names
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models import yolo, yolo_package
from amlocal.trainers.models.detector import Detections
from amlocal.trainers.models.network import Network, freeze

SIDE = 64
CLASSES = 3


def row() -> names.Model:
    return names.model("image-object-detection", "yolov5")


def small(classes: int = CLASSES, weights: Path | None = None, **options: Any) -> Network:
    torch.manual_seed(0)
    return yolo.build(row(), classes, weights, {"model_size": "small", **options})


def painted(n: int) -> tuple[Tensor, list[Objects]]:
    """Images (n, 3, SIDE, SIDE) in [0, 1] with one or two rectangles each, whose colour is their class."""
    random = np.random.default_rng(0)
    images = random.uniform(0.4, 0.6, (n, 3, SIDE, SIDE)).astype(np.float32)
    targets = []
    for number in range(n):
        boxes, labels = [], []
        for half in range(1 + number % 2):
            left, top = random.integers(0, 12), half * 32 + random.integers(0, 6)
            w, h = random.integers(20, 40), random.integers(16, 26)
            label = int(random.integers(CLASSES))
            images[number, :, top : top + h, left : left + w] = 0.05
            images[number, label, top : top + h, left : left + w] = 0.95
            boxes.append([left, top, left + w, top + h])
            labels.append(label)
        targets.append(
            Objects(
                torch.tensor(np.array(boxes), dtype=torch.float32),
                torch.tensor(labels),
                torch.zeros(len(labels), dtype=torch.bool),
            )
        )
    return torch.from_numpy(images), targets


def sizes_of(images: Tensor) -> list[tuple[int, int]]:
    return [(images.shape[2], images.shape[3])] * len(images)


def test_the_network_says_what_it_must_be_fed_and_what_can_be_frozen() -> None:
    network = small()
    assert network.mean == (0.0, 0.0, 0.0) and network.std == (1.0, 1.0, 1.0)
    assert network.image_size is None
    assert (network.module.stride, network.module.fill, network.module.averaged) == (32, (114.0,) * 3, True)
    assert len(network.stages) == 10
    assert freeze(network, 2) == 2
    frozen = {n.split(".")[1] for n, p in network.module.named_parameters() if not p.requires_grad}
    assert frozen == {"0", "1"}
    assert freeze(network, 0) == 0
    assert all(p.requires_grad for p in network.module.parameters())


@pytest.mark.parametrize(
    ("size", "millions"),
    [
        ("small", 9.15),
        pytest.param("medium", 25.10, marks=pytest.mark.slow),
        pytest.param("large", 53.21, marks=pytest.mark.slow),
        pytest.param("extra_large", 97.28, marks=pytest.mark.slow),
        pytest.param("xlarge", 97.28, marks=pytest.mark.slow),
    ],
)
def test_each_size_is_that_of_the_published_networks(size: str, millions: float) -> None:
    module = yolo.build(row(), 80, None, {"model_size": size}).module
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(millions, abs=0.03)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(TrainingError, match="model_size is 'huge'; it must be one of small, medium"):
        yolo.build(row(), 2, None, {"model_size": "huge"})


def test_losses_are_ultralytics_own_and_their_gradient_counts_every_image() -> None:
    module = small().module
    images, targets = painted(4)
    batch = {
        "img": images,
        "batch_idx": torch.cat([torch.full((len(t),), float(i)) for i, t in enumerate(targets)]),
        "cls": torch.cat([t.labels for t in targets]).float(),
        "bboxes": torch.cat([t.boxes for t in targets]) / SIDE,
    }
    corners = batch["bboxes"]
    middle, extent = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    batch["bboxes"] = torch.cat((middle, extent), 1)
    module.eval()  # so that both see the same normalisation
    with torch.enable_grad():
        theirs = module._network.loss(batch)[0]
        theirs.sum().backward()
        gradient = module.model[0].conv.weight.grad.clone()
        module.zero_grad()
        ours = module.losses(images, sizes_of(images), targets)
        sum(ours.values()).backward()
    assert list(ours) == ["box", "cls", "dfl"]
    assert torch.allclose(torch.stack(list(ours.values())) * 4, theirs, rtol=1e-5)
    assert torch.allclose(module.model[0].conv.weight.grad, gradient, rtol=1e-3, atol=1e-5)
    assert gradient.abs().max() > 0


def test_a_batch_of_background_only_trains() -> None:
    module = small().module.train()
    images = torch.rand(2, 3, SIDE, SIDE)
    nothing = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    losses = module(images, sizes_of(images), [nothing, nothing])
    total = sum(losses.values())
    total.backward()
    assert losses["box"] == 0 and losses["dfl"] == 0 and losses["cls"] > 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in module.parameters())


def test_candidates_are_those_of_ultralytics() -> None:
    module = small().module.eval()
    images = torch.rand(2, 3, SIDE, 2 * SIDE)
    with torch.no_grad():
        boxes, scores = module.decoded(images)
        module.model[-1].training = False
        theirs = module._network(images)[0]
    x, y, w, h = theirs[:, :4].unbind(1)
    corners = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), 2)
    assert boxes.shape == (2, 8 * 16 + 4 * 8 + 2 * 4, 4)
    assert torch.allclose(boxes, corners, atol=1e-3)
    assert torch.allclose(scores, theirs[:, 4:].transpose(1, 2), atol=1e-6)


def test_detections_are_above_the_threshold_apart_and_inside_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = small(classes=2).module.eval()
    boxes = [
        [10, 10, 30, 30],  # the best of class 0
        [11, 10, 31, 30],  # too near to it
        [12, 10, 32, 30],  # as near, of the other class
        [-5, 20, 100, 60],  # reaches beyond the image
        [52, 1, 60, 9],  # in the padding: the image is 50 wide
        [1, 1, 9, 9],  # at the threshold, which must be exceeded
        [30, 30, 30, 40],  # without an area
    ]
    scores = [[0.9, 0.3], [0.8, 0.2], [0.1, 0.7], [0.6, 0.5], [0.9, 0.0], [0.25, 0.2], [0.9, 0.0]]
    answer = (torch.tensor([boxes]).float(), torch.tensor([scores]))
    monkeypatch.setattr(module, "decoded", lambda images: answer)
    module.score_threshold, module.nms_iou_threshold = 0.25, 0.5
    (found,) = module(torch.zeros(1, 3, SIDE, SIDE), [(40, 50)])
    assert isinstance(found, Detections)
    assert found.boxes.tolist() == [[10, 10, 30, 30], [12, 10, 32, 30], [0, 20, 50, 40]]
    assert found.labels.tolist() == [0, 1, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    module.nms_iou_threshold = 0.99
    assert len(module.detect(torch.zeros(1, 3, SIDE, SIDE), [(40, 50)])[0]) == 4


def test_validation_losses_leave_the_normalisation_alone() -> None:
    module = small().module.eval()
    before = module.model[0].bn.running_mean.clone()
    images, targets = painted(2)
    with torch.no_grad():
        losses = module.losses(images, sizes_of(images), targets)
    assert all(torch.isfinite(value) for value in losses.values())
    assert torch.equal(module.model[0].bn.running_mean, before)


def test_published_weights_are_loaded_and_their_classes_are_not(tmp_path: Path) -> None:
    published = {name: tensor.half() for name, tensor in small(classes=80).module.state_dict().items()}
    save_file(published, tmp_path / "yolov5s.safetensors")
    torch.manual_seed(1)
    for classes in (2, 80):
        found = yolo.build(row(), classes, tmp_path / "yolov5s.safetensors", {"model_size": "small"})
        for name, tensor in found.module.state_dict().items():
            if name.startswith("model.24.cv3.") and name.split(".")[4] == "2":
                assert tensor.shape[0] == classes
                assert name.endswith("bias") or not torch.equal(tensor, published[name].float()[:classes])
            else:
                assert torch.equal(tensor, published[name].to(tensor.dtype)), name


def test_weights_of_another_network_are_refused_with_an_example(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    wanted = r"does not fit yolov5 with model_size small \(yolov5su\): \d+ tensors are missing and 1 do not"
    with pytest.raises(TrainingError, match=wanted):
        small(weights=tmp_path / "other.safetensors")


def test_without_ultralytics_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = row()
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    yolo_package.load.cache_clear()
    with pytest.raises(TrainingError, match=r"AGPL-3\.0.*pip install 'amlocal\[yolo\]'"):
        yolo.build(found, 2, None, {"model_size": "small"})
    yolo_package.load.cache_clear()


_ALONE = """
import os, socket, sys
def refuse(*args, **kwargs):
    raise SystemExit(f"looked up {args}")
socket.getaddrinfo = socket.create_connection = refuse
import torch
from PIL import Image
save, opened, before = torch.save, Image.open, dict(os.environ)
from amlocal.trainers.models import yolo, yolo_package
assert not any(name.split(".")[0] == "ultralytics" for name in sys.modules)
package = yolo_package.load()
package.yolov5("s", 2)
assert torch.save is save and Image.open is opened
changed = {k for k in {*os.environ, *before} if os.environ.get(k) != before.get(k)}
changed.discard("TORCHINDUCTOR_CACHE_DIR")  # torch's own doing
assert not changed, changed
from ultralytics.utils import ONLINE, SETTINGS_FILE
assert ONLINE is False
assert not SETTINGS_FILE.exists() and "amlocal-yolo-" in str(SETTINGS_FILE)
"""


@pytest.mark.slow
def test_importing_ultralytics_asks_no_network_and_leaves_nothing_behind(tmp_path: Path) -> None:
    home, temporary, work = (tmp_path / name for name in ("home", "tmp", "work"))
    for folder in (home, temporary, work):
        folder.mkdir()
    wanted = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in wanted if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", _ALONE],
        cwd=work,
        env=environment | {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    left = [path for folder in (home, temporary, work) for path in folder.rglob("*") if path.is_file()]
    assert left == []


def test_a_few_steps_lower_the_loss_of_classes() -> None:
    module = small().module.train()
    images, targets = painted(4)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    seen = []
    for _ in range(10):
        optimizer.zero_grad()
        losses = module(images, sizes_of(images), targets)
        sum(losses.values()).backward()
        optimizer.step()
        seen.append(losses["cls"].item())
    assert seen[-1] < 0.8 * seen[0]


def test_the_onnx_file_gives_the_same_boxes(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from amlocal.trainers.export import yolo_onnx

    network = small(classes=2, nms_iou_threshold=0.9)
    module = network.module
    image = torch.rand(1, 3, SIDE, SIDE)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():  # so that there is something to find, of several sizes
        module.decoded(torch.cat((image, torch.rand(5, 3, SIDE, SIDE))))
        for sides, labels in zip(module.model[-1].cv2, module.model[-1].cv3, strict=True):
            sides[-1].weight.mul_(2)
            labels[-1].weight.mul_(2)
            labels[-1].bias.fill_(-2.0)
    yolo_onnx.write(network, SIDE, tmp_path / "model.onnx", metadata={"labels": "a b"})
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [i.shape for i in session.get_inputs()] == [[1, 3, SIDE, SIDE]]
    assert session.get_modelmeta().custom_metadata_map == {"labels": "a b"}
    (output,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert output.shape == (1, 8 * 8 + 4 * 4 + 2 * 2, 5 + 2)
    module.eval()
    with torch.no_grad():
        boxes, scores = module.decoded(image)
        (found,) = module.detect(image, [(SIDE, SIDE)])
    theirs = torch.from_numpy(output)
    middle, extent = theirs[..., :2], theirs[..., 2:4]
    corners = torch.cat((middle - extent / 2, middle + extent / 2), 2)
    assert torch.allclose(corners, boxes, atol=1e-3)
    assert torch.allclose(theirs[..., 5:] * theirs[..., 4:5], scores, atol=1e-4)
    # And after the steps of Azure's sample: a threshold, and the best of what overlaps.
    best, labels = (theirs[0, :, 5:] * theirs[0, :, 4:5]).max(1)
    again = module._chosen(corners[0], best, labels, (SIDE, SIDE))
    assert len(found) > 3
    assert torch.equal(again.labels, found.labels)
    assert torch.allclose(again.boxes, found.boxes, atol=1e-3)
