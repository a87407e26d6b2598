"""What a job starts from: refused without weights, and loud about random ones on every run and in the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hub_desk import Hub

from amlocal.compat import hub_look
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs.runners import automl_weights

S = "taskDetails.modelSettings"
PRETRAINED = {f"{S}.advancedSettings": None}
TAG = "amlocal.weights"
RUNS = ("job1", "job1_HD", "job1_HD_0")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub_look.forget()
    made = Hub()
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    yield made
    made.close()
    hub_look.forget()


def refusal(desk: Any, **changes: Any) -> str:
    with pytest.raises(AzureError) as caught:
        desk.service(start=False).submit(desk.workspace, "job1", desk.body(**changes))
    assert (caught.value.status, caught.value.target) == (400, f"{S}.modelName")
    return caught.value.message


def log_of(desk: Any) -> str:
    return str((desk.artifacts("job1_HD_0") / "user_logs" / "std_log.txt").read_text())


def prepared(desk: Any, helpers: Any, **changes: Any) -> None:
    """A job whose trial has been started."""
    desk.service().submit(desk.workspace, "job1", desk.body(**changes))
    helpers.until(lambda: desk.engine.started)


def test_weights_that_only_the_hub_has_are_enough(desk: Any, hub: Hub, helpers: Any) -> None:
    hub.files["timm/resnet18.a1_in1k/model.safetensors"] = b"x"
    prepared(desk, helpers, **PRETRAINED)
    assert [run for run in RUNS if TAG in desk.record(run).tags] == []
    assert "RANDOM" not in log_of(desk).upper()
    assert hub.asked == ["HEAD /timm/resnet18.a1_in1k/resolve/main/model.safetensors"]


def test_weights_that_nobody_has_are_refused_with_what_the_hub_said(desk: Any, hub: Hub) -> None:
    text = refusal(desk, **PRETRAINED)
    assert text.startswith(
        f"Pretrained weights of resnet18 were not found on this machine, and {hub.url} has no such file. "
        "Put the file model.safetensors of https://huggingface.co/timm/resnet18.a1_in1k at "
        f"{desk.root}/weights/resnet18.safetensors"
    )
    for way in ("`amlocal weights pull resnet18`", '{"pretrained": false}', "missing_weights = random"):
        assert way in text
    refusal(desk, **PRETRAINED)
    assert len(hub.asked) == 1


def test_offline_is_said(desk: Any) -> None:
    assert "and the hub is not asked because HF_HUB_OFFLINE is set" in refusal(desk, **PRETRAINED)


@pytest.mark.parametrize("pretrained", [True, False])
def test_random_weights_stand_on_every_run_and_in_the_log(
    desk: Any, hub: Hub, helpers: Any, pretrained: bool
) -> None:
    desk.settings = replace(desk.settings, missing_weights="random")
    changes = {"tags": {"mine": "1", TAG: "all is well"}, **(PRETRAINED if pretrained else {})}
    prepared(desk, helpers, **changes)
    said = (
        f"random: no pretrained weights of resnet18 on this machine, and {hub.url} has no such file; "
        "missing_weights is random"
        if pretrained
        else 'random: advanced_settings say {"pretrained": false}'
    )
    assert {run: desk.record(run).tags[TAG] for run in RUNS} == dict.fromkeys(RUNS, said)
    assert desk.record("job1").tags["mine"] == "1"
    assert f"WARNING: NO PRETRAINED WEIGHTS: {said}\n" in log_of(desk)
    assert len(hub.asked) == pretrained


def test_a_tag_of_the_users_own_does_not_lie(desk: Any, hub: Hub, helpers: Any) -> None:
    hub.files["timm/resnet18.a1_in1k/model.safetensors"] = b"x"
    prepared(desk, helpers, tags={TAG: "random: really"}, **PRETRAINED)
    assert [run for run in RUNS if TAG in desk.record(run).tags] == []


@pytest.mark.parametrize(
    ("told", "tag"),
    [
        ({"file": None, "random": "the download failed: 503"}, "random: the download failed: 503"),
        ({"file": "/w/resnet18.safetensors", "random": None}, None),
        (None, None),
    ],
)
def test_a_trial_that_had_to_start_from_random_weights_says_so_at_its_end(
    desk: Any, hub: Hub, helpers: Any, told: Any, tag: str | None
) -> None:
    hub.files["timm/resnet18.a1_in1k/model.safetensors"] = b"x"

    def train(engine: Any, job: Any) -> None:
        if told is not None:
            (job.job_dir / automl_weights.STARTED).write_text(json.dumps(told))
        helpers.train(engine, job)

    desk.engine.on_submit = train
    desk.service().submit(desk.workspace, "job1", desk.body(**PRETRAINED))
    helpers.until(lambda: desk.record("job1").state.value == "Completed")
    assert {run: desk.record(run).tags.get(TAG) for run in RUNS} == dict.fromkeys(RUNS, tag)
    assert desk.record("job1").tags["automl_best_child_run_id"] == "job1_HD_0"


def test_a_hugging_face_model_needs_its_config_even_without_weights(desk: Any) -> None:
    own = {f"{S}.modelName": "acme/tiny-vit"}
    folder = desk.root / "weights" / "acme--tiny-vit"
    text = refusal(desk, **own)
    assert text.startswith(
        "The file config.json of acme/tiny-vit was found neither in the weights folder nor"
    )
    assert f"into {folder} (on a connected machine `amlocal weights pull acme/tiny-vit` gets them)" in text
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "vit"}')
    assert "architectures in" in refusal(desk, **own)
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    assert "model.safetensors and preprocessor_config.json of https://huggingface.co/acme/tiny-vit into " in (
        refusal(desk, **own, **PRETRAINED)
    )
    record, _ = desk.service(start=False).submit(desk.workspace, "job1", desk.body(**own))
    assert record.tags[TAG] == 'random: advanced_settings say {"pretrained": false}'


def test_a_folder_of_ones_own_needs_its_weights(desk: Any) -> None:
    folder = desk.root / "weights" / "scans-2024"
    own = {f"{S}.modelName": "scans-2024"}
    assert f"into {folder}" in refusal(desk, **own)
    folder.mkdir(parents=True)
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    assert "a folder of your own is on no hub" in refusal(desk, **own, **PRETRAINED)
    (folder / "model.safetensors").write_bytes(b"x")
    record, created = desk.service(start=False).submit(desk.workspace, "job1", desk.body(**own, **PRETRAINED))
    assert created and TAG not in record.tags
