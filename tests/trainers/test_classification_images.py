"""Which pixels a classification task feeds to the network: augmented, plain, streamed, of every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from painted import COLOURS, paint, write_manifest
from torch import Tensor, nn

from amlocal.trainers import spec
from amlocal.trainers.data import images, samples
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.layouts import Layout
from amlocal.trainers.models.network import Network
from amlocal.trainers.tasks.classification import Classification

PLAIN = Network(nn.Identity(), (0.0,) * 3, (1.0,) * 3, ())
MakeTask = Callable[..., Classification]


@pytest.fixture
def make_task(make_spec: Any) -> MakeTask:
    """make_task(name, advanced, **fields): a task whose batches are pixels in [0, 1], not normalised."""

    def make(name: str = "trial", advanced: dict[str, Any] | None = None, **fields: Any) -> Classification:
        settings = {"pretrained": False} | (advanced or {})
        task = Classification(spec.load(make_spec(name, advanced_settings=settings, **fields)), 7)
        task.place(torch.device("cpu"), Layout(channels_last=False), PLAIN)
        return task

    return make


def epoch(task: Classification, number: int) -> Tensor:
    return torch.cat([batch.images for batch in task.train_batches(number)])


def levels(some: Tensor) -> list[bytes]:
    """Each image as its grey levels, in an order that does not depend on the shuffle."""
    return sorted(
        (some * 255).round().byte().permute(0, 2, 3, 1).numpy()[i].tobytes() for i in range(len(some))
    )


def plain(manifest: Path) -> list[bytes]:
    """The images of a manifest in the validation geometry at the training crop (36 and 32)."""
    rows = samples.read_manifest(manifest, multilabel=False)
    return sorted(images.for_validation(images.open_image(row.path), 36, 32).tobytes() for row in rows)


def test_augmented_images_differ_from_epoch_to_epoch(make_task: MakeTask) -> None:
    task = make_task()
    first, second = epoch(task, 0), epoch(task, 1)
    assert first.shape == second.shape == (24, 3, 32, 32)
    assert not set(levels(first)) & set(levels(second))
    assert levels(epoch(task, 1)) == levels(second)


def test_without_augmentation_every_epoch_has_the_plain_images(
    make_task: MakeTask, colour_set: dict[str, Path]
) -> None:
    task = make_task(advanced={"apply_automl_train_augmentations": False})
    expected = plain(colour_set["train"])
    assert levels(epoch(task, 0)) == expected
    assert levels(epoch(task, 1)) == expected
    assert not torch.equal(epoch(task, 0), epoch(task, 1))  # the order is still shuffled


@pytest.mark.parametrize("bound", [None, 24 * 32 * 32 * 3 // 2])
def test_streamed_images_are_the_same_and_none_is_decoded_before_the_first_batch(
    make_task: MakeTask, desk: Any, bound: int | None
) -> None:
    usual = make_task("usual")
    limit = None if bound is None else bound / 1e9
    cache = {"cache_max_gb": limit, "cache_dir": str(usual._spec.cache_dir.parent / "streamed")}
    with desk.counted() as decodes:
        task = make_task("streamed", {"stream_image_files": True}, **cache)
    assert decodes == [0]
    for number in range(2):
        with desk.counted() as decodes:
            assert torch.equal(epoch(task, number), epoch(usual, number))
        assert decodes == [24] if number == 0 else decodes[0] in ({0} if bound is None else range(1, 24))
    assert bound is None or desk.on_disk(Path(cache["cache_dir"]) / "images") <= bound


def test_every_documented_format_trains(tmp_path: Path, make_task: MakeTask) -> None:
    suffixes = ("jpg", "jpeg", "png", "jpe", "jfif", "bmp", "tif", "tiff")
    rows = [
        (paint(tmp_path / "images" / f"{label}.{suffix}", label, n), label)
        for n, suffix in enumerate(suffixes)
        for label in COLOURS
    ]
    manifest = str(write_manifest(tmp_path / "formats.json", rows))
    for stream in (False, True):
        advanced = {"stream_image_files": stream, "apply_automl_train_augmentations": False}
        task = make_task("all", advanced, train_manifest=manifest, validation_manifest=manifest)
        assert (task.train_images, task.validation_images, task.labels) == (24, 24, sorted(COLOURS))
        found = list(task.train_batches(0))
        assert sum(len(batch.images) for batch in found) == 24
        for batch in found:
            wanted = torch.tensor([list(COLOURS[task.labels[t]]) for t in batch.targets.tolist()]) / 255
            assert torch.allclose(batch.images.mean((2, 3)), wanted, atol=0.05)


def test_an_image_that_cannot_be_read_while_streaming_is_left_out_and_told_once(
    tmp_path: Path, make_task: MakeTask, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        (paint(tmp_path / "i" / f"{label}{n}.png", label, n), label) for n in range(4) for label in COLOURS
    ]
    rows[5][0].write_bytes(b"no image")
    manifest = str(write_manifest(tmp_path / "m.json", rows))
    task = make_task(
        "bad", {"stream_image_files": True}, train_manifest=manifest, validation_manifest=manifest
    )
    assert task.train_images == 12
    for number in range(2):
        assert len(epoch(task, number)) == 11
    out = capsys.readouterr().out
    assert out.count("m.jsonl:6 is left out: not an image in a known format") == 1
    assert np.isfinite(epoch(task, 2).numpy()).all()


class Narrow(torch.nn.Module):
    """Answers each image's mean colour, and no more than `room` images at a time."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.room:
            raise RuntimeError("not enough memory: you tried to allocate 8 bytes")
        return images.mean((2, 3))


def test_a_validation_batch_that_does_not_fit_is_halved_and_the_scores_stay(
    make_task: MakeTask, capsys: pytest.CaptureFixture[str]
) -> None:
    wide, narrow = Narrow(9), Narrow(3)
    whole = make_task().evaluate(wide).metrics
    task = make_task()
    assert task.evaluate(narrow).metrics == whole and wide.seen == [9]
    assert narrow.seen == [9, 5, 3, 2, 4, 2, 2] and task.validation_batch_size == 2
    out = capsys.readouterr().out
    assert "a validation batch of 9 does not fit into memory (not enough memory" in out
    with pytest.raises(TrainingError, match="not enough memory to evaluate a single image"):
        make_task().evaluate(Narrow(0))
