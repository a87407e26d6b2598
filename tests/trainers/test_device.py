from __future__ import annotations

import json
import re
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amlocal.trainers import device as devices
from amlocal.trainers import layouts
from amlocal.trainers.layouts import Layout

CPU = torch.device("cpu")
SHAPE = (4, 3, 16, 16)
PLAIN, NHWC = Layout(False), Layout(True)
BF16, NHWC_BF16 = Layout(False, "bf16"), Layout(True, "bf16")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def find(folder: Path, key: str = "toy", *, seeded: bool = False) -> Layout:
    return devices.layout(network(), key, SHAPE, CPU, folder, seeded=seeded)


def scripted(monkeypatch: pytest.MonkeyPatch, seconds: dict[Layout, Any]) -> list[Layout]:
    """Let the probe find these times; returns the layouts it asks for."""
    asked: list[Layout] = []

    def measured(model: Any, batch: Any, device: Any, candidate: Layout, steps: int) -> list[float]:
        asked.append(candidate)
        found = seconds[candidate]
        if isinstance(found, Exception):
            raise found
        return [float(found)]

    monkeypatch.setattr(layouts, "_seconds", measured)
    return asked


def test_with_a_seed_a_rule_decides_and_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scripted(monkeypatch, {})
    assert find(tmp_path, "resnet18", seeded=True) == NHWC
    assert find(tmp_path, "resnest50d", seeded=True) == PLAIN
    assert not asked
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "seconds", "expected"),
    [
        ("resnet18", {PLAIN: 0.02, NHWC: 0.015, BF16: 0.012, NHWC_BF16: 0.007}, NHWC_BF16),
        ("resnet18", {PLAIN: 0.02, NHWC: 0.015, BF16: 0.018, NHWC_BF16: 0.014}, NHWC),
        ("resnet18", {PLAIN: 0.01, NHWC: 0.015, BF16: 0.018, NHWC_BF16: 0.02}, PLAIN),
        ("resnest50d", {PLAIN: 0.02, NHWC: 0.03, BF16: 0.012, NHWC_BF16: 0.02}, BF16),
        ("resnest50d", {PLAIN: 0.02, NHWC: 0.019, BF16: 0.03, NHWC_BF16: 0.03}, PLAIN),
        ("vit", {PLAIN: 0.02, NHWC: 0.02, BF16: RuntimeError("no kernel"), NHWC_BF16: 0.01}, NHWC_BF16),
    ],
)
def test_the_probe_takes_the_fastest_if_it_gains_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, seconds: dict[Layout, Any], expected: Layout
) -> None:
    asked = scripted(monkeypatch, seconds)
    assert find(tmp_path, key) == expected
    assert set(asked) == set(seconds)


def test_an_answer_is_remembered_until_its_file_is_gone_or_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scripted(monkeypatch, {PLAIN: 0.01, NHWC: 0.02, BF16: 0.005, NHWC_BF16: 0.02})
    assert find(tmp_path) == BF16
    (kept,) = (tmp_path / "layouts").glob("*.json")
    assert json.loads(kept.read_text())["number_type"] == "bf16"
    asked.clear()
    assert find(tmp_path) == BF16
    assert not asked
    find(tmp_path, "another")
    assert asked
    for broken in ("{", "[]", '{"channels_last": true, "bf16": true}', '{"number_type": "fp8"}'):
        asked.clear()
        kept.write_text(broken)
        assert find(tmp_path) == BF16
        assert asked


def test_a_network_too_slow_to_measure_gets_the_usual_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = scripted(monkeypatch, {NHWC: 7.5})
    assert find(tmp_path, "large") == NHWC
    assert asked == [NHWC]
    assert "unmeasured, since a step takes too long (7.5 s)" in capsys.readouterr().out
    asked.clear()
    assert find(tmp_path, "large") == NHWC
    assert not asked


def test_a_real_probe_measures_all_four_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # All are measured, however slow this machine is just now.
    monkeypatch.setattr(layouts, "_PROBE_SECONDS", 1e6)
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(11)
    random = torch.get_rng_state()
    found = devices.layout(model, "toy", SHAPE, CPU, tmp_path, seeded=False)
    assert found in (PLAIN, NHWC, BF16, NHWC_BF16)
    said = capsys.readouterr().out
    for candidate in (PLAIN, NHWC, BF16, NHWC_BF16):
        assert f"{candidate} " in said
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("layout", [PLAIN, NHWC_BF16, Layout(True, "fp16")])
def test_facts_bring_a_layout_back(layout: Layout) -> None:
    assert Layout.of(json.loads(json.dumps(layout.facts()))) == layout
    assert Layout.of({"channels_last": True, "bf16": True}) is None
    with pytest.raises(ValueError, match="fp8"):
        Layout(True, "fp8")


def test_autocast_computes_in_the_number_type() -> None:
    linear, images = nn.Linear(4, 2), torch.ones(1, 4)
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for kind, dtype in expected.items():
        with Layout(False, kind).autocast(CPU):
            assert linear(images).dtype == dtype
        assert Layout(False, kind).scaler(CPU).is_enabled() == (kind == "fp16")
    assert NHWC.memory_format is torch.channels_last
    assert PLAIN.memory_format is torch.contiguous_format


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"), "CUDA out of memory. Tried"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("DefaultCPUAllocator: can't allocate"), "DefaultCPUAllocator: can't allocate"),
        (RuntimeError("not enough memory: you tried"), "not enough memory: you tried"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when"), "CUBLAS_STATUS_ALLOC_FAILED when"),
        (RuntimeError("mat1 and mat2 shapes"), ""),
        (ValueError("out of memory"), ""),
    ],
)
def test_shortages_of_memory_are_told_from_other_errors(error: Exception, reason: str) -> None:
    assert devices.short_of_memory(error) == reason


@pytest.mark.parametrize(
    ("given", "size", "expected"),
    [
        (None, 1, 8),
        ("3", 1, 3),
        ("3", 2, 1),
        ("6", 2, 3),
        ("64", 1, 8),
        ("4,2", 2, 4),
        (None, 16, 1),
    ],
)
def test_threads_are_this_process_s_share_of_what_the_trial_may_use(
    given: str | None, size: int, expected: int, monkeypatch: pytest.MonkeyPatch, mocker: Any
) -> None:
    monkeypatch.setattr(devices, "cpu_threads", lambda: 8)
    monkeypatch.setattr(devices.distributed, "current", lambda: types.SimpleNamespace(size=size))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    told = mocker.patch.object(torch, "set_num_threads")
    devices.choose()
    told.assert_called_once_with(expected)


def test_the_memory_in_use_is_this_process_s() -> None:
    text = devices.memory(CPU)
    assert re.fullmatch(r"\d+\.\d GiB", text)
    assert 0.05 < float(text.split()[0]) < 64
    assert devices.describe(CPU) == f"CPU, {torch.get_num_threads()} threads"
