"""Scoring over HTTPS beside the network alone, MLflow's server and LitServe, with the same resnet18."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from load_desk import in_turns, load, rate

from amlocal.emulator.cli import instance

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk (a package of most systems) is not on PATH"),
]

LITSERVE = "litserve==0.2.19"
HERE = Path(__file__).parent
BATCHES = (1, 8, 32)
START_TIMEOUT = 120.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """resnet18 for 224 px with ten labels, as a trial leaves it; what it was taught does not matter here."""
    import torch

    from amlocal.trainers.export import mlflow_model
    from amlocal.trainers.models.network import rebuild

    torch.manual_seed(0)
    task, labels = "image-classification", [str(number) for number in range(10)]
    network = rebuild(task, "resnet18", len(labels), 224, None)
    folder = tmp_path_factory.mktemp("bench") / "mlflow-model"
    mlflow_model.write(
        folder,
        network.module.state_dict(),
        task=task,
        model_name="resnet18",
        architecture="resnet18",
        builder="timm",
        labels=labels,
        settings={"valid_resize_size": 256, "valid_crop_size": 224, "train_crop_size": 224},
        run_id="bench",
    )
    return folder


@pytest.fixture(scope="module")
def image() -> str:
    """A JPEG file of 320 x 240 as base64 text: 20 kB, as photographs of a small object are."""
    import numpy as np
    from PIL import Image

    grid = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(grid).resize((320, 240), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def deployed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with amlocal(model, tmp_path_factory.mktemp("scoring") / "server") as found:
        yield found


def script(path: Path, body: Any, **headers: str) -> Path:
    """What wrk is to send."""
    named = {"Content-Type": "application/json", **headers}
    lines = [f'wrk.headers["{key}"] = "{value}"' for key, value in named.items()]
    path.write_text("\n".join(['wrk.method = "POST"', f"wrk.body = '{json.dumps(body)}'", *lines]))
    return path


def azure_request(folder: Path, image: str, key: str) -> Path:
    body = {"input_data": {"columns": ["image"], "data": [[image]]}}
    return script(folder / "ours.lua", body, Authorization=f"Bearer {key}")


def test_scoring_beside_the_network(
    model: Path, deployed: dict[str, Any], image: str, tmp_path: Path
) -> None:
    ours, key, engine = (deployed[name] for name in ("scoring_uri", "key", "engine"))
    score = azure_request(tmp_path, image, key)
    print(f"\naccepted to ready {deployed['seconds']:.1f} s, aim < 5 s; engine {engine}")

    def forward(name: str, batch: int) -> float:
        return run_forward(model, name, batch)

    eager, bare, p50 = in_turns(
        lambda: forward("eager", 1), lambda: forward(engine, 1), lambda: load(ours, score, 1).p50
    )
    print(
        f"one client: p50 {p50:.1f} ms; forward pass {bare:.1f} ms: {p50 - bare:+.1f} ms, aim <= 5; "
        f"plain PyTorch {eager:.1f} ms: {p50 - eager:+.1f} ms"
    )
    assert p50 > 0
    for clients in BATCHES[1:]:
        plain, alone, got = in_turns(
            lambda n=clients: n / forward("eager", n) * 1e3,
            lambda n=clients: n / forward(engine, n) * 1e3,
            lambda n=clients: rate(ours, score, n),
        )
        print(
            f"{clients} clients: {got:.1f} images/s; batched forward pass {alone:.1f}: {got / alone:.0%}, "
            f"aim >= 90 %; plain PyTorch {plain:.1f}: {got / plain:.0%}"
        )
        assert got > 0


def test_scoring_beside_other_servers(
    model: Path, deployed: dict[str, Any], image: str, tmp_path: Path
) -> None:
    ours, score = deployed["scoring_uri"], azure_request(tmp_path, image, deployed["key"])
    split = {"dataframe_split": {"columns": ["image"], "data": [[image]]}}
    with mlflow_serve(model) as mlflow, litserve(model) as lit:
        theirs = script(tmp_path / "mlflow.lua", split)
        other = script(tmp_path / "lit.lua", {"image": image})
        for clients in BATCHES[1:]:
            rates = in_turns(
                lambda n=clients: rate(ours, score, n),
                lambda n=clients: rate(mlflow, theirs, n),
                lambda n=clients: rate(lit, other, n),
            )
            got, by_mlflow, by_lit = rates
            print(
                f"\n{clients} clients: {got:.1f} images/s, mlflow models serve {by_mlflow:.1f} "
                f"({got / by_mlflow:.1f}x, aim >= 2x), LitServe {by_lit:.1f} ({got / by_lit:.1f}x)"
            )
            assert min(rates) > 0


def run_forward(model: Path, engine: str, batch: int) -> float:
    """Milliseconds of one forward pass of the network alone."""
    done = subprocess.run(
        [sys.executable, str(HERE / "forward_pass.py"), str(model / "artifacts"), engine, str(batch)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


@contextmanager
def amlocal(model: Path, root: Path) -> Iterator[dict[str, Any]]:
    """What deploy_model.py prints."""
    from conftest import Server

    server = Server(root, instance.free_ports()[0])
    server.start()
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / "deploy_model.py"), str(model), str(max(BATCHES))],
            env=server.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr + server.logs()
        yield json.loads(done.stdout.splitlines()[-1])
    finally:
        server.stop()


@contextmanager
def mlflow_serve(model: Path) -> Iterator[str]:
    port = instance.free_ports()[0]
    command = ["-m", "mlflow", "models", "serve", "-m", str(model), "-p", str(port), "--env-manager", "local"]
    # It starts uvicorn by its name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with running(command, f"http://127.0.0.1:{port}/ping", {"PATH": path}):
        yield f"http://127.0.0.1:{port}/invocations"


@contextmanager
def litserve(model: Path) -> Iterator[str]:
    """LitServe in a folder of its own beside our packages."""
    home = Path(sys.prefix) / "bench-litserve"
    if not (home / "litserve").exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-qq", "--target", home, LITSERVE], check=True
        )
    port = instance.free_ports()[0]
    command = [str(HERE / "litserve_server.py"), str(model / "artifacts"), str(port)]
    with running(command, f"http://127.0.0.1:{port}/health", {"PYTHONPATH": str(home)}):
        yield f"http://127.0.0.1:{port}/predict"


@contextmanager
def running(command: list[str], ready: str, environ: dict[str, str]) -> Iterator[None]:
    """A Python program that answers 200 at `ready`, ended with all that it started."""
    import httpx

    process = subprocess.Popen(
        [sys.executable, *command], env={**os.environ, **environ}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not answers(httpx, ready):
            assert process.poll() is None and time.monotonic() < deadline, command
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, 9)
        process.wait(20)


def answers(httpx: Any, url: str) -> bool:
    try:
        return bool(httpx.get(url, timeout=5).status_code == 200)
    except httpx.TransportError:
        return False
